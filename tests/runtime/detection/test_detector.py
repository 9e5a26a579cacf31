"""Events, against a brute-force reading of the slots that tile the stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.detection.detector import Detection, Detector
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.rules import EventRules

Float = NDArray[np.float32]

WINDOW = 6_400
STEPS = st.sampled_from([160, 1_600, 3_200, 6_080])
DELAYS = st.sampled_from([0, 700, 2_400, 50_000])
STREAMS = st.integers(400, 30_000)
LEVELS = st.sampled_from([0.0, 0.25, 0.375, 0.5, 0.75, 1.0])
"""Scores on both sides of the thresholds and on them."""
RATE = 16_000
LABELS = ("bark", "clap", "hum")
RULES = EventRules(0.5, release=0.5)
SECONDS = st.sampled_from([0.0, 0.05, 0.1, 0.35, 0.7])
STRICT = st.builds(
    EventRules,
    label_thresholds=st.sampled_from([{}, {"clap": 0.75}]),
    release=st.sampled_from([0.5, 1.0]),
    confirm_s=SECONDS,
    merge_s=SECONDS,
    min_duration_s=SECONDS,
    deny=st.sampled_from([(), ("hum",)]),
)
SIZES = (PatchSize(8, 8), PatchSize(16, 16))


@pytest.fixture(scope="module")
def frontend(tiny_spec: Spec) -> Frontend:
    return Frontend(tiny_spec.frontend)


def windows_of(frontend: Frontend, step: int, samples: int, start: int = 0) -> list[Window]:
    framer = Framer(frontend, step)
    framer.restart(start)
    return [*framer.push(np.zeros(samples, np.float32)), *framer.flush()]


def detector_of(rules: EventRules, step: int, delay: int = 0, classes: int = 3) -> Detector:
    return Detector(rules, LABELS[:classes], RATE, WINDOW, step, delay)


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


def brute_force(scores: Float, slots: list[tuple[int, int]], rules: EventRules) -> set[Detection]:
    """All of the stream at once: runs, then merged, then those that are long enough."""
    found = set()
    for index, on in enumerate(rules.thresholds(LABELS)):
        events: list[Detection] = []
        for first, last in stretches(scores[:, index], slots, float(on), rules):
            best = first + int(scores[first : last + 1, index].argmax())
            event = Detection(
                index, slots[first][0], slots[last][1], float(scores[best, index]), SIZES[best % 2], float(on)
            )
            if events and event.start - events[-1].end < rules.merge_s * RATE:
                before = events.pop()
                louder = event if event.score > before.score else before
                event = Detection(index, before.start, event.end, louder.score, louder.patch, float(on))
            events.append(event)
        found |= {event for event in events if event.end - event.start >= rules.min_duration_s * RATE}
    return found


def stretches(row: Float, slots: list[tuple[int, int]], on: float, rules: EventRules) -> Iterator[tuple[int, int]]:
    """First and last slot of each maximal run that stays at ``on`` for long enough at its start."""
    slot = 0
    while slot < len(row):
        stop = slot
        while stop < len(row) and row[stop] >= on:
            stop += 1
        if stop == slot or slots[stop - 1][1] - slots[slot][0] < rules.confirm_s * RATE:
            slot = max(stop, slot + 1)
            continue
        while stop < len(row) and row[stop] >= rules.release * on:
            stop += 1
        yield slot, stop - 1
        slot = stop


@st.composite
def score_tables(draw: st.DrawFn) -> Float:
    """Scores [200 windows, 3 classes] that stay for a while, as sounds do."""
    runs = draw(st.lists(st.tuples(st.tuples(LEVELS, LEVELS, LEVELS), st.integers(1, 5)), min_size=1, max_size=12))
    rows = [levels for levels, length in runs for _ in range(length)]
    return np.array([rows[index % len(rows)] for index in range(200)], np.float32)


@settings(max_examples=100)
@given(score_tables(), STREAMS, STEPS, DELAYS, STRICT)
def test_events_are_those_of_brute_force(
    frontend: Frontend, scores: Float, samples: int, step: int, delay: int, rules: EventRules
) -> None:
    windows = windows_of(frontend, step, samples)
    found = detected(detector_of(rules, step, delay), windows, scores, samples)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(scores[: len(windows)], slots_of(windows, step, delay, samples), rules)


@given(score_tables(), STREAMS, STEPS, DELAYS, STRICT, st.sampled_from([0, 123_456]))
def test_events_of_a_label_lie_apart_and_inside_the_stream(
    frontend: Frontend, scores: Float, samples: int, step: int, delay: int, rules: EventRules, start: int
) -> None:
    """Also of a stream that begins after a discontinuity, which none reaches across."""
    detector, found = detector_of(rules, step, delay), []
    for begin in (0, start + samples):
        found += detected(detector, windows_of(frontend, step, samples, begin), scores, begin + samples)
    for index in range(3):
        bounds = sorted((event.start, event.end) for event in found if event.class_index == index)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(bounds))
        for begin, end in bounds:
            assert begin < end
            assert 0 <= begin < end <= samples or start + samples <= begin < end <= start + 2 * samples


@given(score_tables(), STRICT, st.sampled_from([3, 5]))
def test_the_step_does_not_show(frontend: Frontend, scores: Float, rules: EventRules, finer: int) -> None:
    """Windows that look more often and find the same score in the same slot make the same events."""
    coarse, samples = 160 * finer * 3, 30_000
    step = coarse // finer
    rough, fine = windows_of(frontend, coarse, samples), windows_of(frontend, step, samples)
    ends = [end for _, end in slots_of(rough, coarse, 0, samples)]
    same = [scores[np.searchsorted(ends, (begin + end) // 2)] for begin, end in slots_of(fine, step, 0, samples)]
    expected = detected(detector_of(rules, coarse), rough, scores, samples)
    found = detected(detector_of(rules, step), fine, np.array(same), samples)
    # the last window is short and reaches as far as the stream does: how far its slot goes back depends on the step
    last = slots_of(rough, coarse, 0, samples)[-1][0] - coarse
    assert bounds_until(found, last) == bounds_until(expected, last)


def bounds_until(events: list[Detection], sample: int) -> list[tuple[int, int, int, float]]:
    return sorted((e.class_index, e.start, e.end, e.score) for e in events if e.end <= sample)


@given(STREAMS, STEPS, DELAYS, st.sampled_from([0, 123_456, 2**53 + 1]))
def test_slots_tile_the_stream(frontend: Frontend, samples: int, step: int, delay: int, start: int) -> None:
    """A score above the threshold in one window only makes an event of that window's slot."""
    windows = windows_of(frontend, step, samples, start)
    covered = start
    for loud in range(len(windows)):
        scores = np.zeros((len(windows), 1), np.float32)
        scores[loud] = 1.0
        (event,) = detected(detector_of(RULES, step, delay, 1), windows, scores, start + samples)
        assert event.start == covered
        assert event.end > event.start
        covered = event.end
    assert covered == start + samples


