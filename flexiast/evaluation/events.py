"""Events that were detected against events that are there, counted by overlap and by onset.

By overlap, as intersection-based scores do (C. Bilen et al., A Framework for the Robust Evaluation of Sound Event
Detection, ICASSP 2020; `sed_scores_eval`): a detection is right if a share of it lies in events of its label, and an
event is found if right detections cover a share of it. By onset, as event-based scores do (A. Mesaros et al., Metrics
for Polyphonic Sound Event Detection, 2016; `sed_eval`): events of a label are paired one to one where they begin at
about the same time, as many as can be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double

ONSET_S = 0.5
"""How far the beginning of an event may be off, where onsets are compared."""

SHARE = 0.1
"""Of a detection, or of an event, that must overlap. It is the tolerance of the DCASE challenge's second scenario, for
systems that must tell what sounds rather than when exactly it begins and ends."""

Bool = NDArray[np.bool_]


class Sound(NamedTuple):
    """What sounds, or was detected, in seconds of a stream."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Counts:
    """Detections, events, and how many of either agree."""

    right: int = 0
    """Detections that are right"""
    detections: int = 0
    found: int = 0
    """Events that were found"""
    events: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.right + other.right,
            self.detections + other.detections,
            self.found + other.found,
            self.events + other.events,
        )

    @property
    def false(self) -> int:
        """Detections that are wrong."""
        return self.detections - self.right

    @property
    def precision(self) -> float | None:
        """Share of the events among found events and wrong detections; None without either."""
        return self.found / (self.found + self.false) if self.found + self.false else None

    @property
    def recall(self) -> float | None:
        """Share of the events that were found; None where there are none."""
        return self.found / self.events if self.events else None

    @property
    def f1(self) -> float | None:
        """2 found ÷ (found + wrong detections + events); None where all of them are 0."""
        total = self.found + self.false + self.events
        return 2 * self.found / total if total else None


def count_by_overlap(detections: Sequence[Sound], events: Sequence[Sound], share: float = SHARE) -> Counts:
    """Counts of one stream, by the share of detections and events that overlap."""
    right, found = match_by_overlap(detections, events, share)
    return Counts(int(right.sum()), len(detections), int(found.sum()), len(events))


def match_by_overlap(detections: Sequence[Sound], events: Sequence[Sound], share: float = SHARE) -> tuple[Bool, Bool]:
    """Of each detection whether it is right, and of each event whether it was found.

    Events of a label must not overlap each other; nor must its detections.
    """
    right, found = np.zeros(len(detections), bool), np.zeros(len(events), bool)
    places = _places_by_label(detections), _places_by_label(events)
    for label in places[0].keys() & places[1].keys():
        rows, columns = places[0][label], places[1][label]
        right[rows], found[columns] = match_intervals(
            np.array([detections[row][1:] for row in rows]), np.array([events[column][1:] for column in columns]), share
        )
    return right, found


def match_intervals(detections: Double, events: Double, share: float = SHARE) -> tuple[Bool, Bool]:
    """The same for one label: intervals [detections, 2] and [events, 2] of start and end."""
    if not len(detections) or not len(events):
        return np.zeros(len(detections), bool), np.zeros(len(events), bool)
    right = _measure_cover(detections, events) >= share * np.diff(detections, axis=1)[:, 0]
    found = np.zeros(len(events), bool)
    if right.any():
        found = _measure_cover(events, detections[right]) >= share * np.diff(events, axis=1)[:, 0]
    return right, found


def _measure_cover(intervals: Double, others: Double) -> Double:
    """How much of each interval lies in any of the others, which are disjoint."""
    others = others[np.argsort(others[:, 0])]
    ends = np.concatenate(([0.0], np.cumsum(others[:, 1] - others[:, 0])))

    def cover_until(time: Double) -> Double:
        place = np.searchsorted(others[:, 0], time, side="right")
        last = np.maximum(place - 1, 0)
        inside = np.minimum(time, others[last, 1]) - others[last, 0]
        return np.where(place > 0, ends[last] + inside, 0.0)

    return cover_until(intervals[:, 1]) - cover_until(intervals[:, 0])


def count_by_onset(detections: Sequence[Sound], events: Sequence[Sound], collar_s: float = ONSET_S) -> Counts:
    """Counts of one stream, by pairs of the same label that begin within ``collar_s`` of each other."""
    paired = sum(1 for _ in pair_by_onset(detections, events, collar_s))
    return Counts(paired, len(detections), paired, len(events))


def pair_by_onset(
    detections: Sequence[Sound], events: Sequence[Sound], collar_s: float = ONSET_S
) -> Iterable[tuple[int, int]]:
    """The largest set of pairs (detection, event) in which each stands once.

    Within a label the earliest partner that is near enough is always a best one, for all collars are equally wide.
    """
    places = _places_by_label(detections), _places_by_label(events)
    for label in sorted(places[0].keys() & places[1].keys()):
        waiting = sorted(places[1][label], key=lambda place: events[place].start_s)
        for row in sorted(places[0][label], key=lambda place: detections[place].start_s):
            start_s = detections[row].start_s
            while waiting and events[waiting[0]].start_s < start_s - collar_s:
                waiting.pop(0)
            if waiting and events[waiting[0]].start_s <= start_s + collar_s:
                yield row, waiting.pop(0)


def _places_by_label(sounds: Sequence[Sound]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, sound in enumerate(sounds):
        places[sound.label].append(place)
    return dict(places)
