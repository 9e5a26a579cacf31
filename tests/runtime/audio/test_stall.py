"""Pipes that pause: what is missing is count_noun, what was only late is not, and who reads slowly is no stall."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.audio.source import Block, PcmSource, read_blocks
from flexiast_runtime.audio.stall import LATE_S, STALL_S, PipeClock

RATE = 16_000


def fed(pieces: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """(Seconds until it comes, seconds of audio) of each piece → (overdue when it comes, overdue beside it)."""
    pipe, now_s = PipeClock(), 1e6
    for wait_s, came_s in pieces:
        pipe.start_wait(now_s)
        now_s += wait_s
        yield pipe.overdue_s(now_s), pipe.overdue_s(now_s, came_s)
        pipe.receive(now_s, came_s)


@given(
    st.floats(0, 60),
    st.lists(st.floats(0, 0.8 * STALL_S), min_size=1, max_size=50),
    st.floats(-2e-4, 2e-4),
    st.sampled_from([0.1, 1.0, 4.0]),
)
def test_jitter_bursts_and_drift_are_no_stall(
    begins_s: float, late_s: list[float], drift: float, burst_s: float
) -> None:
    """Pieces as they sound, each as late as told, by a clock of its own; the first comes whenever it comes."""
    due_s = np.arange(1, 501) * burst_s * (1 + drift)
    times = np.maximum.accumulate(due_s + np.resize(late_s, 500))
    waits = [begins_s, *np.diff(times)]
    overdue = [overdue_s for overdue_s, _ in fed((wait_s, burst_s) for wait_s in waits)]
    settled = 1 + (burst_s >= STALL_S)  # that it comes in bursts is known after the first pause
    assert max(overdue[settled:]) < STALL_S


@given(st.floats(STALL_S + 0.2, 100), st.integers(1, 400), st.floats(0, 30), st.floats(-2e-4, 2e-4))
def test_a_pause_is_missing_but_for_the_block_that_was_awaited(
    pause_s: float, before: int, written_s: float, drift: float
) -> None:
    """Whatever was written before anybody read, and by whatever clock."""
    at_once = [(0.001, 0.1)] * round(10 * written_s)
    found = list(fed([*at_once, *[(0.1 * (1 + drift), 0.1)] * before, (0.1 + pause_s, 0.1)]))
    assert all(overdue_s < STALL_S for overdue_s, _ in found[:-1])
    assert found[-1][1] == pytest.approx(pause_s, abs=0.12)


@given(st.floats(STALL_S + 0.2, 20), st.integers(1, 9))
def test_a_second_pause_is_missing_as_the_first_was(pause_s: float, between: int) -> None:
    pipe, now_s, found = PipeClock(), 0.0, []
    for wait_s in [0.1, 0.1, pause_s, *[0.1] * between, pause_s, 0.1]:
        pipe.start_wait(now_s)
        now_s += wait_s
        missing_s = pipe.overdue_s(now_s, 0.1)
        found += [missing_s] if missing_s > LATE_S else []
        pipe.receive(now_s, 0.1, missing_s if missing_s > LATE_S else 0.0)
    assert found == [pytest.approx(pause_s - 0.1, abs=0.11)] * 2


@given(st.floats(2, 100), st.floats(0, 1))
def test_what_comes_at_once_after_a_pause_is_not_missing(pause_s: float, kept: float) -> None:
    """Whoever writes has kept a share of it."""
    (*_, (_, missing_s)) = fed([(0.1, 0.1)] * 20 + [(0.1 + pause_s, 0.1 + kept * pause_s)])
    assert missing_s == pytest.approx((1 - kept) * pause_s, abs=0.11)


def test_who_reads_slowly_waits_for_nobody() -> None:
    pipe = PipeClock()
    pipe.receive(0.0, 0.1)
    for now_s in range(10, 1_000, 10):  # ten seconds for each block; the next one lies there, or comes soon
        pipe.start_wait(now_s)
        assert pipe.overdue_s(now_s + 0.1) < 0.11
        pipe.receive(now_s + 0.1 * (now_s % 20 == 0), 0.1)


# ----- a real pipe


def test_a_pipe_that_stalls_is_lost_and_found_and_what_is_missing_is_counted() -> None:
    reading, writing = os.pipe()
    piece = bytes(2 * RATE // 10)

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for pause_s in [0.1] * 5 + [STALL_S + 1.0] + [0.1] * 5:
                time.sleep(pause_s)
                pipe.write(piece)

    thread, begun_s = threading.Thread(target=write), time.monotonic()
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        blocks = list(read_blocks(PcmSource(pipe, RATE)))
    lasted_s = time.monotonic() - begun_s
    thread.join()
    notices = [block.notice for block in blocks if block.notice is not None]
    assert [notice.state for notice in notices] == ["lost", "found"]
    assert any(not len(block.samples) for block in blocks)  # whoever reads may stop meanwhile
    lost_s = sum(block.lost for block in blocks) / RATE
    assert notices[1].reason == f"{lost_s:.1f} s are missing"
    counted_s = lost_s + sum(len(block.samples) for block in blocks) / RATE
    assert counted_s == pytest.approx(lasted_s, abs=0.5)  # a busy machine; without the loss it is 2 s less
    first_lost = next(place for place, block in enumerate(blocks) if block.lost)
    assert blocks[first_lost].notice == notices[1]


def test_a_pipe_that_was_late_has_lost_nothing() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(bytes(2 * RATE // 10))
            time.sleep(STALL_S + 0.6)
            for _ in range(30):
                pipe.write(bytes(2 * RATE // 10))

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        blocks = list(read_blocks(PcmSource(pipe, RATE)))
    thread.join()
    assert [block.notice.state for block in blocks if block.notice is not None] == ["lost", "found"]
    assert sum(block.lost for block in blocks) <= LATE_S * RATE
    assert sum(len(block.samples) for block in blocks) == round(3.1 * RATE)


def test_a_file_is_read_as_fast_as_it_goes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pcm") / "raw"
    path.write_bytes(bytes(2 * 100 * RATE))
    with path.open("rb", buffering=0) as file:
        blocks: list[Block] = list(read_blocks(PcmSource(file, RATE)))
    assert sum(len(block.samples) for block in blocks) == 100 * RATE
    assert {(block.lost, block.notice) for block in blocks} == {(0, None)}
