"""Events against detections: both ways of counting against a slow second implementation, over random streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from flexiast.evaluation.events import Counts, Sound, count_by_onset, count_by_overlap, match_by_overlap, pair_by_onset

LABELS = ("dog", "rain")


@st.composite
def make_sounds(draw: st.DrawFn) -> list[Sound]:
    """Sounds of two labels; those of one label do not overlap."""
    found = []
    for label in LABELS:
        edges = draw(st.lists(st.integers(0, 80), max_size=12, unique=True).map(sorted))
        found += [Sound(label, float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return draw(st.permutations(found))


def measure_cover(one: Sound, others: list[Sound]) -> float:
    own = [other for other in others if other.label == one.label]
    return sum(max(0.0, min(one.end_s, o.end_s) - max(one.start_s, o.start_s)) for o in own)


@given(make_sounds(), make_sounds(), st.sampled_from([0.1, 0.5, 0.7, 1.0]))
def test_overlap_counts_agree_with_a_sum_over_all_pairs(
    detections: list[Sound], events: list[Sound], share: float
) -> None:
    right = [measure_cover(one, events) >= share * (one.end_s - one.start_s) for one in detections]
    kept = [one for one, is_right in zip(detections, right, strict=True) if is_right]
    found = [measure_cover(one, kept) >= share * (one.end_s - one.start_s) for one in events]
    is_right, is_found = match_by_overlap(detections, events, share)
    assert is_right.tolist() == right
    assert is_found.tolist() == found


@given(make_sounds(), make_sounds(), st.sampled_from([0.5, 3.0, 10.0]))
def test_as_many_onsets_are_paired_as_can_be(detections: list[Sound], events: list[Sound], collar_s: float) -> None:
    fits = np.array(
        [[a.label == b.label and abs(a.start_s - b.start_s) <= collar_s for b in events] for a in detections]
    ).reshape(len(detections), len(events))
    paired = list(pair_by_onset(detections, events, collar_s))
    assert all(fits[pair] for pair in paired)
    assert len({row for row, _ in paired}) == len({column for _, column in paired}) == len(paired)
    rows, columns = linear_sum_assignment(fits, maximize=True)
    assert len(paired) == fits[rows, columns].sum()


def test_one_long_detection_finds_several_events_and_several_short_ones_find_one() -> None:
    barks = [Sound("dog", 1, 2), Sound("dog", 3, 4)]
    assert count_by_overlap([Sound("dog", 0, 5)], barks) == Counts(1, 1, 2, 2)
    assert count_by_overlap(barks, [Sound("dog", 0, 5)]) == Counts(2, 2, 1, 1)
    assert count_by_onset([Sound("dog", 0.6, 5)], barks) == Counts(1, 1, 1, 2)


@pytest.mark.parametrize(
    ("detection", "right"),
    [
        (Sound("dog", 10, 20), True),
        (Sound("cat", 10, 20), False),
        (Sound("dog", 5, 10), False),  # touches it
        (Sound("dog", 0, 100), True),  # a tenth of it is right
        (Sound("dog", 0, 101), False),
        (Sound("dog", 19, 21), True),  # a tenth of the event
        (Sound("dog", 19.1, 20), False),  # right, and too little to be all that finds it
    ],
)
def test_a_tenth_is_enough(detection: Sound, right: bool) -> None:
    assert count_by_overlap([detection], [Sound("dog", 10, 20)]).found == right


def test_counts_add_up_to_precision_recall_and_f1() -> None:
    total = Counts(2, 3, 1, 3) + Counts(1, 1, 2, 2)
    assert (total.false, total.precision, total.recall) == (1, 0.75, 0.6)
    assert total.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert (Counts().precision, Counts().recall, Counts().f1) == (None, None, None)
