"""Thresholds: what is promised of the clips is true of the clips."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.evaluation.operating_points import MIN_POSITIVES, Aim, OperatingPoint, operating_points

Float = NDArray[np.float32]
CLIP_S = 36.0
"""So that a hundred clips are an hour."""
AIMS = st.builds(Aim, precision=st.sampled_from([0.5, 0.9, 1.0]))


def count_noun(scores: Float, positive: NDArray[np.bool_], threshold: float) -> tuple[float, float, float]:
    """Precision, recall, false alarms per hour, clip by clip."""
    reported = [(variant, clip) for variant, clip in np.ndindex(scores.shape) if scores[variant, clip] >= threshold]
    hits = sum(bool(positive[clip]) for _, clip in reported)
    hours = (~positive).sum() * CLIP_S / 3600
    return hits / len(reported), hits / scores[:, positive].size, (len(reported) - hits) / len(scores) / hours


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(5, 30), AIMS)
def test_the_lowest_threshold_that_meets_the_aim_is_proposed(
    seed: int, variants: int, positives: int, aim: Aim
) -> None:
    rng = np.random.default_rng(seed)
    targets = np.zeros((80, 1), np.float32)
    targets[:positives] = 1
    levels = np.where(targets.T > 0, 0.6, 0.3) + rng.normal(0, 0.2, (variants, 80))
    scores = np.clip(np.round(levels, 2), 0.01, 1).astype(np.float32)  # rounded, so that some are equal
    (point,) = operating_points(scores[:, :, None], targets, [CLIP_S] * 80, ["dog"], aim)
    assert (point.positives, point.negatives) == (positives, 80 - positives)
    assert point.negative_hours == pytest.approx((80 - positives) / 100)
    positive = targets[:, 0] > 0
    candidates = np.unique(scores[:, positive])
    met = [one for one in candidates if count_noun(scores, positive, float(one))[0] >= aim.precision]
    if positives < MIN_POSITIVES:
        assert point.threshold is None
        assert point.reason
        return
    if not met:  # none of these clips reaches it, whatever it holds
        assert point.threshold is not None
        assert point.threshold > scores.max() or point.threshold == scores.max() == 1
        assert point.reason
        return
    assert point.threshold is not None
    assert count_noun(scores, positive, point.threshold) == pytest.approx(count_noun(scores, positive, float(met[0])))
    found = (point.precision, point.recall, point.false_alarms_per_hour)
    assert found == pytest.approx(count_noun(scores, positive, point.threshold))


def test_a_threshold_lies_half_way_between_what_is_reported_and_what_is_not() -> None:
    targets = np.repeat([[1.0], [0.0]], 10, axis=0).astype(np.float32)
    scores = np.where(targets > 0, 0.8, 0.2).astype(np.float32)[None]
    (point,) = operating_points(scores, targets, [1.0] * 20, ["dog"], Aim(precision=0.9))
    assert point.threshold == pytest.approx(0.5)
    assert (point.precision, point.recall, point.false_alarms_per_hour) == (1, 1, 0)


def test_labels_with_few_clips_keep_the_default_and_those_without_a_threshold_are_kept_silent() -> None:
    targets = np.zeros((30, 2), np.float32)
    targets[:5, 0] = targets[:10, 1] = 1
    scores = np.linspace(0.1, 0.9, 30, dtype=np.float32)[None, :, None].repeat(2, axis=2)
    few, hopeless = operating_points(scores, targets, [1.0] * 30, ["rare", "wrong"], Aim(precision=0.9))
    reason = "5 clips of it to fit on, 10 are needed"
    assert few == OperatingPoint(label="rare", positives=5, negatives=25, negative_hours=25 / 3600, reason=reason)
    assert hopeless.threshold == pytest.approx(0.95)  # half-way from the highest score of another clip to 1
    assert hopeless.recall == 0
    assert hopeless.reason == "no threshold gives it a precision of 0.9"


@pytest.mark.parametrize("precision", [0.0, -0.5, 1.1, math.nan])
def test_aims_that_cannot_be_met_are_refused(precision: float) -> None:
    with pytest.raises(UsageError):
        Aim(precision)
