"""The pictures of `flexiast evaluate`: the metric against its cost, and the confusion matrix. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexiast.evaluation.evaluate import PatchResult
from flexiast.evaluation.per_label import NOTHING, confusion_matrix
from flexiast.spec import Spec
from flexiast_cli.plot_axes import logarithmic, new_figure, plain

Float = NDArray[np.float32]

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
