"""The rules that turn scores into events: thresholds, durations and the labels to report."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.spec import PatchSize
from flexiast.text import preview

Float = NDArray[np.float32]

THRESHOLD = 0.5
"""Default score at which events start; the user's and the bundle's thresholds go before it."""


@dataclass(frozen=True)
class EventRules:
    """The same for a microphone and a file; the defaults report every sound that reaches the threshold."""

    threshold: float = THRESHOLD
    """Score at which an event begins"""
    label_thresholds: Mapping[str, float] = field(default_factory=dict)
    """The same of single labels"""
    size_thresholds: Mapping[PatchSize, Mapping[str, float]] = field(default_factory=dict)
    """The same of single labels at single patch sizes; these go before"""
    release: float = 0.6
    """An event lasts until its score is below this share of its threshold.
    The gap keeps a score that wavers about the threshold from splitting an event."""
    confirm_s: float = 0.0
    """The score must stay at the threshold for so long; the event then begins where it first reached it."""
    merge_s: float = 0.0
    """A gap shorter than this, between two events of a label, belongs to both: they are one."""
    min_duration_s: float = 0.0
    """Shorter events are not reported; merged ones count as one."""
    allow: tuple[str, ...] = ()
    """Only these labels; none means all"""
    deny: tuple[str, ...] = ()
    """Not these labels"""

    def __post_init__(self) -> None:
        own = [pair for each in self.size_thresholds.values() for pair in each.items()]
        for label, threshold in (("the threshold", self.threshold), *self.label_thresholds.items(), *own):
            if not 0 < threshold <= 1:
                raise UsageError(f"{threshold:g} for {label} cannot be used; a threshold is above 0 and at most 1")
        if not 0 < self.release <= 1:
            raise UsageError(f"a release of {self.release:g} cannot be used; it is above 0 and at most 1")
        for what, seconds in (
            ("confirmation", self.confirm_s),
            ("gap to merge", self.merge_s),
            ("minimum duration", self.min_duration_s),
        ):
            if not 0 <= seconds < math.inf:
                raise UsageError(f"a {what} of {seconds:g} s cannot be used; give 0 or more seconds")

    def thresholds(self, labels: Sequence[str], patch: PatchSize | None = None) -> Float:
        """Of each label of a model [labels], infinite where it is not wanted; raises UsageError for an unknown one.

        Those of one patch size, or the lowest of all.
        """
        for label in (*self.label_thresholds, *self.allow, *self.deny):
            check_known(label, labels)
        wanted = (set(self.allow) or set(labels)) - set(self.deny)
        if not wanted:
            raise UsageError("no label is left to report: every allowed one is denied")
        if patch is None and self.size_thresholds:
            every = [self.thresholds(labels, size) for size in self.size_thresholds]
            return np.min(every, axis=0).astype(np.float32)
        own = {**self.label_thresholds, **(self.size_thresholds.get(patch, {}) if patch else {})}
        return np.array(
            [own.get(label, self.threshold) if label in wanted else math.inf for label in labels], np.float32
        )


def check_known(label: str, labels: Iterable[str]) -> str:
    """The label, if it is one of these; else UsageError with those of similar names."""
    labels = tuple(labels)
    if label in labels:
        return label
    near = difflib.get_close_matches(label, labels, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {preview(labels)}"
    raise UsageError(f"the model has no label {label!r}; {hint}")
