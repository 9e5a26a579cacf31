"""A budget of false alarms: Poisson by SciPy, events by the detector itself, and a sum that stays within it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from flexiast.errors import UsageError
from flexiast.evaluation.budget import (
    LOWEST_SCORE,
    Trace,
    check_budget,
    hours_needed,
    most_events,
    thresholds_for,
    upper_bound,
)
from flexiast.spec import PatchSize
from flexiast_runtime.detection.detector import Detector
from flexiast_runtime.detection.framer import Window
from flexiast_runtime.detection.rules import EventRules

Float = NDArray[np.float32]
RELEASE = EventRules.release
NONE = np.empty((0, 0), np.float32)


def trace_of(scores: Float) -> Trace:
    windows = np.flatnonzero(scores >= LOWEST_SCORE)
    return Trace(windows, scores[windows])


def detected(scores: Float, threshold: float) -> list[float]:
    """Scores of the events that the runtime reports, a window a sample."""
    detector = Detector(EventRules(threshold), ("a",), 1, 1, 1)
    found = []
    for index, score in enumerate(scores):
        window = Window(index, index + 1, NONE, index == 0, NONE)
        found += [event.score for event in detector.push(window, np.array([score], np.float32), PatchSize(8, 8))]
    return found + [event.score for event in detector.flush(len(scores))]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0.5, 1))
def test_peaks_are_those_of_the_detectors_events(scores: list[float], threshold: float) -> None:
    given_scores = np.array(scores, np.float32)
    found = trace_of(given_scores).peaks(threshold, RELEASE)
    assert found.tolist() == [float(np.float32(score)) for score in detected(given_scores, threshold)]


@pytest.mark.parametrize("events", [0, 1, 5, 40])
def test_the_bound_is_that_of_the_chi_squared_distribution(events: int) -> None:
    assert upper_bound(events) == pytest.approx(chi2.ppf(0.9, 2 * (events + 1)) / 2, rel=1e-9)


@given(st.floats(0.1, 200), st.floats(0.05, 20))
def test_as_many_events_as_the_budget_bears_and_no_more(hours: float, per_hour: float) -> None:
    most = most_events(hours, per_hour)
    if most is None:
        assert hours_needed(0, per_hour) > hours
    else:
        assert hours_needed(most, per_hour) <= hours < hours_needed(most + 1, per_hour)


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40), min_size=1, max_size=4), st.integers(0, 6)
)
def test_all_labels_together_stay_within_the_budget(scores: list[list[float]], most: int) -> None:
    streams = [np.array(label, np.float32) * np.float32(0.999) for label in scores]
    thresholds = thresholds_for([trace_of(stream) for stream in streams], most, RELEASE)
    assert sum(len(detected(stream, t)) for stream, t in zip(streams, thresholds, strict=True)) <= most
    assert all(0.5 <= threshold <= 1 for threshold in thresholds)


def test_thresholds_rise_no_further_than_they_must() -> None:
    quiet, weak, strong = (np.zeros(50, np.float32) for _ in range(3))
    weak[[5, 15]] = 0.6, 0.7
    strong[[10, 20]] = 0.9, 0.8
    traces = [trace_of(stream) for stream in (quiet, weak, strong)]
    assert thresholds_for(traces, 4, RELEASE) == [0.5, 0.5, 0.5]
    assert thresholds_for(traces, 2, RELEASE) == pytest.approx([0.5, 0.85, 0.5])
    assert thresholds_for(traces, 1, RELEASE) == pytest.approx([0.5, 0.85, 0.85])
    assert thresholds_for(traces, 0, RELEASE) == pytest.approx([0.5, 0.85, 0.95])


@pytest.mark.parametrize("per_hour", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_cannot_be_kept_is_refused(per_hour: float) -> None:
    with pytest.raises(UsageError, match="give a number above 0"):
        check_budget(per_hour)
