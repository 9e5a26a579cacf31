"""Somebody's own sounds, few clips a label: what `flexiast train` buys with its defaults, beside its parts.

python -m benchmarks.own_sounds DATA

DATA holds esc50, english, speakers and commands. A fifth of the clips drawn validates, as it does for a folder without
a split; all figures are of test clips that the run never sees. Each task starts from a shipped model that has heard
none of its labels. Tasks whose name ends in "-known" take the start that `train` takes, which was trained on these
very labels: upper bounds.
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
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.base_sounds import may_teach
from benchmarks.measure import heading
from flexiast.checkpoint import load_checkpoint
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, load_model
from flexiast.training.batches import LogMels
from flexiast.training.recipe import Augment
from flexiast_cli.commands.train.prepare import SAMPLE_RATE_HZ
from flexiast_cli.commands.train.start import measure_baseline

SIZES = (8, 16, 24, 32, 40)
"""That are printed; all that fit are trained."""

TEST_CLIPS = 20
"""Of each label, in each test set."""

STANDING_STILL = ("--epochs", "1", "--learning-rate", "1e-30")
"""Options of a run that keeps the linear head that it begins with."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Row(NamedTuple):
    path: Path
    label: str
    split: str
    """train, or the name of a test set."""


class Task(NamedTuple):
    """A set of own sounds."""

    folder: str
    labels: int
    start: str | None
    """A shipped model that has heard none of it; None: the one that `train` takes."""


TASKS = {
    "digits": Task("commands", 10, "commands"),
    "words": Task("english", 14, "commands-ar"),
    "keywords": Task("commands", 20, "commands"),
    "voices": Task("speakers", 20, "commands-ar"),
    "household": Task("esc50", 10, "commands"),
    "digits-known": Task("commands", 10, None),
    "household-known": Task("esc50", 10, None),
    "esc50-known": Task("esc50", 50, None),
}


def list_rows(data: Path, name: str) -> list[Row]:
    """All clips of a task's labels."""
    task, folder = TASKS[name], data / TASKS[name].folder
    with (folder / "metadata.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["label"]]
    if name.startswith("digits"):
        return list(_list_digits(folder, table))
    if task.folder == "esc50":
        table = [row | {"split": "train" if row["fold"] in "123" else "val"} for row in table]
        if task.labels < 50:  # outside ESC-10, which a base model may have heard
            table = [row for row in table if row["esc10"] == "0"]
    if task.folder == "speakers":
        table = [row for row in table if not may_teach(row["label"])]
    labels = sorted({row["label"] for row in table})
    kept = set(np.random.default_rng(0).permutation(labels)[: task.labels].tolist())
    splits = {"train": "train", "val": "test"}
    return [Row(folder / row["path"], row["label"], splits[row["split"]]) for row in table if row["label"] in kept]


def _list_digits(folder: Path, table: Sequence[Mapping[str, str]]) -> Iterator[Row]:
    """Eight takes of five speakers train; their other takes, and takes of other speakers, test."""
    speakers = sorted({row["speaker"] for row in table if row["split"] == "train"})
    for row in table:
        if row["label"] not in DIGITS:
            continue
        if row["speaker"] in speakers[:5]:
            yield Row(folder / row["path"], row["label"], "train" if int(row["round"]) <= 8 else "takes")
        elif row["split"] == "val":
            yield Row(folder / row["path"], row["label"], "speakers")


def draw_clips(rows: Sequence[Row], clips: int, seed: int) -> list[Row]:
    """So many clips a label by the seed, a fifth of which validates; the test clips are always the same."""
    drawn: list[Row] = []
    for split in sorted({row.split for row in rows}):
        is_train = split == "train"
        counts: dict[str, int] = defaultdict(int)
        mine = [row for row in rows if row.split == split]
        for place in np.random.default_rng(seed if is_train else 0).permutation(len(mine)):
            row = mine[place]
            counts[row.label] += 1
            if is_train and counts[row.label] <= max(1, round(clips / 5)):
                row = row._replace(split="val")
            if counts[row.label] <= (clips if is_train else TEST_CLIPS):
                drawn.append(row)
    return drawn


def run_train(table: Path, run: Path, options: Sequence[str]) -> float:
    """`flexiast train` as a user starts it → minutes of CPU time."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "flexiast_cli.main", "train", str(table), "-o", str(run), *options]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def measure_row(rows: Sequence[Row], start: str | None, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of baseline, head and each size on each test set, and CPU minutes."""
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "own.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
        options = ("--seed", str(seed), *(() if start is None else ("--init", start)))
        minutes = run_train(table, Path(place) / "run", options)
        run_train(table, Path(place) / "head", options + STANDING_STILL)
        tests = sorted({row.split for row in rows} - {"train", "val"})
        return {test: measure_test(table, test) | {"minutes": minutes} for test in tests}


def measure_test(table: Path, test: str) -> dict[str, float]:
    """Accuracy of the runs beside a table on one of its test sets."""
    dataset = read_dataset(table)
    train, clips, _ = load_waveforms(dataset.split("train"), SAMPLE_RATE_HZ)
    tested, waveforms, _ = load_waveforms(dataset.split(test), SAMPLE_RATE_HZ)
    results_by_run = {}
    for name in ("head", "run"):
        checkpoint = load_checkpoint(table.with_name(name) / "checkpoint.safetensors")
        spec = checkpoint.spec
        windows, targets = Windows(waveforms, Frontend(spec.frontend)), tested.targets(spec.labels)
        classifier = TorchClassifier(load_model(checkpoint))
        results_by_run[name] = evaluate(classifier, windows, targets, spec.trained_patches)
    log_mels = LogMels(clips, spec.frontend, Augment(speed=0.0))
    baseline = measure_baseline(spec, log_mels, train.label_targets(spec.labels), waveforms, targets)
    means = {name: float(np.mean([result.metric for result in results])) for name, results in results_by_run.items()}
    sizes = {result.patch_size.short: result.metric for result in results_by_run["run"]}
    start = json.loads((table.with_name("run") / "run.json").read_text())["start"]
    print(f"{test}: starts from {start}, {sizes}", file=sys.stderr)
    return means | sizes | {"baseline": baseline}


def format_row(name: str, clips: int, found: Sequence[Mapping[str, float]]) -> str:
    """Means over the seeds, with the standard deviation of the mean over sizes."""
    columns = ["baseline", "head", *map(str, SIZES), "run"]
    cells = [f"{100 * np.mean([one[name] for one in found]):.1f}" if name in found[0] else "" for name in columns]
    spread = f" ± {100 * np.std([one['run'] for one in found]):.1f}" if len(found) > 1 else ""
    minutes = float(np.mean([one["minutes"] for one in found]))
    return f"| {name} | {clips} | {' | '.join(cells)}{spread} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_sounds")
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--clips", type=int, nargs="*", default=[5, 10, 20, 40], help="Clips a label.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    heading("Own sounds: accuracy in %, test clips")
    print("| task | clips a label | baseline | head | " + " | ".join(map(str, SIZES)) + " | mean | CPU min |")
    print("|---" * (6 + len(SIZES)) + "|")
    for name in given.tasks:
        rows = list_rows(given.data.resolve(), name)
        for clips in given.clips:
            found = [measure_row(draw_clips(rows, clips, seed), TASKS[name].start, seed) for seed in given.seeds]
            for test in found[0]:
                title = name if test == "test" else f"{name}, other {test}"
                print(format_row(title, clips, [one[test] for one in found]), flush=True)


if __name__ == "__main__":
    main()
