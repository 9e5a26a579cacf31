"""Three labels of 24 clips, as in the README: what a background, two rounds of mining and a budget are worth.

python -m benchmarks.newcomer DATA BACKGROUND ASIDE [--work FOLDER]

DATA holds esc50: folds 1 to 3 train, fold 4 is mixed into streams. BACKGROUND holds folders of recordings, one for each
kind, such as speech, music and noise. They are dealt out by file: to the training, to `flexiast mine`, to `flexiast
calibrate`. ASIDE is the same of other recordings, which no model has heard; there everything is measured. Every step is
a command with its defaults.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.measure import heading
from flexiast.data.search import search_folder

LABELS = ("door_wood_knock", "glass_breaking", "mouse_click")
"""Outside ESC-10, which may be part of a background"""
USES = ("background", "hours", "calibration")
"""Of recordings, in turn: `train`, `mine`, `calibrate`"""
SILENCE_MINUTES, SILENCE_DBFS = 10, -60.0
RATE_HZ = 16_000
SIZES = "16,48"
SNRS = ("quiet", "10")
KINDS = ("speech", "music", "noise", "silence")


def write_clips(esc50: Path, folds: Sequence[str], to: Path) -> None:
    """A folder for each label, with links to its clips."""
    with (esc50 / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in LABELS and row["fold"] in folds]
    for row in rows:
        clip = esc50 / row["path"]
        link = to / row["label"] / clip.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(clip.resolve())


def deal_out(background: Path, to: Path) -> None:
    """Links to the recordings of each kind, in turn to the three uses: to/<use>/<kind>/<number>-<file>."""
    for kind in sorted(path for path in background.iterdir() if path.is_dir()):
        for number, recording in enumerate(search_folder(kind).files):
            link = to / USES[number % len(USES)] / kind.name / f"{number}-{recording.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(recording.resolve())


def write_silence(to: Path) -> None:
    """A quiet room."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=10 ** (SILENCE_DBFS / 20), size=SILENCE_MINUTES * 60 * RATE_HZ)
    to.mkdir()
    soundfile.write(to / "noise.flac", noise, RATE_HZ)


class Newcomer:
    """Runs the commands in one folder, and counts the CPU time of training."""

    def __init__(self, work: Path, aside: Path) -> None:
        self.work = work
        self.aside = aside
        self.minutes = 0.0

    def call(self, *arguments: str) -> str:
        """One command with a clean environment → what it prints; its messages go to a log."""
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        with (self.work / "messages.log").open("a") as messages:
            print("$ flexiast", *arguments, file=messages, flush=True)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-m", "flexiast_cli.main", *arguments],
                cwd=self.work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                check=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if arguments[0] == "train":
            self.minutes += (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
        return done.stdout

    def train(self, run: str, *options: str) -> str:
        """→ bundle"""
        self.call("train", "sounds", "-o", run, *options)
        self.call("export", run, "-o", f"{run}.bundle")
        return f"{run}.bundle"

    def _aside(self) -> tuple[str, ...]:
        return "--background", str(self.aside), "--background", "silence"

    def measure(self, name: str, bundle: str) -> None:
        """Prints a row for each size."""
        options = ("--snr", ",".join(SNRS), "--patch-sizes", SIZES, "--json")
        document = json.loads(self.call("evaluate", bundle, "--mix", "aside", *self._aside(), *options))
        for result in document["results"]:
            print(format_row(name, result, self.minutes), flush=True)


def format_row(name: str, result: dict[str, Any], minutes: float) -> str:
    """A row of the table: recall at each ratio, then false events an hour in each kind of background."""
    recall = [result["recall_by_snr_db"][snr]["share"] for snr in SNRS]
    rates = {one["kind"]: one["per_hour"] for one in result["false_events"]}
    cells = [result["patch_size"], *(f"{share:.2f}" for share in recall)]
    cells += [f"{rates[kind]:.0f}" if kind in rates else "–" for kind in KINDS]
    return f"| {name} | {' | '.join(cells)} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.newcomer")
    parser.add_argument("data", type=Path)
    parser.add_argument("background", type=Path)
    parser.add_argument("aside", type=Path)
    parser.add_argument("--work", type=Path, help="A new folder to work in, which stays.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        write_clips(given.data / "esc50", ("1", "2", "3"), work / "sounds")
        write_clips(given.data / "esc50", ("4",), work / "aside")
        deal_out(given.background, work)
        write_silence(work / "silence")
        newcomer = Newcomer(work, given.aside.resolve())
        heading("Three labels of 24 clips: recall, and false events an hour")
        columns = ("", "patch", "recall, quiet", "10 dB", *KINDS, "CPU min of training")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        newcomer.measure("no background", newcomer.train("alone"))
        background: tuple[str, ...] = ("--background", "background")
        bundle = newcomer.train("first", *background)
        newcomer.measure("with a background", bundle)
        for number, run in enumerate(("second", "third")):
            newcomer.call("mine", bundle, "hours", "-o", f"hard{number}.csv")
            background = (*background, "--background", f"hard{number}.csv")
            bundle = newcomer.train(run, *background)
            newcomer.measure(f"mined, round {number + 1}", bundle)
        budget = ("--background", "calibration", "--false-alarms-per-hour", "0.5")
        newcomer.call("calibrate", bundle, *budget, "-o", "budget.bundle")
        newcomer.measure("calibrated, 0.5 an hour", "budget.bundle")


if __name__ == "__main__":
    main()
