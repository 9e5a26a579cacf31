"""How well each label is known, from the answers of one patch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float

Counts = NDArray[np.int64]

Z_95 = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class LabelResult:
    """One label's figures; None where there is nothing to divide by."""

    label: str
    clips: int
    """That have the label."""
    recall: float | None
    """Share of its clips that were answered right."""
    precision: float | None
    """Share of the answers of this label that were right."""
    recall_interval: tuple[float, float] | None
    """95 %, see ``wilson_interval``."""
    confused_with: str | None
    """The wrong label that its clips get most often."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "label": self.label,
            "clips": self.clips,
            "recall": self.recall,
            "recall_interval": self.recall_interval,
            "precision": self.precision,
            "confused_with": self.confused_with,
        }


NOTHING = "(nothing)"
"""What the class for nothing is called among answers."""


def confusion_matrix(logits: Float, targets: Float) -> Counts:
    """Logits [clips, classes] and targets [clips, labels] of one label a clip → clips [true label, answered class].

    A model that has a class for nothing has one more column than labels.
    """
    labels, classes = targets.shape[1], logits.shape[1]
    pairs = targets.argmax(axis=1) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=labels * classes).reshape(labels, classes)


def label_results(confusion: Counts, labels: Sequence[str]) -> list[LabelResult]:
    """The figures of each label of a confusion matrix, in its order."""
    results = []
    for index, label in enumerate(labels):
        clips, answers, right = (
            int(count) for count in (confusion[index].sum(), confusion[:, index].sum(), confusion[index, index])
        )
        wrong = confusion[index].copy()
        wrong[index] = 0
        results.append(
            LabelResult(
                label,
                clips,
                right / clips if clips else None,
                right / answers if answers else None,
                wilson_interval(right / clips, clips) if clips else None,
                (*labels, NOTHING)[int(wrong.argmax())] if wrong.any() else None,
            )
        )
    return results


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """95 % interval of a true share, of which ``share`` was found in ``trials`` (Wilson, 1927).

    Unlike ± two standard errors it stays inside [0, 1] and is no point where all trials agree.
    """
    spread = Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def find_repeated_answer(confusion: Counts, labels: Sequence[str]) -> str | None:
    """The label that clips are answered with whatever they hold; None where there is none.

    So is called one that all clips get though some have another, or 95 % of them and five points more than have it.
    """
    answered, true = (confusion.sum(axis=axis) / confusion.sum() for axis in (0, 1))
    true = np.pad(true, (0, len(answered) - len(true)))  # no clip has the label nothing
    index = int(answered.argmax())
    constant = answered[index] == 1 > true[index]
    return (*labels, NOTHING)[index] if constant or answered[index] >= max(0.95, true[index] + 0.05) else None
