"""A budget of false alarms: thresholds at which the events in hours of background stay within it, all labels together.

A sound that was absent in some hours may still come. So few events keep the budget with 90 % confidence only if a rate
as high as the budget would give so few in at most a tenth of all cases (Poisson).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.errors import UsageError

CONFIDENCE = 0.9

LOWEST_THRESHOLD = 0.5
"""Where the search begins: below it a label would begin at scores that are no better than a guess."""

LOWEST_SCORE = 0.05
"""Scores that no event at that threshold or above begins or goes on with."""


@dataclass(frozen=True)
class Trace:
    """One label's smoothed scores in a stream, as far as they matter: the windows [count] and the scores [count]."""

    windows: NDArray[np.int64]
    scores: Float

    def peaks(self, threshold: float, release: float) -> Float:
        """The highest score of each event at this threshold, which ends below ``release`` of it; as the detector's."""
        above = np.flatnonzero(self.scores >= np.float32(release) * np.float32(threshold))
        if not len(above):
            return np.empty(0, np.float32)
        starts = np.flatnonzero(np.diff(self.windows[above], prepend=self.windows[above[0]] - 2) > 1)
        highest = np.maximum.reduceat(self.scores[above], starts)
        return highest[highest >= np.float32(threshold)]


def most_events(hours: float, per_hour: float) -> int | None:
    """Events in so many hours from which the budget is kept with 90 % confidence; None where even none is too many."""
    mean = per_hour * hours
    low, high = -1, math.ceil(mean) + 1  # the bound of a count is above it
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_bound(middle) <= mean else (low, middle)
    return None if low < 0 else low


def hours_needed(events: int, per_hour: float) -> float:
    """Hours in which no more than so many events show that the budget is kept, with 90 % confidence."""
    return upper_bound(events) / per_hour


def upper_bound(events: int) -> float:
    """The mean at which so few events or fewer come in a tenth of all cases: 2.30 for none, 3.89 for one."""
    return _mean_where(events, 1 - CONFIDENCE)


def poisson_interval(events: int) -> tuple[float, float]:
    """95 % interval of the mean of a count, such as of false alarms in some hours (F. Garwood, 1936)."""
    return 0.0 if not events else _mean_where(events - 1, 0.975), _mean_where(events, 0.025)


def _mean_where(events: int, share: float) -> float:
    """The mean at which so many events or fewer come in that share of all cases."""
    low, high = 0.0, events + 5 * math.sqrt(events + 1) + 5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(events, middle) > share else (low, middle)
    return high


def _at_most(events: int, mean: float) -> float:
    """Poisson: how likely so many events are, or fewer."""
    if mean <= 0:
        return 1.0
    logs = np.cumsum(np.log(mean / np.arange(1, events + 1))) - mean
    return float(math.exp(-mean) + np.exp(logs).sum())


def check_budget(per_hour: float) -> float:
    """The budget itself; raises UsageError where none can be kept."""
    if not 0 < per_hour < math.inf:
        raise UsageError(f"{per_hour:g} false alarms per hour cannot be kept; give a number above 0, such as 0.5")
    return per_hour


def thresholds_for(traces: Sequence[Trace], most: int, release: float) -> list[float]:
    """Of each label the threshold at which all labels together have no more than so many events.

    The weakest false alarm goes first, whatever its label, so that no threshold rises further than it must. Each ends
    half-way to the label's next higher peak, or to 1.
    """
    thresholds = [LOWEST_THRESHOLD] * len(traces)
    peaks = [np.sort(trace.peaks(LOWEST_THRESHOLD, release)) for trace in traces]
    while sum(map(len, peaks)) > most:
        label = min((index for index, own in enumerate(peaks) if len(own)), key=lambda index: float(peaks[index][0]))
        lowest = peaks[label][0]
        higher = peaks[label][peaks[label] > lowest]
        thresholds[label] = _raise_above(float(lowest), float(higher[0]) if len(higher) else 1.0)
        peaks[label] = np.sort(traces[label].peaks(thresholds[label], release))
        if thresholds[label] == 1.0:
            peaks[label] = peaks[label][:0]  # a score of 1 cannot be told from another: the label is one to deny
    return thresholds


def _raise_above(score: float, higher: float) -> float:
    """Half-way to the higher score, and always above the lower one, even where float32 has no number between them."""
    return min(1.0, max((score + higher) / 2, float(np.nextafter(np.float32(score), np.float32(2)))))
