"""The pictures of `flexiast evaluate`: the metric against its cost, and the confusion matrix. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexiast.evaluation.evaluate import PatchResult
from flexiast.evaluation.per_label import NOTHING, confusion_matrix
from flexiast.spec import Spec
from flexiast_cli.plot_axes import logarithmic, new_figure, plain, viridis
from flexiast_runtime.detection.stream_evaluation import StreamResult

Float = NDArray[np.float32]

LEAST_MISSED = 0.01
"""Where the axis of missed events begins: a hundred events tell no more."""
NUMBERED_LABELS = 20
"""Labels up to which each cell of a confusion matrix shows its number; with more, only colours can be read."""


def draw_results(results: Sequence[PatchResult], title: str, path: Path) -> None:
    """Write a PNG of the metric against GMAC on a logarithmic axis, each point named by its patch size."""
    metric = "accuracy" if results[0].accuracy is not None else "mean average precision"
    ordered = sorted(results, key=lambda result: result.gmac)
    figure, axes = new_figure(6.4, 4.0)
    axes.plot(
        [r.gmac for r in ordered], [r.metric for r in ordered], marker="o", color="#2a7f62", linewidth=1.5, markersize=5
    )
    for result in ordered:
        axes.annotate(
            result.patch_size.short,
            (result.gmac, result.metric),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=8,
        )
    logarithmic(axes)
    plain(axes)
    axes.set(xlabel="GMAC per window", ylabel=metric, title=title)
    axes.title.set_size(10)
    axes.margins(x=0.08, y=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def draw_trade_off(results: Sequence[StreamResult], title: str, path: Path) -> None:
    """Write a PNG of missed events against false ones an hour, both on logarithmic axes, a line for each size."""
    figure, axes = new_figure(6.4, 4.4)
    drawn = [result for result in results if result.trade_off]
    for number, result in enumerate(drawn):
        points = [point for point in result.trade_off if point.false_per_hour > 0]
        axes.plot(
            [point.false_per_hour for point in points],
            [max(point.missed, LEAST_MISSED) for point in points],
            label=result.patch_size,
            color=viridis(number / max(1, len(drawn))),
            linewidth=1.5,
        )
    logarithmic(axes)
    axes.set_yscale("log")
    axes.set_ylim(LEAST_MISSED, 1)
    axes.yaxis.set_major_formatter("{x:g}")
    plain(axes)
    axes.set(xlabel="false events an hour", ylabel="share of the events missed", title=title)
    axes.title.set_size(10)
    axes.legend(title="patch", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def draw_confusion(spec: Spec, logits: Float, targets: Float, title: str, path: Path) -> None:
    """Write a PNG of the confusion matrix, each row as shares of the clips that have its label."""
    confusion = confusion_matrix(logits, targets)
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    labels = [label.replace("$", r"\$") for label in spec.labels]  # matplotlib would set it as mathematics
    answers = [*labels, NOTHING] if spec.nothing_class else labels
    side = min(24.0, 3.0 + 0.28 * len(labels))
    figure, axes = new_figure(side, side)
    picture = axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    axes.set(xlabel="answered", ylabel="true", xticks=range(len(answers)), yticks=range(len(labels)))
    axes.set_title(title, fontsize=10)
    axes.set_xticklabels(answers, rotation=90, fontsize=8)
    axes.set_yticklabels(labels, fontsize=8)
    if len(labels) <= NUMBERED_LABELS:
        for row, column in zip(*confusion.nonzero(), strict=True):
            axes.text(
                column,
                row,
                f"{confusion[row, column]}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    figure.colorbar(picture, ax=axes, label="share of the true label's clips", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
