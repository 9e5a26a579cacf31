"""Sources read by one thread: what comes out is what went in, whoever stops, fails or is late."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError
from flexiast_runtime.audio.capture import Capture, limit_chunks, merge_captures
from flexiast_runtime.audio.source import NOTHING, Block, Chunk, Notice, Wait, chunks

RATE, STEP = 16_000, 5
PATIENCE_S = 20.0
"""Far more than a busy machine needs"""


class Script:
    """A source that delivers blocks of numbered samples and remembers whether it was released."""

    name, rate_hz = "script", RATE

    def __init__(self, blocks: int, error: Exception | None = None) -> None:
        self._blocks, self._error = blocks, error
        self.released = threading.Event()

    def blocks(self) -> Iterator[Block]:
        try:
            for index in range(self._blocks):
                yield Block(np.arange(100 * index, 100 * (index + 1), dtype=np.float32)[:, None])
            if self._error is not None:
                raise self._error
        finally:
            self.released.set()


def test_capture_hands_over_what_the_source_delivers() -> None:
    found = list(Capture(Script(50), RATE, STEP, live=False))
    expected = list(chunks(Script(50), RATE))
    assert np.array_equal(np.concatenate([c.samples for c in found]), np.concatenate([c.samples for c in expected]))
    assert [c.start for c in found] == list(np.cumsum([0, *(len(c.samples) for c in found[:-1])]))


def test_an_error_of_the_source_is_raised_where_the_chunks_are_read() -> None:
    found = []
    with pytest.raises(DataError, match="half a file"):
        found.extend(Capture(Script(3, DataError("half a file")), RATE, 1_000, live=False))
    assert sum(len(item.samples) for item in found) == 300


@pytest.mark.parametrize("live", [True, False], ids=["live", "lossless"])
def test_a_reader_that_leaves_releases_the_source(live: bool) -> None:
    source = Script(1_000_000)
    stream = merge_captures([Capture(source, RATE, STEP, live=live)])
    next(stream)
    stream.close()
    assert source.released.is_set()


def test_a_stopped_capture_ends_the_stream_and_keeps_what_is_held() -> None:
    source = Script(1_000_000)
    capture = Capture(source, RATE, 100, live=False, steps=4)
    read = 0
    for item in capture:
        assert item.start == read  # nothing is lost on the way to the end
        read += len(item.samples)
        capture.stop()
    assert 0 < read <= 2 * 400
    assert source.released.is_set()


class Idle:
    """A source that has nothing: it waits for a pipe that nobody writes to, until it is released."""

    name, rate_hz = "idle", RATE

    def __init__(self) -> None:
        self.is_released = False

    def blocks(self) -> Iterator[Block]:
        reading, writing = os.pipe()
        try:
            while not self.is_released:
                yield Block(NOTHING, wait=Wait(PATIENCE_S, reading))
        finally:
            os.close(reading)
            os.close(writing)


def test_a_signal_ends_a_wait_at_once() -> None:
    """The handler runs in the reading thread, while it waits: nothing else would wake it."""
    capture = Capture(Idle(), RATE, STEP, live=True)
    previous = signal.signal(signal.SIGALRM, lambda *_: capture.stop())
    begun_s = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert list(capture) == []
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - begun_s < PATIENCE_S / 2


def test_a_capture_that_is_stopped_before_it_begins_ends_at_once() -> None:
    capture = Capture(Idle(), RATE, STEP, live=True)
    capture.stop()
    assert list(capture) == []


@given(st.integers(1, 30), st.integers(0, 2_999))
def test_when_a_sample_sounded_is_known_however_late_it_is_read(blocks: int, sample: int) -> None:
    class Sounding(Script):
        def blocks(self) -> Iterator[Block]:
            for block in super().blocks():
                clock[0] += len(block.samples) / RATE
                yield block

    clock = [1e9]
    capture = Capture(Sounding(blocks), RATE, STEP, live=True, wall=lambda: clock[0], clock=lambda: clock[0] - 1e9 + 77)
    assert capture.unix_s(sample) is None
    for _ in capture:
        pass
    assert capture.unix_s(sample) == pytest.approx(1e9 + sample / RATE, abs=1e-6)  # of the sum's rounding


class Timed(Script):
    """Blocks that come when they have sounded, each after a pause."""

    def __init__(self, clock: list[float], pauses_s: list[float]) -> None:
        super().__init__(len(pauses_s))
        self._clock, self._pauses_s = clock, pauses_s

    def blocks(self) -> Iterator[Block]:
        for block, pause_s in zip(super().blocks(), self._pauses_s, strict=True):
            self._clock[0] += pause_s + len(block.samples) / RATE
            yield block._replace(lost=round(pause_s * RATE))


@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 20.0]), min_size=2, max_size=9), st.sampled_from([-3_600.0, 0.0, 7.0]))
def test_the_wall_clock_is_the_one_that_is_set_now_also_for_what_sounded_before(
    pauses_s: list[float], is_set_by_s: float
) -> None:
    """Recorded audio has no time of its own; a clock that is set corrects what it said before."""
    clock, offset = [77.0], 1e9
    capture = Capture(
        Timed(clock, pauses_s), RATE, STEP, live=True, wall=lambda: clock[0] + offset, clock=lambda: clock[0]
    )
    for _ in capture:
        pass
    offset += is_set_by_s
    samples = round(sum(pauses_s) * RATE) + 100 * len(pauses_s)
    assert capture.unix_s(samples) == pytest.approx(clock[0] + offset, abs=1e-6)
    assert capture.unix_s(0) == pytest.approx(77.0 + offset, abs=1e-3)


@given(st.floats(0.1, 30.0))
def test_what_is_late_without_a_loss_leaves_no_old_time_behind(late_s: float) -> None:
    """A pause that nobody count_noun: what came before it does not date what comes after a break."""
    clock = [77.0]

    class Late(Timed):
        def blocks(self) -> Iterator[Block]:
            for number, block in enumerate(super().blocks()):
                yield block._replace(lost=5 if number == 3 else 0)

    capture = Capture(
        Late(clock, [0, 0, 0, late_s, 0, 0]), RATE, STEP, live=True, wall=lambda: clock[0], clock=lambda: clock[0]
    )
    for _ in capture:
        pass
    assert capture.unix_s(605) == pytest.approx(clock[0], abs=1e-6)


# ----- several


def test_several_sources_are_read_together_each_in_its_order() -> None:
    captures = [Capture(Script(blocks), RATE, STEP, live=False) for blocks in (30, 0, 50)]
    heard: list[list[float]] = [[], [], []]
    for place, chunk in merge_captures(captures):
        heard[place] += list(chunk.samples)
    assert [len(samples) for samples in heard] == [3_000, 0, 5_000]
    assert all(samples == sorted(samples) for samples in heard)


def test_one_that_waits_does_not_hold_up_the_other() -> None:
    idle, heard = Idle(), 0
    for _, chunk in merge_captures([Capture(idle, RATE, STEP, live=True), Capture(Script(10), RATE, STEP, live=False)]):
        heard += len(chunk.samples)
        idle.is_released = heard == 1_000
    assert heard == 1_000


def test_one_that_fails_ends_and_releases_all() -> None:
    endless = Script(1_000_000)
    captures = [
        Capture(endless, RATE, STEP, live=False),
        Capture(Script(1, DataError("broken")), RATE, STEP, live=False),
    ]
    with pytest.raises(DataError, match="broken"):
        list(merge_captures(captures))
    assert endless.released.is_set()


@pytest.mark.parametrize("error", [DataError("broken"), OSError("broken")])
def test_one_that_fails_ends_no_other_if_so_asked_and_is_raised_in_the_end(error: Exception) -> None:
    captures = [
        Capture(Script(30), RATE, STEP, live=False),
        Capture(Script(2, error), RATE, STEP, live=False),
        Capture(Script(1, DataError("too")), RATE, STEP, live=False),
    ]
    heard, notices = [0, 0, 0], []
    with pytest.raises((DataError, OSError)) as raised:  # whichever comes first
        for place, chunk in merge_captures(captures, "continue"):
            assert chunk.start == heard[place]
            heard[place] += len(chunk.samples)
            notices += [(place, *notice) for notice in chunk.notices]
    assert heard == [3_000, 200, 100]
    assert sorted(notices) == [(1, "lost", "broken"), (2, "lost", "too")]
    assert str(raised.value) in {"broken", "too"}


# ----- when the reader is woken


class Device:
    """A microphone in virtual time: blocks that come in bursts, some of them lost, none while the reader is busy."""

    name, rate_hz = "device", RATE

    def __init__(self, bursts: list[tuple[int, int]], block: int) -> None:
        self._bursts, self._block = bursts, block
        self.asked: list[float] = []

    def blocks(self) -> Iterator[Block]:
        place = 0
        for blocks, lost in self._bursts:
            for number in range(blocks):
                missing = lost if number == blocks // 2 else 0
                place += missing
                yield Block(np.arange(place, place + self._block, dtype=np.float32)[:, None], missing)
                place += self._block
            yield Block(NOTHING, wait=Wait(1.0, None, self._wake_after))

    def _wake_after(self, seconds: float) -> float:
        self.asked.append(seconds * RATE)
        return seconds


BURSTS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0, 0, 3, 1_000])), max_size=20)


@given(BURSTS, st.integers(1, 40), st.sampled_from([0, 23, 50, 64]), st.integers(1, 4))
def test_nothing_is_lost_that_is_not_marked_however_it_comes_and_however_late_it_is_read(
    bursts: list[tuple[int, int]], block: int, window: int, reads_each: int
) -> None:
    """A reader whose window takes longer than the step comes late; a clock that jumps changes no sample's number."""
    clock, step, steps = [77.0], 25, 4
    device = Device(bursts, block)
    capture = Capture(
        device, RATE, step, live=True, window_samples=window, steps=steps, clock=lambda: clock[0], wall=lambda: 0.0
    )
    heard: list[int] = []
    for turn, _ in enumerate(range(4 * len(bursts) + 40)):
        clock[0] += [0.5, 3_600.0, 0.0][turn % 3]
        capture.receive()
        if turn % reads_each and not capture.exhausted:
            continue
        while (chunk := capture.take()) is not None:
            numbers = list(map(int, chunk.samples))
            assert numbers == list(range(chunk.start, chunk.start + len(numbers)))
            heard += numbers
    assert capture.exhausted
    came = [int(x) for block_ in Device(bursts, block).blocks() for x in block_.samples[:, 0]]
    assert heard == sorted(set(heard) & set(came))
    if reads_each == 1 and all(blocks * block <= step * steps for blocks, _ in bursts):
        assert heard == came


