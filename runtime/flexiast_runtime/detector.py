"""Smoothed scores → events, by two thresholds per label: one to begin, a lower one to go on.

Each window speaks for the step around its centre, less what smoothing lags; the first one also for what lies before,
the last for what follows. These slots tile the stream without gaps, so an event's bounds are those of the sound, not of
the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.spec import PatchSize
from flexiast_runtime.framer import Window

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Thresholds:
    """A label's event begins at ``on`` and lasts while its score stays at or above ``off``."""

    on: float = 0.5
    off: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.off <= self.on <= 1:
            raise UsageError(
                f"thresholds on {self.on:g} and off {self.off:g} cannot be used; expected 0 < off ≤ on ≤ 1"
            )


@dataclass(frozen=True)
class Detection:
    """A sound that has ended."""

    class_index: int
    start: int
    """First sample"""
    end: int
    """One past the last sample"""
    score: float
    """Highest smoothed score"""
    patch: PatchSize
    """Patch size that gave the highest score"""


@dataclass
class _Open:
    start: int
    score: float
    patch: PatchSize


class Detector:
    """Keeps the events that are going on."""

    def __init__(self, thresholds: Thresholds, window_samples: int, step_samples: int, delay_samples: int = 0) -> None:
        """``delay_samples`` is what the smoothing of the scores lags behind."""
        self._thresholds = thresholds
        self._lead = max(0, (window_samples - step_samples) // 2 - delay_samples)
        self._open: dict[int, _Open] = {}

    @property
    def active(self) -> dict[int, float]:
        """Class index → highest score of the events going on."""
        return {index: event.score for index, event in self._open.items()}

    def push(self, window: Window, scores: Float, patch: PatchSize) -> Iterator[Detection]:
        """The next window's smoothed scores [classes] → the events that ended before it."""
        slot = window.start if window.first else window.start + self._lead
        for index in [i for i in self._open if scores[i] < self._thresholds.off]:
            yield self._close(index, slot)
        for index in map(int, np.flatnonzero(scores >= self._thresholds.on)):
            event = self._open.setdefault(index, _Open(slot, 0.0, patch))
            if scores[index] > event.score:
                event.score, event.patch = float(scores[index]), patch

    def flush(self, end: int) -> Iterator[Detection]:
        """The stream ends or breaks off at sample ``end``: so does every event."""
        for index in list(self._open):
            yield self._close(index, end)

    def _close(self, index: int, end: int) -> Detection:
        event = self._open.pop(index)
        return Detection(index, event.start, end, event.score, event.patch)
