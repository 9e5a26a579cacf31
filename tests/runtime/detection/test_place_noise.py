"""The signal-to-noise ratio of a place, from levels of windows with and without events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.detection.place_noise import FEW_QUIET, RANGE_DB, PlaceNoise


@given(st.floats(-60, -20), st.floats(-5, 30), st.integers(0, 9))
def test_the_ratio_of_mixed_sounds_is_found(noise_dbfs: float, snr_db: float, seed: int) -> None:
    """Within 3 dB: levels of single windows scatter by 1 dB, and the background is a low percentile of them."""
    rng, place = np.random.default_rng(seed), PlaceNoise()
    mixed_dbfs = noise_dbfs + 10 * math.log10(1 + 10 ** (snr_db / 10))
    for window in range(600):
        is_event = window % 5 == 0
        place.add((mixed_dbfs if is_event else noise_dbfs) + float(rng.normal(0, 1)), is_event=is_event)
    assert place.snr_db is not None
    assert place.snr_db == pytest.approx(snr_db, abs=3 if snr_db > 3 else 6)  # of what is left of the power: more


def test_nothing_is_known_without_events_or_background() -> None:
    place = PlaceNoise()
    for _ in range(10 * FEW_QUIET):
        place.add(-50.0, is_event=False)
        place.add(math.nan, is_event=True)
    assert place.snr_db is None
    for _ in range(30):
        place.add(-20.0, is_event=True)
    assert place.snr_db == pytest.approx(30, abs=0.1)


def test_events_that_are_not_louder_than_the_background_have_the_lowest_ratio() -> None:
    place = PlaceNoise()
    for _ in range(300):
        place.add(-30.0, is_event=False)
        place.add(-30.0, is_event=True)
    assert place.snr_db == -RANGE_DB
