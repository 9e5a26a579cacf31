"""Sizes for a deadline, against machines that are not what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast_runtime.batch.pace import MARGIN, Pace

SIZES = tuple(PatchSize(size, size) for size in (8, 16, 24, 48))
MEASURED = dict(zip(SIZES, (0.016, 0.004, 0.0018, 0.0004), strict=True))
TASKS, AUDIO_S, BYTES = 400, 900.0, 1_000.0


def simulate(
    seconds: float, factor: float, beyond_s: float, workers: int = 2, slowdown: float = 1.0
) -> tuple[float, list[PatchSize]]:
    """Seconds that an archive takes and the size of each task.

    Engines take ``factor`` times what was measured, all else ``beyond_s`` for a second of audio; from the middle on
    everything takes ``slowdown`` times as long.
    """
    pace = Pace(MEASURED, seconds, workers, TASKS * BYTES)
    free_s, sizes, pending = [0.0] * workers, [], []
    for number in range(TASKS):
        worker = min(range(workers), key=lambda each: free_s[each])
        now_s = free_s[worker]
        for done in [each for each in pending if each[0] <= now_s]:
            pending.remove(done)
            pace.add(done[1], AUDIO_S, done[2], BYTES)
        size = pace.choose(now_s)
        busy_s = AUDIO_S * (factor * MEASURED[size] + beyond_s) * (slowdown if number >= TASKS // 2 else 1.0)
        free_s[worker] += busy_s
        pending.append((free_s[worker], size, busy_s))
        sizes.append(size)
    return max(free_s), sizes


def full_s(size: PatchSize, factor: float, beyond_s: float, workers: int = 2) -> float:
    return TASKS * AUDIO_S * (factor * MEASURED[size] + beyond_s) / workers


@given(st.floats(0.3, 3), st.floats(0, 0.004), st.floats(0.0, 1.0), st.integers(1, 8), st.floats(1, 1.5))
def test_an_archive_ends_in_time_where_it_can(
    factor: float, beyond_s: float, share: float, workers: int, slowdown: float
) -> None:
    slowest, fastest = (full_s(size, factor, beyond_s, workers) for size in (SIZES[0], SIZES[-1]))
    # Room for the first tasks, which nothing is known about, at the finest size; and for the second half being slower.
    first_s = AUDIO_S * (factor * MEASURED[SIZES[0]] + beyond_s)
    deadline_s = (fastest * slowdown + 2 * first_s) / MARGIN + share * (slowest - fastest)
    took_s, _ = simulate(deadline_s, factor, beyond_s, workers, slowdown)
    assert took_s <= deadline_s + slowdown * first_s  # the last task may have begun just before the end


@given(st.floats(0.3, 3), st.floats(0, 0.004))
def test_time_enough_means_the_finest_size_throughout(factor: float, beyond_s: float) -> None:
    _, sizes = simulate(full_s(SIZES[0], factor, beyond_s) / MARGIN * 1.2, factor, beyond_s)
    assert set(sizes) == {SIZES[0]}


def test_no_time_means_the_fastest() -> None:
    _, sizes = simulate(1.0, 1.0, 0.001)
    assert set(sizes[2:]) == {SIZES[-1]}


def test_a_deadline_between_two_sizes_uses_both() -> None:
    deadline_s = (full_s(SIZES[1], 1, 0.001) + full_s(SIZES[2], 1, 0.001)) / 2
    took_s, sizes = simulate(deadline_s, 1.0, 0.001)
    assert 0.9 * deadline_s < took_s <= deadline_s, "what is left unused would have been accuracy"
    assert {SIZES[1], SIZES[2]} <= set(sizes)


def test_what_a_size_takes_is_measured_and_the_others_follow() -> None:
    pace = Pace(MEASURED, 1e6, 1, 1e6)
    assert pace.cost(SIZES[0]) == MEASURED[SIZES[0]]
    pace.add(SIZES[1], audio_s=100.0, busy_s=0.5, size_bytes=10)
    assert pace.cost(SIZES[1]) == pytest.approx(0.005)
    assert pace.cost(SIZES[0]) == pytest.approx(MEASURED[SIZES[0]] + 0.001)
