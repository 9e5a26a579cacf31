"""What a clock says of missing audio: jitter and drift are no loss, every hole is, once, with its size."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast_runtime.audio.timeline import MAX_DRIFT, TOLERATED_S, Timeline, uptime_s

RATE_HZ, BLOCK = 16_000, 512
BLOCK_S = BLOCK / RATE_HZ
SIZE_S = 0.05
"""How well the size of a hole is known."""
SEEDS = st.integers(0, 2**32 - 1)
DRIFTS = st.floats(-300e-6, 300e-6)


def arrivals(blocks: int, late_s: NDArray[np.float64], drift: float = 0.0, block_s: float = BLOCK_S) -> list[float]:
    """When blocks come from a device whose clock is so much slow, each as late as told; in order."""
    due_s = 1e6 + np.arange(1, blocks + 1) * block_s * (1 + drift)
    return list(np.maximum.accumulate(due_s + late_s))


def losses(times_s: Iterable[float], block: int = BLOCK) -> list[float]:
    """Seconds, each time that some are said to be lost."""
    timeline = Timeline(RATE_HZ)
    return [lost / RATE_HZ for now_s in times_s if (lost := timeline.push(now_s, block))]


@given(seed=SEEDS, most_s=st.floats(0, 0.9 * TOLERATED_S), drift=DRIFTS)
def test_lateness_within_bounds_is_no_loss(seed: int, most_s: float, drift: float) -> None:
    late_s = np.random.default_rng(seed).uniform(0, most_s, 2_000)
    assert losses(arrivals(2_000, late_s, drift)) == []


@given(pieces=st.lists(st.tuples(st.integers(1, 200), st.floats(0, 0.9 * TOLERATED_S)), min_size=1, max_size=15))
def test_lateness_that_lasts_is_no_loss_either(pieces: list[tuple[int, float]]) -> None:
    late_s = np.concatenate([np.full(blocks, lateness_s) for blocks, lateness_s in pieces])
    assert losses(arrivals(len(late_s), late_s)) == []


@given(stall=st.integers(2, 300), at=st.integers(0, 300))
def test_audio_that_comes_late_all_at_once_is_no_loss(stall: int, at: int) -> None:
    """PulseAudio after a stall: nothing for a while, then everything."""
    times_s = np.array(arrivals(800, np.zeros(800)))
    times_s[at : at + stall] = times_s[at + stall]
    assert losses(times_s) == []


@given(
    seed=SEEDS,
    most_s=st.floats(0, 0.2),
    drift=DRIFTS,
    at=st.integers(200, 900),
    hole_s=st.one_of(st.floats(0.5, 5.0), st.floats(5.0, 1e6)),
)
def test_a_hole_is_reported_once_with_its_size(seed: int, most_s: float, drift: float, at: int, hole_s: float) -> None:
    """Whether the device dropped it or the machine slept: later blocks come that much later."""
    late_s = np.random.default_rng(seed).uniform(0, most_s, 1_200)
    times_s = np.array(arrivals(1_200, late_s, drift))
    times_s[at:] += hole_s
    (lost_s,) = losses(times_s)
    assert lost_s == pytest.approx(hole_s, abs=SIZE_S)


@given(holes=st.lists(st.tuples(st.integers(100, 400), st.floats(0.5, 60.0)), min_size=1, max_size=6), seed=SEEDS)
def test_holes_are_told_apart(holes: list[tuple[int, float]], seed: int) -> None:
    ends = np.cumsum([blocks for blocks, _ in holes])
    total = int(ends[-1]) + 200
    times_s = np.array(arrivals(total, np.random.default_rng(seed).uniform(0, 0.04, total)))
    for end, (_, hole_s) in zip(ends, holes, strict=True):
        times_s[end:] += hole_s
    assert losses(times_s) == pytest.approx([hole_s for _, hole_s in holes], abs=SIZE_S)


@pytest.mark.parametrize("drift", [-300e-6, 300e-6])
def test_days_of_drift_are_no_loss(drift: float) -> None:
    """A drift of 300 ppm is 26 s a day; blocks of a second, so that the test is short."""
    seconds = 2 * 86_400
    late_s = np.random.default_rng(3).uniform(0, 0.1, seconds)
    assert losses(arrivals(seconds, late_s, drift, block_s=1.0), block=RATE_HZ) == []


def test_a_clock_slower_than_any_loses_audio() -> None:
    """Twice the drift that is followed: what is above it adds up."""
    times_s = arrivals(4_000, np.zeros(4_000), drift=2 * MAX_DRIFT + 0.01)
    assert sum(losses(times_s)) == pytest.approx(0.01 * 4_000 * BLOCK_S, abs=TOLERATED_S + SIZE_S)


@given(hole_s=st.floats(0.0, 3_600.0), late_s=st.floats(0, 0.04))
def test_a_known_break_is_counted_at_once(hole_s: float, late_s: float) -> None:
    timeline, times_s = Timeline(RATE_HZ), arrivals(300, np.zeros(300))
    for now_s in times_s[:-1]:
        assert timeline.push(now_s, BLOCK) == 0
    lost = timeline.push(times_s[-1] + hole_s + late_s, BLOCK, broken=True)
    assert lost >= BLOCK  # a reader must see the break even where the clock shows none
    assert lost / RATE_HZ == pytest.approx(max(hole_s, BLOCK_S), abs=SIZE_S)


@given(late_s=st.lists(st.floats(0, 0.1), min_size=50, max_size=50))
def test_many_breaks_do_not_add_up_to_more_than_was_lost(late_s: list[float]) -> None:
    """What lateness added to one break is taken off the next; each hides 0.3 s."""
    timeline, now_s, said = Timeline(RATE_HZ), 0.0, 0
    for lateness_s in late_s:
        for _ in range(50):
            now_s += BLOCK_S
            said += timeline.push(now_s, BLOCK)
        now_s += BLOCK_S + 0.3
        said += timeline.push(now_s + lateness_s, BLOCK, broken=True)
    assert said / RATE_HZ == pytest.approx(50 * 0.3, abs=0.1 + SIZE_S)


def test_the_clock_is_not_the_one_that_people_set() -> None:
    wanted = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    before = time.clock_gettime(wanted)
    assert before <= uptime_s() <= time.clock_gettime(wanted)


@given(seed=SEEDS, most_s=st.floats(0, 0.05), drift=DRIFTS)
def test_the_drift_of_a_clock_is_told_once_it_is_known(seed: int, most_s: float, drift: float) -> None:
    late_s = np.random.default_rng(seed).uniform(0, most_s, 10_000)
    timeline, told = Timeline(RATE_HZ), []
    for now_s in arrivals(10_000, late_s, drift):
        assert timeline.push(now_s, BLOCK) == 0
        told.append(timeline.drift_ppm)
    assert told[int(50 / BLOCK_S)] is None
    # the most punctual block of a second, one of 31, is at most a tenth of 50 ms late; over 320 s that is 16 ppm
    assert told[-1] == pytest.approx(1e6 * drift, abs=25)


def test_a_gap_is_no_drift() -> None:
    timeline = Timeline(RATE_HZ)
    times_s = np.array(arrivals(6_000, np.zeros(6_000)))
    times_s[3_000:] += 2.0
    assert sum(timeline.push(now_s, BLOCK) for now_s in times_s) == pytest.approx(2 * RATE_HZ, abs=SIZE_S * RATE_HZ)
    assert timeline.drift_ppm == pytest.approx(0, abs=100)
