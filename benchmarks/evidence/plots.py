"""Accuracy of several experiments against what a window costs, one panel for each cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

from benchmarks.evidence.curves import Curve
from flexiast.spec import PatchSize
from flexiast_cli.plot_axes import logarithmic, plain

TOO_CLOSE = 1.1
"""Ratio of two costs whose labels would overlap."""

COLOURS = ("#2a7f62", "#b3541e", "#7a4fa3", "#3b6fb6", "#1f2937")


def plot_accuracy(
    path: Path,
    title: str,
    curves: Mapping[str, Curve],
    sizes: tuple[PatchSize, ...],
    costs: Mapping[str, Mapping[PatchSize, float]],
) -> None:
    """Write a PNG; the first of the curves is the one the others are compared with, its points told by their frames."""
    figure, panels = plt.subplots(
        1, len(costs), figsize=(1.2 + 4.8 * len(costs), 4.2), sharey=True, layout="constrained", squeeze=False
    )
    subject = next(iter(curves))
    for axes, (label, cost) in zip(panels[0], costs.items(), strict=True):
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            known = [patch for patch in sizes if patch in curve.mean]
            axes.errorbar(
                [cost[patch] for patch in known],
                [100 * curve.mean[patch] for patch in known],
                yerr=[100 * curve.std.get(patch, 0) for patch in known],
                marker="o",
                markersize=4,
                linewidth=1.2 if name.startswith("fixed") else 2.2,
                color=colour,
                label=name,
            )
        for together in _close(sizes, cost):
            names = ", ".join(str(patch.frames) for patch in together)
            top = max(100 * curves[subject].mean[patch] for patch in together)
            point = (cost[together[0]], top)
            axes.annotate(names, point, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
        logarithmic(axes)
        plain(axes)
        axes.set(xlabel=label)
        axes.margins(x=0.08, y=0.12)
    panels[0][0].set_ylabel("accuracy, %")
    panels[0][0].legend(frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _close(sizes: tuple[PatchSize, ...], cost: Mapping[PatchSize, float]) -> list[list[PatchSize]]:
    """Sizes in the order of their cost; those too close for a label each stand together."""
    found: list[list[PatchSize]] = []
    for patch in sorted(sizes, key=cost.__getitem__):
        if found and cost[patch] < TOO_CLOSE * cost[found[-1][0]]:
            found[-1].append(patch)
        else:
            found.append([patch])
    return [sorted(together, key=lambda patch: patch.frames) for together in found]
