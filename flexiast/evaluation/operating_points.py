"""Operating points: the threshold of each label at which a wanted precision is met on clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double, Float
from flexiast.errors import UsageError
from flexiast.spec import Value

MIN_POSITIVES = 10
"""Clips of a label without which nothing is proposed for it: one wrong clip in ten is what 0.9 means."""


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for; the lowest that meets it misses the fewest sounds."""

    precision: float
    """Share of the clips reported that must be right"""

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise UsageError(f"a precision of {self.precision:g} cannot be aimed at; it is above 0 and at most 1")

    def __str__(self) -> str:
        return f"a precision of {self.precision:g}"


class OperatingPoint(Value):
    """A label's threshold, what it gives on the clips, and how many these are."""

    label: str
    positives: int
    """Clips that have the label"""
    negatives: int
    """Clips that do not"""
    negative_hours: float
    threshold: float | None = None
    """None: the label keeps the default"""
    reason: str | None = None
    """Why it does, or why its threshold is one that no clip of another label reaches, and none of its own"""
    precision: float | None = None
    recall: float | None = None
    false_alarms_per_hour: float | None = None


def operating_points(
    scores: Float, targets: Float, durations_s: Sequence[float], labels: Sequence[str], aim: Aim
) -> list[OperatingPoint]:
    """Scores [variants, clips, classes], targets [clips, classes], seconds [clips] → one point for each label.

    All variants count together, as they do in a stream that switches among them.
    """
    return [
        _operating_point(scores[:, :, index], targets[:, index] > 0, np.asarray(durations_s), label, aim)
        for index, label in enumerate(labels)
    ]


def _operating_point(
    scores: Float, positive: NDArray[np.bool_], durations_s: Double, label: str, aim: Aim
) -> OperatingPoint:
    hours = float(durations_s[~positive].sum()) / 3600
    point = OperatingPoint(
        label=label,
        positives=int(positive.sum()),
        negatives=int((~positive).sum()),
        negative_hours=hours,
    )
    if point.positives < MIN_POSITIVES:
        return point.model_copy(
            update={"reason": f"{point.positives} clips of it to fit on, {MIN_POSITIVES} are needed"}
        )
    candidates = np.unique(scores[:, positive])
    hits, alarms = (
        len(chosen) - np.searchsorted(chosen, candidates)
        for chosen in (np.sort(scores[:, group], axis=None) for group in (positive, ~positive))
    )
    precision, per_hour = hits / (hits + alarms), alarms / len(scores) / max(hours, 1e-9)
    met = np.flatnonzero(precision >= aim.precision)
    if not len(met):
        # Left at the default the worst label would be the loudest: it is kept silent above all that is not it.
        silent = (float(scores[:, ~positive].max(initial=0.0)) + 1) / 2
        return point.model_copy(
            update={"threshold": silent, "recall": 0.0, "reason": f"no threshold gives it {aim}"},
        )
    first = met[0]
    return point.model_copy(
        update={
            "threshold": _between(scores, candidates[first]),
            "precision": float(precision[first]),
            "recall": float(hits[first] / scores[:, positive].size),
            "false_alarms_per_hour": float(per_hour[first]),
        }
    )


def _between(scores: Float, lowest: np.float32) -> float:
    """Half-way from the lowest score that is reported to the highest that is not."""
    below = scores[scores < lowest].max(initial=0.0)
    return float(np.clip((float(lowest) + float(below)) / 2, 1e-6, 1))
