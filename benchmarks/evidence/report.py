"""``docs/results/*.json`` → ``docs/results.md`` and its plots."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.evidence.bars import bars
from benchmarks.evidence.curves import Curve, read_curves
from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, UNSEEN
from benchmarks.evidence.plots import plot_accuracy
from benchmarks.evidence.running import RESULTS, ROOT
from benchmarks.evidence.sounds import section as sounds
from benchmarks.evidence.tables import table
from flexiast.spec import ALL_PATCHES, PatchSize
from flexiast_cli.terminal.console import count_noun

DOCS = ROOT / "docs"


def report(docs: Path = DOCS, results: Path = RESULTS) -> None:
    """Write results.md and its plots from the results there are."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    latency = documents.pop("latency", None)
    ensembles = [documents.pop(name) for name in list(documents) if name.startswith("ensemble-")]
    runs = list(documents.values())
    curves = read_curves(runs)
    parts = [INTRODUCTION.format(machine=_machines(runs), dates=_dates(runs))]
    for task in TASKS:
        chosen = {name: curves[f"{task}/{name}"] for name in ABOUT if f"{task}/{name}" in curves}
        if chosen:
            _plots(task, chosen, None if latency is None else latency["cpu_ms"][task], docs)
            parts.append(_section(task, chosen, [run for run in runs if run["experiment"].startswith(f"{task}/")]))
            parts += [_ensemble(found) for found in ensembles if found["experiment"] == f"{task}/ensemble"]
    if latency is not None:
        parts.append(_latency(latency))
    if (results / "sounds").is_dir():
        parts.append(sounds(results / "sounds"))
    (docs / "results.md").write_text("\n".join(parts))


INTRODUCTION = """# Results

Written by `python -m benchmarks.evidence report` from the runs in [`results/`](results), one JSON file each, which
names the command that made it: `python -m benchmarks.evidence run NAME --data FOLDER --teacher RUN`, with `--fold` and
`--seed`; `list` names them. {dates}; {machine}.

All runs down to the last section are pico (0.2 M parameters), from scratch, without outside data. A convolutional
teacher, trained on the same clips by a recipe in [`recipes/`](../recipes) (for esc50 `sounds-teacher-small.toml`), has
nine tenths of the loss. Model and budgets are small, so that dozens of runs fit on a laptop: compare runs with one
another, not with the shipped models or with papers. Within a task all runs see the same clips equally often, unless a
row says otherwise. The last step is measured, on the validation split, which chose nothing but the teacher's best
measurement.

± is the standard deviation over runs, whose number the tables give. A figure moves with its seed by one to five points,
and by its clips (one standard error of 2,400 is 0.8 points at 80 %, of 400 it is 2): a point or two between single runs
says little. Differences are those between runs of one fold and seed.
"""

ABOUT = {
    "fixed-8": "trained at 8 × 8 only",
    "fixed-16": "trained at 16 × 16 only",
    "fixed-32": "trained at 32 × 32 only",
    "flexible": "trained at 16 × 16 for 0.4 of the run, then at all ten sizes: the default",
    "bilinear": "flexible, but the kernel is resized as an image is, with the same antialias",
    "stretched": "flexible, but positions are stretched over the grid, not sampled at the patches' true centres",
    "cropped": "flexible, but what a patch does not divide is cut off and positions stretched, as in the public code",
    "base-32": "flexible, kernel and positions stored at 32 × 32, the one size of its first 0.4",
    "all-at-once": "flexible, all sizes from the first step",
    "constant-tokens": "flexible, batches grow as patches grow",
    "finer-often": "flexible, sizes up to 16 are drawn three times as often",
    "coarser-often": "flexible, 30 and 32 are drawn twice as often, 40 and 48 three times",
    "few-sizes": "trained at 8, 16, 32 and 48 only",
    "in-place": "flexible, each step's answers also teach the coarsest size",
    "untaught": "flexible, from the labels alone",
    "masked-start": "flexible, from a network that first learnt for as long, without labels, what a mask hid",
    "masked-in-place": "masked-start and in-place together",
    "twice-as-long": "flexible, twice the epochs: what a masked start costs",
    "twice-in-place": "in-place, twice the epochs",
    "fixed-16x8": "trained at 16 × 8 only",
    "fixed-16x32": "trained at 16 × 32 only",
    "time-only": "flexible, at the ten sizes 16 × t",
    "time-only-in-place": "time-only, each step's answers also teach 16 × 48",
    "time-only-twice-in-place": "time-only-in-place, twice the epochs",
    "mel-only": "flexible, at the ten sizes f × 16",
}


def _section(task: str, curves: dict[str, Curve], runs: list[dict[str, Any]]) -> str:
    families = {name: _family(task, name) for name in curves}
    square = {name: curve for name, curve in curves.items() if families[name] is None}
    lines = [
        f"## {task}\n",
        f"{_splits(runs)}. {TASKS[task].epochs} epochs.\n",
        f"![{task}](results-{task}.png)\n",
        table(ALL_PATCHES, square),
        *(f"- **{name}**: {ABOUT[name]}; {_budget(task, name, runs)}." for name in curves),
    ]
    for family, sizes in FAMILIES.items():
        mine = {name: curve for name, curve in curves.items() if families[name] == family}
        if mine:
            lines += [f"\nSizes {family}:\n", table(sizes, mine).rstrip()]
            lines += [f"\n![{task}, {family}](results-{task}-time.png)"] if family == "16 × t" else []
    if "flexible" in curves:
        lines += ["\nSizes that no run trained:\n", table(UNSEEN, square)]
        lines.append(bars(curves, {name: _minutes(task, name, runs) for name in curves}))
        lines += _verdicts(curves)
    return "\n".join(lines).rstrip() + "\n"


