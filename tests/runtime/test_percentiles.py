"""Percentiles against NumPy's, and their bounds against what they promise."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.percentiles import interval, is_stable, percentile

VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200).map(sorted)
PERCENT = st.sampled_from([50, 90, 95, 99])


@given(VALUES, PERCENT)
def test_it_is_numpys_by_nearest_rank(values: list[float], percent: int) -> None:
    assert percentile(values, percent) == np.percentile(values, percent, method="inverted_cdf")


@given(VALUES, PERCENT)
def test_the_bounds_enclose_it(values: list[float], percent: int) -> None:
    low, high = interval(values, percent)
    assert low <= percentile(values, percent) <= high


def test_the_bounds_hold_the_true_percentile_nineteen_times_in_twenty() -> None:
    """Exponential: its 95th percentile is ln 20. Of 2,000 draws 95 % ± 1.5 % (three standard errors) may be right."""
    random, held = np.random.default_rng(0), 0
    for _ in range(2_000):
        low, high = interval(sorted(random.exponential(size=300)), 95)
        held += low <= np.log(20) <= high
    assert 0.935 <= held / 2_000 <= 0.98  # whole ranks make the bounds a little wider than asked


def test_it_is_stable_once_enough_values_agree() -> None:
    random = np.random.default_rng(0)
    assert not is_stable([1.0] * 39, 95, 0.1)  # fewer than two values may lie above
    assert is_stable([1.0] * 41, 95, 0.1)
    assert not is_stable(list(random.exponential(size=200)), 95, 0.1)
    assert is_stable(list(random.exponential(size=20_000)), 95, 0.1)
