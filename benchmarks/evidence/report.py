"""``docs/results/*.json`` → ``docs/results.md`` and its plots."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, UNSEEN
from flexiast.spec import ALL_PATCHES, PatchSize

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "results"


class Curve(NamedTuple):
    """Accuracy at each size, over the folds and seeds of one experiment."""

    runs: int
    mean: dict[PatchSize, float]
    std: dict[PatchSize, float]
    gmac: dict[PatchSize, float]


def report(docs: Path = DOCS, results: Path = RESULTS) -> None:
    """Write results.md and its plots from the results there are."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    curves = _curves(runs)
    parts = [INTRODUCTION.format(machine=_machines(runs), dates=_dates(runs))]
    for task in TASKS:
        chosen = {name: curves[f"{task}/{name}"] for name in _names(task) if f"{task}/{name}" in curves}
        if chosen:
            _plot(task, chosen, docs)
            parts.append(_section(task, chosen, [run for run in runs if run["experiment"].startswith(f"{task}/")]))
    (docs / "results.md").write_text("\n".join(parts))


INTRODUCTION = """# Results

Written by `python -m benchmarks.evidence report` from the runs in [`results/`](results), one JSON file each, made by
`python -m benchmarks.evidence run NAME --data FOLDER`; `list` names them. {dates}; {machine}.

All runs are nano (1.2 M parameters), from scratch, without outside data and without a teacher. Budgets are small, so
that dozens of runs fit on a laptop: compare runs with one another, not with the shipped models or with papers. Within a
task all runs see the same clips equally often. The last step is measured, on the validation split, which chose nothing.
One run's figure moves by about a point with its seed (one standard error of 2,400 clips is 0.6, of 400 clips 2).
"""

ABOUT = {
    "fixed-8": "trained at 8 × 8 only",
    "fixed-16": "trained at 16 × 16 only",
    "fixed-32": "trained at 32 × 32 only",
    "flexible": "trained at all ten sizes, coarse ones first: the default",
    "bilinear": "flexible, but the kernel is resized as an image is, with the same antialias",
    "stretched": "flexible, but positions are stretched over the grid, not sampled at the patches' true centres",
    "cropped": "flexible, but what a patch does not divide is cut off and positions stretched, as in the public code",
    "base-32": "flexible, kernel and positions stored at 32 × 32",
    "all-at-once": "flexible, all sizes from the first step",
    "constant-tokens": "flexible, batches grow as patches grow",
    "in-place": "flexible, each step's answers also teach the coarsest size",
    "few-sizes": "trained at 8, 16, 32 and 48 only",
    "time-only": "speakers: sizes 16 × t",
    "mel-only": "speakers: sizes f × 16",
}


def _names(task: str) -> list[str]:
    return [name for name in ABOUT if f"{task}/{name}" in EXPERIMENTS]


def _curves(runs: list[dict[str, Any]]) -> dict[str, Curve]:
    found: dict[str, dict[PatchSize, list[float]]] = defaultdict(lambda: defaultdict(list))
    gmac: dict[str, dict[PatchSize, float]] = defaultdict(dict)
    for run in runs:
        for result in run["results"]:
            patch = PatchSize.parse(result["patch_size"])
            found[run["experiment"]][patch].append(result["accuracy"])
            gmac[run["experiment"]][patch] = result["gmac"]
    return {
        key: Curve(
            runs=max(map(len, sizes.values())),
            mean={patch: statistics.mean(values) for patch, values in sizes.items()},
            std={patch: statistics.stdev(values) for patch, values in sizes.items() if len(values) > 1},
            gmac=gmac[key],
        )
        for key, sizes in found.items()
    }


def _section(task: str, curves: dict[str, Curve], runs: list[dict[str, Any]]) -> str:
    lines = [f"## {task}\n", f"{runs[0]['split']}; {TASKS[task].epochs} epochs.\n", f"![{task}](results-{task}.png)\n"]
    lines.append(_table(ALL_PATCHES, curves))
    lines += [f"- **{name}**: {ABOUT[name]}; {_budget(task, name, runs)}." for name in curves]
    if "flexible" in curves:
        lines.append("\nSizes that no run trained:\n")
        lines.append(_table(UNSEEN, curves))
        lines += _verdicts(curves)
    return "\n".join(lines) + "\n"


