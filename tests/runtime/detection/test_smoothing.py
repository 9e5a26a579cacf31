"""Smoothing in seconds: the step must not show in the result."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast_runtime.detection.smoothing import Smoother

Float = NDArray[np.float32]

SECONDS = st.floats(0.05, 10.0)
SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


def score(value: float) -> Float:
    return np.array([value], np.float32)


def after_a_change(seconds: float, step_s: float, steps: int) -> float:
    """From a score held at 0, this long after it went to 1."""
    smoother = Smoother(seconds, step_s)
    smoother.push(score(0.0))
    return float([smoother.push(score(1.0)) for _ in range(steps)][-1][0])


@given(SECONDS, st.integers(1, 20), st.integers(2, 8))
def test_a_held_score_is_smoothed_alike_at_any_step(seconds: float, coarse: int, finer: int) -> None:
    # (1 − w)ⁿ = exp(−t / seconds) whatever n; float32 rounds once a step
    assert after_a_change(seconds, 0.1, coarse) == pytest.approx(
        after_a_change(seconds, 0.1 / finer, coarse * finer), abs=1e-5
    )


@given(SECONDS, st.integers(1, 50))
def test_after_the_time_constant_two_thirds_of_a_change_have_arrived(seconds: float, steps: int) -> None:
    # 1 − 1/e, to float32's rounding of each step
    assert after_a_change(seconds, seconds / steps, steps) == pytest.approx(1 - math.exp(-1), abs=1e-5)


@given(SCORES)
def test_no_seconds_pass_all_through(values: list[float]) -> None:
    smoother = Smoother(0.0, 0.1)
    # x + (y − x) is y to the last digit of the larger one
    assert [float(smoother.push(score(value))[0]) for value in values] == pytest.approx(values, abs=1e-7)
    assert smoother.delay_steps == 0


@given(SCORES, SECONDS, st.floats(0.01, 1.0))
def test_a_smoothed_score_lies_between_those_that_came(values: list[float], seconds: float, step_s: float) -> None:
    smoother = Smoother(seconds, step_s)
    for count, value in enumerate(values, start=1):
        smoothed = float(smoother.push(score(value))[0])
        # one rounding of float32 may step over the edge
        assert min(values[:count]) - 1e-6 <= smoothed <= max(values[:count]) + 1e-6


@given(SECONDS, st.floats(0.02, 1.0))
def test_the_delay_is_what_a_rising_score_lags_behind(seconds: float, step_s: float) -> None:
    smoother, rise = Smoother(seconds, step_s), 2.0**-13  # sums of it are exact in float32
    steps = math.ceil(15 * seconds / step_s) + 1  # exp(−15) of the start is left
    for step in range(steps):
        smoothed = float(smoother.push(score(rise * step))[0])
    lag = step - smoothed / rise
    # float32 carries steps · rise to 24 bits, and each rounding stays for 1 / weight steps
    assert lag == pytest.approx(smoother.delay_steps, rel=0.02, abs=0.01)


def test_each_class_is_smoothed_by_itself() -> None:
    both, first, second = Smoother(1.0, 0.3), Smoother(1.0, 0.3), Smoother(1.0, 0.3)
    for pair in np.random.default_rng(0).random((10, 2), np.float32):
        expected = np.concatenate((first.push(pair[:1]), second.push(pair[1:])))
        assert np.array_equal(both.push(pair), expected)


def test_the_first_score_counts_whole_and_again_after_a_reset() -> None:
    smoother = Smoother(5.0, 0.1)
    assert smoother.push(score(0.75)) == score(0.75)
    smoother.push(score(0.0))
    smoother.reset()
    assert smoother.push(score(0.25)) == score(0.25)