def _family(task: str, name: str) -> str | None:
    """Of experiments whose patches vary along one axis, which."""
    trained = set(EXPERIMENTS[f"{task}/{name}"].recipe.training.patches)
    square = all(patch.mels == patch.frames for patch in trained)
    return None if square else next(family for family, sizes in FAMILIES.items() if trained <= set(sizes))


def _plots(task: str, curves: dict[str, Curve], latency: dict[str, float] | None, docs: Path) -> None:
    """Accuracy against operations and, where it was measured, against the time of a window in an engine."""
    costs = {"GMAC a window": next(iter(curves.values())).gmac}
    if latency is not None:
        costs["CPU ms a window, one thread"] = {PatchSize.parse(size): ms for size, ms in latency.items()}
    shown = ("flexible", "fixed-8", "fixed-16", "fixed-32", "twice-in-place")
    squares = {name: curves[name] for name in shown if name in curves}
    plot_accuracy(
        docs / f"results-{task}.png",
        f"{task}: flexible models and fixed ones, each at all sizes",
        squares,
        ALL_PATCHES,
        costs,
    )
    if "time-only-twice-in-place" in curves:
        rivals = ("time-only-twice-in-place", "fixed-16x8", "fixed-16", "fixed-16x32")
        along = {name: curves[name] for name in rivals if name in curves}
        plot_accuracy(
            docs / f"results-{task}-time.png",
            f"{task}: patches of 16 mel bins and 8 to 48 frames",
            along,
            FAMILIES["16 × t"],
            {"GMAC a window": along["time-only-twice-in-place"].gmac},
        )


def _splits(runs: list[dict[str, Any]]) -> str:
    """What validates: a split, or folds in turn."""
    rules = sorted({run["split"] for run in runs})
    if len(rules) == 1:
        return rules[0].capitalize()
    return f"{len(rules)} folds validate in turn, the others train"


def _ensemble(found: dict[str, Any]) -> str:
    """Mean answers of several sizes; one row for fixed models, one for each flexible one."""
    sizes = list(found["accuracy"]["fixed"])
    rows = [
        f"Answers of several sizes, averaged: three fixed models against one flexible ({found['split']}, seed "
        f"{found['seed']}; `python -m benchmarks.evidence ensemble`)\n",
        "| | " + " | ".join(sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for kind, accuracy in found["accuracy"].items():
        rows.append(f"| {kind} | " + " | ".join(f"{100 * accuracy[size]:.1f}" for size in sizes) + " |")
    return "\n".join(rows) + "\n"


def _latency(latency: dict[str, Any]) -> str:
    """CPU time of one window in an engine."""
    sizes = [str(patch) for patch in ALL_PATCHES]
    rows = [
        "## Time of one window\n",
        f"CPU ms in an engine on one thread, {latency['written'][:10]} (`python -m benchmarks.evidence latency`)\n",
        "| | " + " | ".join(str(patch.mels) for patch in ALL_PATCHES) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for task, taken in latency["cpu_ms"].items():
        rows.append(f"| {task} | " + " | ".join(f"{taken[size]:.2f}" for size in sizes) + " |")
    return "\n".join(rows) + "\n"


def _budget(task: str, name: str, runs: list[dict[str, Any]]) -> str:
    steps = next(run["steps"] for run in runs if run["experiment"] == f"{task}/{name}")
    return f"{steps:,} steps, {_minutes(task, name, runs):.0f} minutes of CPU a run"


def _minutes(task: str, name: str, runs: list[dict[str, Any]]) -> float:
    """CPU time of a run; what the teacher took is not in it."""
    mine = [run for run in runs if run["experiment"] == f"{task}/{name}"]
    return statistics.mean(run["cpu_s"] + run["start_cpu_s"] for run in mine) / 60


RIVALS = {
    "bilinear": "PI-resize against the bilinear kernel",
    "stretched": "True centres against stretched positions",
    "cropped": "Padding against cropping",
    "base-32": "Base 16 against base 32",
    "all-at-once": "The base size first against all at once",
    "constant-tokens": "Constant clips against constant tokens",
    "finer-often": "All sizes alike against fine ones more often",
    "coarser-often": "All sizes alike against coarse ones more often",
    "in-place": "The teacher alone against in-place distillation beside it",
    "untaught": "A teacher against labels alone",
    "masked-start": "From scratch against a masked start",
    "masked-in-place": "Neither against a masked start with in-place distillation",
    "twice-as-long": "Once against twice the epochs",
    "twice-in-place": "Once against in-place distillation and twice the epochs",
}


def _verdicts(curves: dict[str, Curve]) -> list[str]:
    """The questions of the experiments, answered by the figures whatever they are."""
    lines = []
    for rival, what in RIVALS.items():
        if rival in curves:
            pairs = [curves["flexible"].over(curves[rival], patch) for patch in ALL_PATCHES]
            gains = [statistics.mean(points) for points in pairs]
            lines.append(
                f"- {what}: {statistics.mean(gains):+.1f} points on average over the ten sizes, "
                f"{min(gains):+.1f} to {max(gains):+.1f} ({count_noun(len(pairs[0]), 'pair')})."
            )
    return lines


FAMILIES = {
    "16 × t": EXPERIMENTS["speakers/time-only"].recipe.training.patches,
    "f × 16": EXPERIMENTS["speakers/mel-only"].recipe.training.patches,
}
"""Sizes that vary along one axis."""


def _machines(runs: list[dict[str, Any]]) -> str:
    machines = [run["machine"] for run in runs]
    return " and ".join(sorted({f"{m['accelerator'] or m['processor']}, {m['threads']} thread" for m in machines}))


def _dates(runs: list[dict[str, Any]]) -> str:
    dates = sorted(run["written"][:10] for run in runs)
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
