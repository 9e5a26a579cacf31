"""Accuracy of several experiments against what a window costs, one panel for each cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.evidence.curves import Curve
from flexiast.spec import PatchSize

COLOURS = ("#2a7f62", "#b3541e", "#7a4fa3", "#3b6fb6")


def plot_accuracy(
    path: Path,
    title: str,
    curves: Mapping[str, Curve],
    sizes: tuple[PatchSize, ...],
    costs: Mapping[str, Mapping[PatchSize, float]],
) -> None:
    """Write a PNG; the first of the curves is the one the others are compared with, and names its sizes."""
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
                linewidth=2.2 if name == subject else 1.2,
                color=colour,
                label=name,
            )
        for patch in sizes:
            point = (cost[patch], 100 * curves[subject].mean[patch])
            axes.annotate(patch.short, point, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08, y=0.12)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy, %")
    panels[0][0].legend(frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
