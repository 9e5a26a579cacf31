"""The gate: exact for every window, whatever blocks the audio comes in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.spec import Spec
from flexiast_runtime.detection.framer import Framer
from flexiast_runtime.detection.gate import Gate

LOUD = st.lists(st.tuples(st.integers(0, 29_999), st.sampled_from([1e-3, -1e-3, 0.9e-4, float("nan")])), max_size=4)


@given(LOUD, st.lists(st.integers(1, 9_000), min_size=1, max_size=20), st.sampled_from([0, 123_456]))
def test_a_window_is_silent_if_no_sample_of_it_moves_and_reaches_the_level(
    tiny_spec: Spec, loud: list[tuple[int, float]], blocks: list[int], start: int
) -> None:
    samples = np.zeros(30_000, np.float32)
    for position, value in loud:
        samples[position] = value
    framer, gate, found = Framer(Frontend(tiny_spec.frontend), 1_600), Gate(-80), []
    framer.restart(start)
    cuts = np.cumsum(blocks)
    for offset, block in zip((0, *cuts), np.split(samples, cuts), strict=True):
        gate.update(start + int(offset), block)
        found += [(window, gate.silent(window.start, window.end)) for window in framer.push(block)]
    found += [(window, gate.silent(window.start, window.end)) for window in framer.flush()]
    assert len(found) == 16
    for window, silent in found:
        numbers = range(window.start - start, window.end - start)
        assert silent == (not any(sounds(samples, number) for number in numbers))


def sounds(samples: NDArray[np.float32], number: int) -> bool:
    """By the definition, one sample at a time: it reaches the level, and is not what the one before it was."""
    value, before = (float(samples[max(0, at)]) for at in (number, number - 1))
    return not abs(value) < 1e-4 and not abs(value - before) <= 1e-6


@pytest.mark.parametrize(("level", "silent"), [(-60.1, False), (-59.9, True), (-math.inf, False)])
def test_the_level_is_that_of_a_peak_in_dbfs(level: float, silent: bool) -> None:
    gate = Gate(level)
    gate.update(0, np.tile([1e-3, -1e-3], 500).astype(np.float32))
    assert gate.silent(0, 1_000) is silent


@pytest.mark.parametrize("level", [-80.0, -math.inf])
@pytest.mark.parametrize("offset", [0.0, 1e-3, -0.7, 1.0])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_samples_that_stand_still_are_silence_at_any_level_and_offset(
    level: float, offset: float, rate_hz: int
) -> None:
    gate, constant = Gate(level), np.full(3 * rate_hz, offset, np.float32)
    samples = constant if rate_hz == 16_000 else soxr.resample(constant, rate_hz, 16_000)
    for start in range(0, 48_000, 512):
        gate.update(start, samples[start : start + 512])
    assert gate.silent(16_000, 32_000)  # a filter begins and ends with a ripple


@pytest.mark.parametrize("hertz", [20, 50, 440])
def test_a_tone_is_no_silence_however_low(hertz: float) -> None:
    gate, times = Gate(-80.0), np.arange(16_000) / 16_000
    gate.update(0, (2e-4 * np.sin(2 * np.pi * hertz * times)).astype(np.float32))
    assert not gate.silent(0, 16_000)
