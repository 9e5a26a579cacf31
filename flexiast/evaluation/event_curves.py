"""What becomes of events as the threshold moves: detection error trade-off and polyphonic sound detection score.

Streams are laid end to end on one time line, so that a threshold is tried on hours at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double, Float
from flexiast.evaluation.events import SHARE, Counts, Sound, match_intervals

MOST_FALSE_PER_HOUR = 100.0
"""Where the score's area ends: that of the DCASE challenge."""

THRESHOLDS = tuple(float(1 / (1 + np.exp(-logit))) for logit in np.arange(-3.0, 9.1, 0.2))
"""From 0.05 to 0.9999, evenly spaced in logits, for scores crowd at the ends."""


@dataclass(frozen=True)
class Timeline:
    """Smoothed scores of streams of known events at one patch size, and where in time they stand."""

    starts_s: Double
    """[windows], of the part that a window's score stands for"""
    ends_s: Double
    """[windows]; the next window's start, unless the stream ends there"""
    scores: Float
    """[windows, labels]"""
    events: tuple[Double, ...]
    """Of each label [events, 2]: start and end"""
    hours: float

    def detections(self, label: int, threshold: float, release: float) -> Double:
        """Events of a label as the detector reports them without further rules [detections, 2]."""
        scores = self.scores[:, label]
        above = np.flatnonzero(scores >= np.float32(release) * np.float32(threshold))
        if not len(above):
            return np.empty((0, 2))
        apart = np.diff(above) > 1
        apart |= self.starts_s[above[1:]] != self.ends_s[above[1:] - 1]
        firsts = np.concatenate(([0], np.flatnonzero(apart) + 1))
        lasts = np.concatenate((firsts[1:], [len(above)])) - 1
        run = np.concatenate(([0], np.cumsum(apart)))
        reached = np.flatnonzero(scores[above] >= np.float32(threshold))
        runs, first = np.unique(run[reached], return_index=True)
        return np.stack((self.starts_s[above[reached[first]]], self.ends_s[above[lasts[runs]]]), axis=1)

    def count(self, label: int, threshold: float, release: float, share: float = SHARE) -> Counts:
        """Counts of one label, by overlap."""
        detections, events = self.detections(label, threshold, release), self.events[label]
        right, found = match_intervals(detections, events, share)
        return Counts(int(right.sum()), len(detections), int(found.sum()), len(events))


@dataclass(frozen=True)
class StreamScores:
    """One stream's smoothed scores and what sounds in it."""

    edges_s: Double
    """[windows + 1]"""
    scores: Float
    """[windows, labels]"""
    events: Sequence[Sound]


def lay_end_to_end(streams: Sequence[StreamScores], labels: Sequence[str]) -> Timeline:
    """One time line of all streams; no event goes on from one to the next."""
    starts: list[Double] = [np.empty(0)]
    ends: list[Double] = [np.empty(0)]
    events: list[list[tuple[float, float]]] = [[] for _ in labels]
    index = {label: number for number, label in enumerate(labels)}
    begin_s, seconds = 0.0, 0.0
    for stream in streams:
        starts.append(begin_s + stream.edges_s[:-1])
        ends.append(begin_s + stream.edges_s[1:])
        for event in stream.events:
            events[index[event.label]].append((begin_s + event.start_s, begin_s + event.end_s))
        length_s = float(stream.edges_s[-1])
        seconds += length_s
        begin_s += length_s + 1
    return Timeline(
        np.concatenate(starts),
        np.concatenate(ends),
        np.concatenate([np.empty((0, len(labels)), np.float32), *(stream.scores for stream in streams)]),
        tuple(np.array(own).reshape(-1, 2) for own in events),
        seconds / 3600,
    )


@dataclass(frozen=True)
class Curve:
    """Counts of all labels at each threshold, the same for every label."""

    thresholds: Sequence[float]
    counts: Sequence[Counts]
    false_per_hour: Sequence[float]

    def find_lowest(self, per_hour: float) -> tuple[float, Counts] | None:
        """The lowest threshold from which on no more false events come, and its counts; None where all have more."""
        best = None
        for number in reversed(range(len(self.thresholds))):
            if self.false_per_hour[number] > per_hour:
                break
            best = self.thresholds[number], self.counts[number]
        return best


def sweep(timeline: Timeline, release: float, thresholds: Sequence[float] = THRESHOLDS) -> tuple[Counts, ...]:
    """Counts of all labels together at each threshold, by overlap."""
    labels = range(len(timeline.events))
    return tuple(sum((timeline.count(label, one, release) for label in labels), Counts()) for one in thresholds)


def compute_psds(
    timeline: Timeline,
    release: float,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    share: float = SHARE,
    most_per_hour: float = MOST_FALSE_PER_HOUR,
    spread_cost: float = 1.0,
) -> float | None:
    """Polyphonic sound detection score, 0 … 1; None where no label sounds.

    The area, over false events an hour of a label up to ``most_per_hour``, under the mean recall of the labels less
    ``spread_cost`` times its standard deviation over them, each at its best threshold (C. Bilen et al., ICASSP 2020).
    What one label takes for another counts as false and costs no more than that.
    """
    present = [label for label, events in enumerate(timeline.events) if len(events)]
    if not present:
        return None
    curves = [_best_recalls(timeline, label, release, thresholds, share) for label in present]
    rates = np.unique(np.concatenate([np.array([0.0, most_per_hour]), *(rate for rate, _ in curves)]))
    rates = rates[rates <= most_per_hour]
    recalls = np.stack([recall[np.searchsorted(rate, rates, side="right") - 1] for rate, recall in curves])
    effective = np.maximum(recalls.mean(axis=0) - spread_cost * recalls.std(axis=0), 0)
    return float((effective[:-1] * np.diff(rates)).sum() / most_per_hour)


def _best_recalls(
    timeline: Timeline, label: int, release: float, thresholds: Sequence[float], share: float
) -> tuple[Double, NDArray[np.float64]]:
    """False events an hour in rising order, from 0, and the best recall with no more of them."""
    counts = [timeline.count(label, one, release, share) for one in thresholds]
    rate = np.array([0.0, *(one.false / timeline.hours for one in counts)])
    recall = np.array([0.0, *(one.recall or 0.0 for one in counts)])
    order = np.lexsort((recall, rate))
    return rate[order], np.maximum.accumulate(recall[order])