@given(st.integers(1, 60), st.integers(1, 40), st.sampled_from([0, 23, 50, 64]))
def test_the_reader_asks_to_be_woken_when_its_next_window_is_complete(bursts: int, block: int, window: int) -> None:
    step = 25
    device = Device([(1, 0)] * bursts, block)
    capture = Capture(device, RATE, step, live=True, window_samples=window)
    for place in range(1, bursts + 1):
        capture.receive()
        due = place * block + device.asked[-1]
        assert 0 < device.asked[-1] <= step + 1e-9
        assert (due - window) % step == pytest.approx(0, abs=1e-9)


def test_a_window_after_a_gap_is_counted_from_the_gap() -> None:
    device = Device([(1, 0), (1, 1_003)], 30)
    capture = Capture(device, RATE, 25, live=True, window_samples=50)
    asked = []
    for _ in range(2):
        capture.receive()
        asked.append(device.asked[-1])
    assert asked == pytest.approx([20, 20])


# ----- limits


@pytest.mark.parametrize("end", [0, 1, 99, 100, 101, 250, 300, 1_000])
def test_a_limit_is_met_to_the_sample(end: int) -> None:
    stream = [Chunk(100 * index, np.zeros(100, np.float32)) for index in range(3)]
    assert sum(len(chunk.samples) for chunk in limit_chunks(stream, end)) == min(end, 300)


def test_a_limit_counts_audio_of_the_stream_with_its_gaps() -> None:
    stream = [Chunk(0, np.zeros(100, np.float32)), Chunk(500, np.zeros(100, np.float32), (Notice("found", "again"),))]
    assert [chunk.start for chunk in limit_chunks(stream, 400)] == [0]
    assert sum(len(chunk.samples) for chunk in Capture(Script(9), RATE, STEP, live=False, duration_s=0.01)) == 160
