"""What `flexiast evaluate` reports about labels: how well each is recognised, and which are confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from flexiast.errors import UsageError
from flexiast.evaluation.evaluate import PatchResult, average_precisions
from flexiast.evaluation.per_label import confusion_matrix, label_results
from flexiast.spec import PatchSize, Spec
from flexiast.text import preview, printable
from flexiast_cli.terminal.console import stderr, stdout

Float = NDArray[np.float32]


def check_confusion(spec: Spec, confusion: Path | None) -> None:
    """Raise UsageError for a confusion matrix of a model that may give several labels at once."""
    if confusion is not None and spec.task == "multi":
        raise UsageError(
            "a confusion matrix needs one label a clip, and this model may answer several; "
            "leave --confusion out and look at --per-label"
        )


def describe_labels(spec: Spec, logits: Float, targets: Float) -> dict[str, Any]:
    """The labels' figures as JSON; with one label a clip also the confusion matrix [true][answered], in clips."""
    if spec.task == "multi":
        return {"labels": average_precisions(logits, targets, spec.labels)}
    # A class for nothing, where the model has one, is the last column.
    confusion = confusion_matrix(logits, targets)
    labels = [result.document() for result in label_results(confusion, spec.labels)]
    return {"labels": labels, "confusion": confusion.tolist()}


def show_labels(spec: Spec, logits: Mapping[PatchSize, Float], targets: Float) -> None:
    """Print each label's recall (average precision where clips have several) at each size, the worst first."""
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
    """Warn on stderr about sizes that give the same label to nearly every clip."""
    for label in dict.fromkeys(result.repeated_answer for result in results if result.repeated_answer is not None):
        sizes = ", ".join(result.patch_size.short for result in results if result.repeated_answer == label)
        stderr().print(
            printable(f"At {sizes} nearly every clip is answered {label!r}: the accuracy is that of always giving it"),
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
