"""Somebody's own sounds, few clips a label: what `flexiast train` buys with its defaults, beside its parts.

python -m benchmarks.own_sounds DATA

DATA holds esc50, english, speakers and commands. Each task begins with a shipped model that has heard none of it:
`sounds` knows ESC-50, `commands` the English words, `commands-ar` the Arabic ones. Household sounds train on folds 1 to
3 and validate on fold 4; words validate on other speakers; voices on other clips of the same twenty people.
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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.base_sounds import may_teach
from benchmarks.measure import heading
from flexiast.spec import PatchSize

SIZES = (8, 16, 24, 32, 40)
"""That are printed; all that fit are trained."""

VALIDATION_CLIPS = 20
"""Of each label."""


class Task(NamedTuple):
    """A set of own sounds."""

    folder: str
    labels: int
    start: str
    """A shipped model that has heard none of it."""


TASKS = {
    "household": Task("esc50", 10, "commands"),
    "words": Task("english", 14, "commands-ar"),
    "voices": Task("speakers", 20, "commands-ar"),
    "keywords": Task("commands", 20, "commands"),
}

Row = tuple[Path, str, str]
"""Path, label, train or val."""


def list_rows(data: Path, task: Task) -> list[Row]:
    """All clips of a task's labels."""
    folder = data / task.folder
    with (folder / "metadata.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    if task.folder == "esc50":  # outside ESC-10, which a base model may have heard
        rows = [row | {"split": "val" if row["fold"] == "4" else "train"} for row in rows if row["esc10"] == "0"]
    if task.folder == "speakers":
        rows = [row for row in rows if not may_teach(row["label"])]
    labels = sorted({row["label"] for row in rows})
    kept = set(np.random.default_rng(0).permutation(labels)[: task.labels].tolist())
    return [(folder / row["path"], row["label"], row["split"]) for row in rows if row["label"] in kept]


def draw_clips(rows: Sequence[Row], clips: int, seed: int) -> list[Row]:
    """So many training clips a label, by the seed; the validation clips are always the same."""
    drawn: list[Row] = []
    for split, most, number in (("train", clips, seed), ("val", VALIDATION_CLIPS, 0)):
        counts: dict[str, int] = defaultdict(int)
        mine = [row for row in rows if row[2] == split]
        for place in np.random.default_rng(number).permutation(len(mine)):
            counts[mine[place][1]] += 1
            if counts[mine[place][1]] <= most:
                drawn.append(mine[place])
    return drawn


def run_train(rows: Sequence[Row], start: str, seed: int) -> dict[str, float]:
    """`flexiast train` with its defaults → accuracy of baseline, head and each size, and CPU minutes."""
    with tempfile.TemporaryDirectory() as place:
        table, run = Path(place) / "own.csv", Path(place) / "run"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
        options = (str(table), "-o", str(run), "--init", start, "--seed", str(seed))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "flexiast_cli.main", "train", *options],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        document = json.loads((run / "run.json").read_text())
        with (run / "metrics.jsonl").open() as file:
            head = json.loads(file.readline())["metric"]
    found = {PatchSize.parse(one["patch_size"]).short: one["accuracy"] for one in document["validation"]}
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    parts = {"baseline": document["baseline"], "head": float(np.mean(list(head.values()))), "minutes": seconds / 60}
    return found | parts | {"mean": float(np.mean(list(found.values())))}


def format_row(task: str, clips: int, found: Sequence[dict[str, float]]) -> str:
    """Means over the seeds, with the standard deviation of the mean over sizes."""
    columns = ["baseline", "head", *map(str, SIZES), "mean"]
    cells = [f"{100 * np.mean([one[name] for one in found]):.1f}" if name in found[0] else "" for name in columns]
    spread = 100 * np.std([one["mean"] for one in found])
    minutes = float(np.mean([one["minutes"] for one in found]))
    return f"| {task} | {clips} | {' | '.join(cells)} ± {spread:.1f} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_sounds")
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--clips", type=int, nargs="*", default=[5, 10, 20, 40], help="Training clips a label.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--init", help="A start for all tasks instead of one that has heard none of it.")
    given = parser.parse_args()
    heading("Own sounds: accuracy in %, validation clips")
    print("| task | clips a label | baseline | linear head | " + " | ".join(map(str, SIZES)) + " | mean | CPU min |")
    print("|---" * (6 + len(SIZES)) + "|")
    for name in given.tasks:
        task = TASKS[name]
        rows = list_rows(given.data.resolve(), task)
        for clips in given.clips:
            found = [run_train(draw_clips(rows, clips, seed), given.init or task.start, seed) for seed in given.seeds]
            print(format_row(name, clips, found), flush=True)


if __name__ == "__main__":
    main()