@given(STREAMS, STEPS, DELAYS)
def test_a_sound_that_never_stops_is_the_whole_stream(frontend: Frontend, samples: int, step: int, delay: int) -> None:
    windows = windows_of(frontend, step, samples)
    found = detected(detector_of(RULES, step, delay, 1), windows, np.ones((len(windows), 1), np.float32), samples)
    assert [(event.start, event.end) for event in found] == [(0, samples)]


@pytest.mark.parametrize("samples", [400, 2_000, 6_400])
def test_a_clip_of_one_window_is_one_event_of_the_whole_clip(frontend: Frontend, samples: int) -> None:
    (window,) = windows_of(frontend, 1_600, samples)
    (event,) = detected(detector_of(RULES, 1_600, classes=2), [window], np.array([[0.0, 0.9]], np.float32), samples)
    assert event == Detection(1, 0, samples, float(np.float32(0.9)), SIZES[0], 0.5)


@given(st.integers(1, 25), st.integers(0, 20))
def test_the_middle_of_an_event_is_the_middle_of_the_sound(frontend: Frontend, length: int, silent: int) -> None:
    """Windows whose centre lies in the sound score high: the event then is the sound, to half a step."""
    step, samples = 160, 30_000
    windows = windows_of(frontend, step, samples)
    begin, end = 6_000 + step * silent, 6_000 + step * (silent + length)
    centres = np.array([window.start + WINDOW // 2 for window in windows])
    scores = ((centres >= begin) & (centres < end)).astype(np.float32)[:, None]
    (event,) = detected(detector_of(RULES, step, classes=1), windows, scores, samples)
    assert abs(event.start - begin) <= step / 2
    assert abs(event.end - end) <= step / 2


def test_hysteresis_holds_an_event_between_the_thresholds(frontend: Frontend) -> None:
    windows = windows_of(frontend, 1_600, 16_000)
    scores = np.array([0.3, 0.5, 0.3, 0.25, 0.24, 0.3, 0.1], np.float32)[:, None]
    (event,) = detected(detector_of(RULES, 1_600, classes=1), windows, scores, 16_000)
    slots = slots_of(windows, 1_600, 0, 16_000)
    assert (event.start, event.end) == (slots[1][0], slots[3][1])


def test_what_goes_on_is_active_until_it_is_flushed(frontend: Frontend) -> None:
    detector, (window, *_) = detector_of(RULES, 1_600), windows_of(frontend, 1_600, 16_000)
    assert not list(detector.push(window, np.array([0.1, 0.5, 0.75], np.float32), SIZES[0]))
    assert detector.active == {1: 0.5, 2: 0.75}
    assert {event.class_index for event in detector.flush(16_000)} == {1, 2}
    assert detector.active == {}
    assert not list(detector.flush(16_000))


def test_an_event_is_confirmed_by_time_and_begins_where_it_truly_began(frontend: Frontend) -> None:
    windows = windows_of(frontend, 1_600, 32_000)
    scores = np.array([0, 1, 0, 0, 1, 1, 1, 0.3, 0] + 20 * [0], np.float32)[:, None]
    rules = EventRules(confirm_s=0.25)  # two and a half steps
    slots = slots_of(windows, 1_600, 0, 32_000)
    (event,) = detected(detector_of(rules, 1_600, classes=1), windows, scores, 32_000)
    assert (event.start, event.end) == (slots[4][0], slots[7][1])


def test_what_is_not_confirmed_is_not_active(frontend: Frontend) -> None:
    detector = detector_of(EventRules(confirm_s=0.15), 1_600)
    active = []
    for window in windows_of(frontend, 1_600, 16_000)[1:5]:
        assert not list(detector.push(window, np.array([0, 0.75, 0], np.float32), SIZES[0]))
        active.append(set(detector.active))
    assert active == [set(), set(), {1}, {1}]


def test_an_event_waits_for_the_next_only_as_long_as_they_could_be_one(frontend: Frontend) -> None:
    detector, (first, *windows) = detector_of(EventRules(merge_s=0.3), 1_600), windows_of(frontend, 1_600, 32_000)
    loud, quiet = (np.array([score, 0, 0], np.float32) for score in (0.9, 0.0))
    told = [
        len(list(detector.push(window, loud if window is first else quiet, SIZES[0]))) for window in (first, *windows)
    ]
    assert told.index(1) == 1 + 3  # ended with the second window, three steps later nothing can follow
    assert sum(told) == 1
