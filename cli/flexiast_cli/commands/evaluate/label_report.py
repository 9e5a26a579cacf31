"""`flexiast evaluate --per-label` and `--confusion`: which labels are known, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexiast.evaluation.evaluate import PatchResult
    from flexiast.spec import PatchSize, Spec

    Float = NDArray[np.float32]

NUMBERED_LABELS = 20
"""As many cells of a confusion matrix can be read as numbers on a side; more are shown as colours only."""


def check_confusion(spec: Spec, confusion: Path | None) -> None:
    """Raise UsageError for a confusion matrix of a model that may hear several labels at once."""
    from flexiast.errors import UsageError

    if confusion is not None and spec.task == "multi":
        raise UsageError(
            "a confusion matrix needs one label a clip, and this model may answer several; "
            "leave --confusion out and look at --per-label"
        )


def document(spec: Spec, logits: Float, targets: Float) -> dict[str, Any]:
    """Per label as JSON; with one label a clip also the confusion matrix [true][answered] in clips."""
    from flexiast.evaluation.evaluate import average_precisions
    from flexiast.evaluation.per_label import confusion_matrix, label_results

    if spec.task == "multi":
        return {"labels": average_precisions(logits, targets, spec.labels)}
    # A class for nothing, where the model has one, is the last column.
    confusion = confusion_matrix(logits, targets)
    labels = [result.document() for result in label_results(confusion, spec.labels)]
    return {"labels": labels, "confusion": confusion.tolist()}


def show(spec: Spec, logits: Mapping[PatchSize, Float], targets: Float) -> None:
    """A table of each label's recall (average precision where clips have several) at each size, the worst first."""
    from rich.markup import escape
    from rich.table import Table

    from flexiast.evaluation.evaluate import average_precisions
    from flexiast.evaluation.per_label import confusion_matrix, label_results
    from flexiast.text import preview
    from flexiast_cli.terminal.console import stdout

    if spec.task == "multi":
        figures = [
            [found["average_precision"] for found in average_precisions(answers, targets, spec.labels)]
            for answers in logits.values()
        ]
        precision, confused = None, None
    else:
        matrices = [confusion_matrix(answers, targets) for answers in logits.values()]
        figures = [[result.recall for result in label_results(matrix, spec.labels)] for matrix in matrices]
        overall = label_results(sum(matrices[1:], matrices[0]), spec.labels)
        precision, confused = [one.precision for one in overall], [one.confused_with for one in overall]
    title = f"\n{'Average precision' if precision is None else 'Recall'} of each label"
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("label")
    for name in ("clips", *(patch.short for patch in logits), *(["precision"] if precision else [])):
        table.add_column(name, justify="right")
    if confused:
        table.add_column("most often taken for")
    clips = targets.sum(axis=0).astype(int)
    present = [index for index in range(len(spec.labels)) if clips[index]]
    for index in sorted(present, key=lambda index: sum(size[index] or 0.0 for size in figures)):
        cells = [escape(spec.labels[index]), f"{clips[index]:,}", *(_share(size[index]) for size in figures)]
        cells += [_share(precision[index])] if precision else []
        cells += [escape(confused[index] or "")] if confused else []
        table.add_row(*cells)
    console = stdout()
    console.print(title, style="bold")
    console.print(table)
    if absent := [label for label, count in zip(spec.labels, clips, strict=True) if not count]:
        console.print(f"No clip here has {preview(absent)}", markup=False, soft_wrap=True)


def warn_repeated_answers(results: Sequence[PatchResult]) -> None:
    """On stderr: sizes that answer one label whatever they hear."""
    from flexiast.text import printable
    from flexiast_cli.terminal.console import stderr

    for label in dict.fromkeys(result.repeated_answer for result in results if result.repeated_answer is not None):
        sizes = ", ".join(result.patch_size.short for result in results if result.repeated_answer == label)
        stderr().print(
            printable(f"At {sizes} nearly every clip is answered {label!r}: the accuracy is that of always saying it"),
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def draw(spec: Spec, logits: Float, targets: Float, title: str, path: Path) -> None:
    """The confusion matrix, each row as shares of the clips that have its label."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    from flexiast.evaluation.per_label import NOTHING, confusion_matrix

    confusion = confusion_matrix(logits, targets)
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    labels = [label.replace("$", r"\$") for label in spec.labels]  # matplotlib would set it as mathematics
    answers = [*labels, NOTHING] if spec.nothing_class else labels
    side = min(24.0, 3.0 + 0.28 * len(labels))
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    picture = axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    axes.set(xlabel="answered", ylabel="true", xticks=range(len(answers)), yticks=range(len(labels)))
    axes.set_title(title, fontsize=10)
    axes.set_xticklabels(answers, rotation=90, fontsize=8)
    axes.set_yticklabels(labels, fontsize=8)
    if len(labels) <= NUMBERED_LABELS:
        for row, column in zip(*confusion.nonzero(), strict=True):
            dark = shares[row, column] > 0.5
            axes.text(
                column,
                row,
                f"{confusion[row, column]}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    figure.colorbar(picture, ax=axes, label="share of the true label's clips", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
