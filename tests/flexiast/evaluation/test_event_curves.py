"""Curves and scores of events: equal to those of sed_eval and sed_scores_eval, which `make_sed_reference.py` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiast.evaluation.event_curves import Curve, StreamScores, Timeline, compute_psds, lay_end_to_end, sweep
from flexiast.evaluation.events import Counts, Sound, count_by_onset

LABELS = ("dog", "rain")
STEP_S = 0.25
REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("sed_reference.json").read_text())


@pytest.fixture(scope="module")
def streams() -> list[StreamScores]:
    return [
        StreamScores(
            np.arange(len(one["scores"]) + 1) * STEP_S,
            np.array(one["scores"], np.float32),
            [Sound(*event) for event in one["events"]],
        )
        for one in REFERENCE["streams"]
    ]


@pytest.fixture(scope="module")
def timeline(streams: list[StreamScores]) -> Timeline:
    return lay_end_to_end(streams, LABELS)


@pytest.mark.parametrize("expected", REFERENCE["psds"])
def test_the_score_is_that_of_sed_scores_eval(timeline: Timeline, expected: dict[str, float]) -> None:
    """Which tries every threshold, between each two scores; they stand at whole hundredths here."""
    found = compute_psds(
        timeline,
        1.0,
        np.arange(0.005, 1, 0.01).tolist(),
        share=expected["share"],
        most_per_hour=expected["most_per_hour"],
        spread_cost=expected["spread_cost"],
    )
    assert found == pytest.approx(expected["psds"], abs=1e-9)


@pytest.mark.parametrize("expected", REFERENCE["overlap"])
def test_counts_by_overlap_are_those_of_sed_scores_eval(timeline: Timeline, expected: dict[str, Any]) -> None:
    counts = timeline.count(LABELS.index(expected["label"]), expected["threshold"], 1.0, expected["share"])
    assert counts.false == expected["false"]
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx(
        (expected["precision"], expected["recall"], expected["f1"])
    )


@pytest.mark.parametrize("expected", REFERENCE["onset"])
def test_counts_by_onset_are_those_of_sed_eval(streams: list[StreamScores], expected: dict[str, float]) -> None:
    total = Counts()
    for one in streams:
        alone = lay_end_to_end([one], LABELS)
        found = [
            Sound(label, *pair)
            for index, label in enumerate(LABELS)
            for pair in alone.detections(index, expected["threshold"], 1.0).tolist()
        ]
        total += count_by_onset(found, one.events, expected["collar_s"])
    assert (total.right, total.detections) == (expected["right"], expected["detections"])
    assert total.f1 == pytest.approx(expected["f1"])


def test_the_reference_tells_something() -> None:
    assert len({round(one["psds"], 6) for one in REFERENCE["psds"]}) > 6
    assert len({one["false"] for one in REFERENCE["overlap"]}) > 6
    assert len({one["right"] for one in REFERENCE["onset"]}) > 2


def test_no_event_goes_on_from_one_stream_to_the_next() -> None:
    loud = np.ones((4, 1), np.float32)
    streams = [StreamScores(np.arange(5) * STEP_S, loud, [Sound("dog", 0, 1)]) for _ in range(3)]
    timeline = lay_end_to_end(streams, ("dog",))
    assert timeline.detections(0, 0.5, 0.6).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert timeline.hours == pytest.approx(3 / 3600)


def test_an_event_begins_at_the_threshold_and_ends_below_the_release() -> None:
    scores = np.array([[0.4], [0.6], [0.4], [0.2], [0.4], [0.2]], np.float32)
    timeline = lay_end_to_end([StreamScores(np.arange(7.0), scores, [])], ("dog",))
    assert timeline.detections(0, 0.5, 0.6).tolist() == [[1, 3]]
    assert timeline.detections(0, 0.5, 1.0).tolist() == [[1, 2]]
    assert timeline.detections(0, 0.7, 0.6).tolist() == []


def test_the_lowest_threshold_keeps_a_budget_from_there_on() -> None:
    counts = [Counts(events=10, found=found) for found in (9, 8, 7, 6)]
    curve = Curve((0.2, 0.4, 0.6, 0.8), counts, (5.0, 0.5, 2.0, 0.5))
    assert curve.find_lowest(1.0) == (0.8, counts[3])  # 0.4 keeps it by chance alone
    assert curve.find_lowest(2.0) == (0.4, counts[1])
    assert curve.find_lowest(0.1) is None


def test_silence_has_no_curve_and_nothing_to_score() -> None:
    timeline = lay_end_to_end([], LABELS)
    assert compute_psds(timeline, 0.6) is None
    assert set(sweep(timeline, 0.6)) == {Counts()}
