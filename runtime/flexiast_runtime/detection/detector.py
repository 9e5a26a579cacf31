"""Smoothed scores → events, by two thresholds per label: one to start, a lower one to continue.

Each window's score is assigned to the step at its centre, corrected for smoothing delay. The first window also covers
the audio before that step, the last one the audio after it. These slots tile the stream without gaps, so an event has
the bounds of the sound, not of the window. Every rule counts the samples of slots, so none depends on the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flexiast.spec import PatchSize
from flexiast_runtime.detection.framer import Window
from flexiast_runtime.detection.rules import EventRules

Float = NDArray[np.float32]


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
    threshold: float
    """What its label had to reach at that size"""


@dataclass
class _Run:
    """An open stretch. Until it is confirmed, all of it is at or above the threshold."""

    start: int
    score: float
    patch: PatchSize
    threshold: float
    confirmed: bool = False


@dataclass
class _Track:
    """One label, from its first rise until nothing can be added to its event."""

    class_index: int
    run: _Run | None = None
    past: Detection | None = None
    """The last event, while another may still follow closely enough to be merged with it"""


class ScoreConsumer(Protocol):
    """What takes the smoothed scores of a stream: a detector, or what stands in its place."""

    @property
    def active(self) -> dict[int, float]: ...

    def push(self, window: Window, scores: Float, patch: PatchSize) -> Iterator[Detection]: ...

    def flush(self, end: int) -> Iterator[Detection]: ...


class Detector:
    """Tracks the open events of a stream."""

    def __init__(
        self,
        rules: EventRules,
        labels: Sequence[str],
        rate_hz: int,
        window_samples: int,
        step_samples: int,
        delay_samples: int = 0,
    ) -> None:
        """``delay_samples``: delay of the smoothed scores. Raises UsageError for unknown labels."""
        self._rules, self._labels = rules, tuple(labels)
        self._on_at: dict[PatchSize, Float] = {}
        self._on = rules.thresholds(labels)
        self._off = np.float32(rules.release) * self._on
        self._confirm, self._merge, self._shortest = (
            round(seconds * rate_hz) for seconds in (rules.confirm_s, rules.merge_s, rules.min_duration_s)
        )
        self._lead = max(0, (window_samples - step_samples) // 2 - delay_samples)
        self._tracks: dict[int, _Track] = {}

    @property
    def active(self) -> dict[int, float]:
        """Class index → highest score of each open event."""
        runs = ((index, track.run) for index, track in self._tracks.items())
        return {index: run.score for index, run in runs if run is not None and run.confirmed}

    def push(self, window: Window, scores: Float, patch: PatchSize) -> Iterator[Detection]:
        """The next window's smoothed scores [classes] → the events that ended before it, in the order of the labels."""
        slot = self.slot_start(window.start, first=window.first)
        if self._rules.size_thresholds:
            if patch not in self._on_at:
                self._on_at[patch] = self._rules.thresholds(self._labels, patch)
            self._on = self._on_at[patch]
            self._off = np.float32(self._rules.release) * self._on
        for index in map(int, np.flatnonzero(scores >= self._on)):
            self._tracks.setdefault(index, _Track(index))
        for index, track in sorted(self._tracks.items()):
            self._end_if_below(track, scores[index], slot)
            if track.run is None:
                yield from self._emit_settled(track, slot)
            self._rise(track, float(scores[index]), slot, patch)
            if track.run is None and track.past is None:
                del self._tracks[index]

    def slot_start(self, start: int, *, first: bool) -> int:
        """The first sample of the part of the stream that the score of a window stands for, which starts at ``start``.

        ``first``: the window is the first one since the stream started or broke off.
        """
        return start if first else start + self._lead

    def flush(self, end: int) -> Iterator[Detection]:
        """End all events at sample ``end``, where the stream ends or breaks off; none is merged with a later one."""
        for _, track in sorted(self._tracks.items()):
            self._end_if_below(track, -math.inf, end)
            yield from self._emit_settled(track, math.inf)
        self._tracks.clear()

    def _end_if_below(self, track: _Track, score: float, slot: int) -> None:
        """Confirm the run if it is long enough at sample ``slot``, and end it there if the score is too low."""
        self._confirm_run(track, slot)
        run, index = track.run, track.class_index
        if run is None or score >= (self._off if run.confirmed else self._on)[index]:
            return
        if run.confirmed:
            track.past = Detection(index, run.start, slot, run.score, run.patch, run.threshold)
        track.run = None

    def _rise(self, track: _Track, score: float, slot: int, patch: PatchSize) -> None:
        """Start a run at sample ``slot``, or raise the score of the open one."""
        threshold = float(self._on[track.class_index])
        if track.run is None and score >= threshold:
            track.run = _Run(slot, score, patch, threshold)
        if track.run is not None and score > track.run.score:
            track.run.score, track.run.patch, track.run.threshold = score, patch, threshold
        self._confirm_run(track, slot)

    def _confirm_run(self, track: _Track, slot: int) -> None:
        """Confirm a run that has lasted long enough, and merge the past event into it if one still waits."""
        run, past = track.run, track.past
        if run is None or run.confirmed or slot - run.start < self._confirm:
            return
        run.confirmed = True
        if past is not None:
            run.start, track.past = past.start, None
            if past.score >= run.score:
                run.score, run.patch, run.threshold = past.score, past.patch, past.threshold

    def _emit_settled(self, track: _Track, slot: float) -> Iterator[Detection]:
        """Yield the past event once no run that starts at ``slot`` or later can be merged with it."""
        past = track.past
        if past is not None and slot - past.end >= self._merge:
            track.past = None
            if past.end - past.start >= self._shortest:
                yield past