def _table(sizes: tuple[PatchSize, ...], curves: dict[str, Curve]) -> str:
    some = next(iter(curves.values()))
    shown = [patch for patch in sizes if patch in some.mean or any(patch in curve.mean for curve in curves.values())]
    rows = ["| | runs | " + " | ".join(str(patch.mels) for patch in shown) + " |", "|---" * (len(shown) + 2) + "|"]
    for name, curve in curves.items():
        cells = [_cell(curve, patch) for patch in shown]
        rows.append(f"| {name} | {curve.runs} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(curve: Curve, patch: PatchSize) -> str:
    if patch not in curve.mean:
        return ""
    spread = f" ± {100 * curve.std[patch]:.1f}" if patch in curve.std else ""
    return f"{100 * curve.mean[patch]:.1f}{spread}"


def _budget(task: str, name: str, runs: list[dict[str, Any]]) -> str:
    mine = [run for run in runs if run["experiment"] == f"{task}/{name}"]
    minutes = statistics.mean(run["cpu_s"] for run in mine) / 60
    return f"{mine[0]['steps']:,} steps, {minutes:.0f} minutes of CPU a run"


def _verdicts(curves: dict[str, Curve]) -> list[str]:
    """The questions of the issue, answered by the figures whatever they are."""
    flexible = curves["flexible"].mean
    lines = []
    for size in (8, 16, 32):
        patch = PatchSize(size, size)
        if f"fixed-{size}" in curves:
            fixed = curves[f"fixed-{size}"].mean[patch]
            lines.append(
                f"- Flexible against fixed at {size}: {100 * flexible[patch]:.1f} against {100 * fixed:.1f} "
                f"({100 * (flexible[patch] - fixed):+.1f} points)."
            )
    kept = flexible[PatchSize(48, 48)] / flexible[PatchSize(16, 16)]
    lines.append(f"- 48 × 48 keeps {kept:.3f} of the accuracy at 16 × 16.")
    lines.append(f"- Unseen sizes under the line through their trained neighbours: {_gaps(flexible)}.")
    for rival, what in (("bilinear", "PI-resize"), ("stretched", "true centres"), ("cropped", "padding")):
        if rival in curves:
            gains = [flexible[patch] - curves[rival].mean[patch] for patch in ALL_PATCHES if patch in flexible]
            lines.append(
                f"- {what} against {rival}: {100 * statistics.mean(gains):+.1f} points on average, "
                f"{100 * min(gains):+.1f} to {100 * max(gains):+.1f}."
            )
    return lines


def _gaps(mean: dict[PatchSize, float]) -> str:
    """Points under the straight line between trained neighbours, for each unseen size that has two."""
    trained, found = [patch.mels for patch in ALL_PATCHES], []
    for patch in UNSEEN:
        below = [size for size in trained if size < patch.mels]
        above = [size for size in trained if size > patch.mels]
        if below and above and patch in mean:
            low, high = max(below), min(above)
            share = (patch.mels - low) / (high - low)
            line = (1 - share) * mean[PatchSize(low, low)] + share * mean[PatchSize(high, high)]
            found.append(f"{patch.mels}: {100 * (line - mean[patch]):+.1f}")
    return ", ".join(found)


def _plot(task: str, curves: dict[str, Curve], docs: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    styles = {"flexible": ("#2a7f62", 2.2), "fixed-8": ("#b3541e", 1.2), "fixed-16": ("#7a4fa3", 1.2)}
    for name, curve in curves.items():
        if name not in {"flexible", "fixed-8", "fixed-16", "fixed-32"}:
            continue
        colour, width = styles.get(name, ("#3b6fb6", 1.2))
        sizes = [patch for patch in ALL_PATCHES if patch in curve.mean]
        axes.errorbar(
            [curve.gmac[patch] for patch in sizes],
            [100 * curve.mean[patch] for patch in sizes],
            yerr=[100 * curve.std.get(patch, 0) for patch in sizes],
            marker="o",
            markersize=4,
            linewidth=width,
            color=colour,
            label=name,
        )
    flexible = curves.get("flexible")
    for patch in ALL_PATCHES if flexible else ():
        point = (flexible.gmac[patch], 100 * flexible.mean[patch])
        axes.annotate(str(patch.mels), point, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    title = f"{task}: one flexible model, three fixed"
    axes.set(xscale="log", xlabel="GMAC per window", ylabel="accuracy, %", title=title)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(docs / f"results-{task}.png", dpi=130)
    plt.close(figure)


def _machines(runs: list[dict[str, Any]]) -> str:
    found = {f"{run['machine']['accelerator'] or 'CPU'}, {run['machine']['threads']} thread" for run in runs}
    return " and ".join(sorted(found))


def _dates(runs: list[dict[str, Any]]) -> str:
    dates = sorted(run["written"][:10] for run in runs)
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
