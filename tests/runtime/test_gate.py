"""The gate: exact for every window, whatever blocks the audio comes in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.frontend import Frontend
from flexiast.spec import Spec
from flexiast_runtime.framer import Framer
from flexiast_runtime.gate import Gate

LOUD = st.lists(st.tuples(st.integers(0, 29_999), st.sampled_from([1e-3, -1e-3, 0.9e-4, float("nan")])), max_size=4)


@given(LOUD, st.lists(st.integers(1, 9_000), min_size=1, max_size=20), st.sampled_from([0, 123_456]))
def test_a_window_is_silent_if_none_of_its_samples_reaches_the_level(
    tiny_spec: Spec, loud: list[tuple[int, float]], blocks: list[int], start: int
) -> None:
    samples = np.zeros(30_000, np.float32)
    for position, value in loud:
        samples[position] = value
    framer, gate, found = Framer(Frontend(tiny_spec.frontend), 1_600), Gate(-80), []
    framer.restart(start)
    cuts = np.cumsum(blocks)
    for offset, block in zip((0, *cuts), np.split(samples, cuts), strict=True):
        gate.hear(start + int(offset), block)
        found += [(window, gate.silent(window.start, window.end)) for window in framer.push(block)]
    found += [(window, gate.silent(window.start, window.end)) for window in framer.flush()]
    assert len(found) == 16
    for window, silent in found:
        heard = samples[window.start - start : window.end - start]
        assert silent == bool((np.abs(heard) < 1e-4).all())


@pytest.mark.parametrize(("level", "silent"), [(-60.1, False), (-59.9, True), (-math.inf, False)])
def test_the_level_is_that_of_a_peak_in_dbfs(level: float, silent: bool) -> None:
    gate = Gate(level)
    gate.hear(0, np.full(1_000, 1e-3, np.float32))
    assert gate.silent(0, 1_000) is silent


def test_without_a_level_digital_silence_runs_too() -> None:
    gate = Gate(-math.inf)
    gate.hear(0, np.zeros(1_000, np.float32))
    assert not gate.silent(0, 1_000)
