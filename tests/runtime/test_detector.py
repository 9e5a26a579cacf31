"""Events, against a brute-force reading of the slots that tile the stream."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.detector import Detection, Detector, Thresholds
from flexiast_runtime.framer import Framer, Window

Float = NDArray[np.float32]

WINDOW = 6_400
STEPS = st.sampled_from([160, 1_600, 3_200, 6_080])
DELAYS = st.sampled_from([0, 700, 2_400, 50_000])
STREAMS = st.integers(400, 30_000)
LEVELS = st.sampled_from([0.0, 0.25, 0.375, 0.5, 0.75, 1.0])
"""Scores on both sides of the thresholds and on them."""
THRESHOLDS = Thresholds(on=0.5, off=0.25)
SIZES = (PatchSize(8, 8), PatchSize(16, 16))


@pytest.fixture(scope="module")
def frontend(tiny_spec: Spec) -> Frontend:
    return Frontend(tiny_spec.frontend)


def windows_of(frontend: Frontend, step: int, samples: int, start: int = 0) -> list[Window]:
    framer = Framer(frontend, step)
    framer.restart(start)
    return [*framer.push(np.zeros(samples, np.float32)), *framer.flush()]


def detected(detector: Detector, windows: list[Window], scores: Float, end: int) -> list[Detection]:
    found = []
    for index, window in enumerate(windows):
        found += detector.push(window, scores[index], SIZES[index % 2])
    return found + list(detector.flush(end))


def slots_of(windows: list[Window], step: int, delay: int, end: int) -> list[tuple[int, int]]:
    """The stretch of audio that each window speaks for."""
    lead = max(0, (WINDOW - step) // 2 - delay)
    bounds = [windows[0].start, *(window.start + lead for window in windows[1:]), end]
    return list(pairwise(bounds))


def brute_force(scores: Float, slots: list[tuple[int, int]], thresholds: Thresholds) -> set[Detection]:
    """Every maximal run of slots at or above ``off`` that reaches ``on``, from where it first does."""
    found = set()
    for index in range(scores.shape[1]):
        row, slot = scores[:, index], 0
        while slot < len(row):
            if row[slot] < thresholds.on:
                slot += 1
                continue
            stop = slot
            while stop < len(row) and row[stop] >= thresholds.off:
                stop += 1
            best = slot + int(row[slot:stop].argmax())
            found.add(Detection(index, slots[slot][0], slots[stop - 1][1], float(row[best]), SIZES[best % 2]))
            slot = stop
    return found


@st.composite
def score_tables(draw: st.DrawFn) -> Float:
    """Scores [200 windows, 3 classes] that stay for a while, as sounds do."""
    runs = draw(st.lists(st.tuples(st.tuples(LEVELS, LEVELS, LEVELS), st.integers(1, 5)), min_size=1, max_size=12))
    rows = [levels for levels, length in runs for _ in range(length)]
    return np.array([rows[index % len(rows)] for index in range(200)], np.float32)


@given(score_tables(), STREAMS, STEPS, DELAYS)
def test_events_are_those_of_brute_force(
    frontend: Frontend, scores: Float, samples: int, step: int, delay: int
) -> None:
    windows = windows_of(frontend, step, samples)
    found = detected(Detector(THRESHOLDS, WINDOW, step, delay), windows, scores, samples)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(scores[: len(windows)], slots_of(windows, step, delay, samples), THRESHOLDS)


@given(STREAMS, STEPS, DELAYS, st.sampled_from([0, 123_456, 2**53 + 1]))
def test_slots_tile_the_stream(frontend: Frontend, samples: int, step: int, delay: int, start: int) -> None:
    """A score above the threshold in one window only makes an event of that window's slot."""
    windows = windows_of(frontend, step, samples, start)
    covered = start
    for loud in range(len(windows)):
        scores = np.zeros((len(windows), 1), np.float32)
        scores[loud] = 1.0
        (event,) = detected(Detector(THRESHOLDS, WINDOW, step, delay), windows, scores, start + samples)
        assert event.start == covered
        assert event.end > event.start
        covered = event.end
    assert covered == start + samples


@given(STREAMS, STEPS, DELAYS)
def test_a_sound_that_never_stops_is_the_whole_stream(frontend: Frontend, samples: int, step: int, delay: int) -> None:
    windows = windows_of(frontend, step, samples)
    found = detected(
        Detector(THRESHOLDS, WINDOW, step, delay), windows, np.ones((len(windows), 1), np.float32), samples
    )
    assert [(event.start, event.end) for event in found] == [(0, samples)]


@pytest.mark.parametrize("samples", [400, 2_000, 6_400])
def test_a_clip_of_one_window_is_one_event_of_the_whole_clip(frontend: Frontend, samples: int) -> None:
    (window,) = windows_of(frontend, 1_600, samples)
    (event,) = detected(Detector(THRESHOLDS, WINDOW, 1_600), [window], np.array([[0.0, 0.9]], np.float32), samples)
    assert event == Detection(1, 0, samples, float(np.float32(0.9)), SIZES[0])


@given(st.integers(1, 25), st.integers(0, 20))
def test_the_middle_of_an_event_is_the_middle_of_the_sound(frontend: Frontend, length: int, silent: int) -> None:
    """Windows whose centre lies in the sound score high: the event then is the sound, to half a step."""
    step, samples = 160, 30_000
    windows = windows_of(frontend, step, samples)
    begin, end = 6_000 + step * silent, 6_000 + step * (silent + length)
    centres = np.array([window.start + WINDOW // 2 for window in windows])
    scores = ((centres >= begin) & (centres < end)).astype(np.float32)[:, None]
    (event,) = detected(Detector(THRESHOLDS, WINDOW, step), windows, scores, samples)
    assert abs(event.start - begin) <= step / 2
    assert abs(event.end - end) <= step / 2


def test_hysteresis_holds_an_event_between_the_thresholds(frontend: Frontend) -> None:
    windows = windows_of(frontend, 1_600, 16_000)
    scores = np.array([0.3, 0.5, 0.3, 0.25, 0.24, 0.3, 0.1], np.float32)[:, None]
    (event,) = detected(Detector(THRESHOLDS, WINDOW, 1_600), windows, scores, 16_000)
    slots = slots_of(windows, 1_600, 0, 16_000)
    assert (event.start, event.end) == (slots[1][0], slots[3][1])


def test_what_goes_on_is_active_until_it_is_flushed(frontend: Frontend) -> None:
    detector, (window, *_) = Detector(THRESHOLDS, WINDOW, 1_600), windows_of(frontend, 1_600, 16_000)
    assert not list(detector.push(window, np.array([0.1, 0.5, 0.75], np.float32), SIZES[0]))
    assert detector.active == {1: 0.5, 2: 0.75}
    assert {event.class_index for event in detector.flush(16_000)} == {1, 2}
    assert detector.active == {}
    assert not list(detector.flush(16_000))


def test_thresholds_are_frozen_and_may_be_equal() -> None:
    assert replace(THRESHOLDS, off=0.5) == Thresholds(0.5, 0.5)


@pytest.mark.parametrize(("on", "off"), [(0.5, 0.6), (0.5, 0.0), (1.1, 0.5), (0.5, -0.1), (float("nan"), 0.3)])
def test_thresholds_that_cannot_work_are_refused(on: float, off: float) -> None:
    with pytest.raises(UsageError, match="expected 0 < off ≤ on ≤ 1"):
        Thresholds(on, off)
