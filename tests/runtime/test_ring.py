"""The ring, against a list; what a reader and a writer on two threads see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast_runtime.ring import Capture, Ring
from flexiast_runtime.source import Block, Chunk, chunks

Float = NDArray[np.float32]

STEPS, STEP = 3, 5
CAPACITY = STEPS * STEP


def chunk(start: int, length: int) -> Chunk:
    """Samples that carry their own number, as far as float32 holds it."""
    return Chunk(start, np.array([number % 65_521 for number in range(start, start + length)], np.float32))


def same(found: Chunk | None, expected: Chunk) -> bool:
    return found is not None and found.start == expected.start and np.array_equal(found.samples, expected.samples)


# ----- against a model


class ListRing:
    """What a live ring promises, one sample at a time."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.next = self.dropped = 0

    def write(self, start: int, length: int) -> None:
        if start != self.next:
            self.dropped += len(self.held)
            self.held.clear()
        for number in range(start, start + length):
            if len(self.held) == CAPACITY:
                self.dropped += STEP
                del self.held[:STEP]
            self.held.append(number)
        self.next = start + length

    def read(self) -> Chunk:
        start, length = self.held[0], len(self.held)
        self.held.clear()
        return chunk(start, length)


WRITES = st.tuples(st.integers(0, 3 * CAPACITY), st.sampled_from([0, 0, 0, 1, 7, 1_000]))
"""Length, and samples missing before it"""
READ = st.none()


@given(st.lists(st.one_of(WRITES, READ), max_size=40), st.sampled_from([0, 2**31 - 20, 2**32 - 20, 2**53 - 20]))
def test_a_live_ring_is_a_list_that_loses_its_oldest_steps(actions: list[tuple[int, int] | None], begin: int) -> None:
    # one thread does it all: a write that waited for a reader would never return
    ring, model = Ring(STEPS, STEP, live=True), ListRing()
    ring.write(chunk(begin, 1))
    model.write(begin, 1)
    for action in actions:
        if action is not None:
            length, gap = action
            start = model.next + gap
            ring.write(chunk(start, length))
            model.write(start, length)
        elif model.held:
            assert same(ring.read(), model.read())
        assert (ring.backlog(), ring.dropped) == (len(model.held), model.dropped)


@given(st.lists(st.integers(0, 2 * CAPACITY), max_size=30), st.integers(1, 5))
def test_what_a_live_ring_hands_over_and_what_it_drops_is_what_was_written(lengths: list[int], every: int) -> None:
    ring, written, read = Ring(STEPS, STEP, live=True), 0, 0
    for turn, length in enumerate(lengths):
        ring.write(chunk(written, length))
        written += length
        if turn % every == 0 and ring.backlog():
            read += len(ring.read().samples)
    assert read + ring.dropped + ring.backlog() == written


def test_whole_steps_are_dropped() -> None:
    ring = Ring(STEPS, STEP, live=True)
    ring.write(chunk(0, CAPACITY))
    ring.write(chunk(CAPACITY, 1))
    assert same(ring.read(), chunk(STEP, CAPACITY - STEP + 1))
    assert ring.dropped == STEP


def test_a_ring_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="use at least 2"):
        Ring(1, STEP, live=True)


# ----- lossless


def written_by_a_thread(ring: Ring, writes: list[Chunk]) -> threading.Thread:
    def write() -> None:
        for item in writes:
            ring.write(item)
        ring.end()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def read_all(ring: Ring, before_each: Callable[[], None] = lambda: None) -> list[Chunk]:
    found = []
    before_each()
    while (item := ring.read()) is not None:
        found.append(item)
        before_each()
    return found


def test_a_slow_reader_loses_nothing() -> None:
    ring, writes = Ring(STEPS, STEP, live=False), [chunk(start, STEP) for start in range(0, 100 * STEP, STEP)]
    thread = written_by_a_thread(ring, writes)

    def until_the_writer_must_wait() -> None:
        while ring.backlog() < CAPACITY and not ring.ended:
            pass

    found = read_all(ring, until_the_writer_must_wait)
    thread.join()
    assert np.array_equal(np.concatenate([item.samples for item in found]), chunk(0, 100 * STEP).samples)
    assert [len(item.samples) for item in found[:-1]] == [CAPACITY] * (len(found) - 1)
    assert ring.dropped == 0


@given(st.lists(st.integers(0, 4 * CAPACITY), max_size=20))
def test_chunks_larger_than_the_ring_go_through_it(lengths: list[int]) -> None:
    ring, starts = Ring(STEPS, STEP, live=False), np.cumsum([0, *lengths])
    thread = written_by_a_thread(ring, [chunk(int(s), n) for s, n in zip(starts, lengths, strict=False)])
    found = read_all(ring)
    thread.join()
    joined = np.concatenate([np.empty(0, np.float32), *(item.samples for item in found)])
    assert np.array_equal(joined, chunk(0, sum(lengths)).samples)


def test_audio_before_a_gap_is_read_before_the_gap_is_seen() -> None:
    ring = Ring(STEPS, STEP, live=False)
    thread = written_by_a_thread(ring, [chunk(0, 7), chunk(100, 7), chunk(2**53, 7)])
    numbers = [(item.start + index, sample) for item in read_all(ring) for index, sample in enumerate(item.samples)]
    thread.join()
    expected = [*range(7), *range(100, 107), *range(2**53, 2**53 + 7)]
    assert numbers == [(number, np.float32(number % 65_521)) for number in expected]


# ----- the end

LIVE_OR_NOT = pytest.mark.parametrize("live", [True, False], ids=["live", "lossless"])


@LIVE_OR_NOT
def test_what_is_held_at_the_end_is_still_read(live: bool) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end()
    assert same(ring.read(), chunk(0, 7))
    assert ring.read() is None
    assert ring.read() is None


@LIVE_OR_NOT
@pytest.mark.parametrize("late", [chunk(7, 20), chunk(100, 3)], ids=["next", "after a gap"])
def test_what_is_written_after_the_end_changes_nothing(live: bool, late: Chunk) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end()
    ring.write(late)
    assert same(ring.read(), chunk(0, 7))
    assert ring.read() is None
    assert ring.dropped == 0


@LIVE_OR_NOT
def test_an_error_is_raised_after_what_came_before_it(live: bool) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end(DataError("the cable was pulled"))
    ring.end()  # a second end, as from Ctrl-C, does not hide it
    assert same(ring.read(), chunk(0, 7))
    with pytest.raises(DataError, match="cable"):
        ring.read()


def test_the_end_frees_a_writer_that_waits() -> None:
    ring = Ring(STEPS, STEP, live=False)
    thread = written_by_a_thread(ring, [chunk(0, 10 * CAPACITY)])
    while ring.backlog() < CAPACITY:
        pass
    ring.end()
    thread.join()  # returns: the test ends
    assert same(ring.read(), chunk(0, CAPACITY))
    assert ring.read() is None


def test_a_signal_that_ends_the_ring_while_it_is_read_is_not_missed() -> None:
    """The handler runs in the reading thread, between its look at the ring and its wait for a change."""
    ring = Ring(STEPS, STEP, live=False)

    class Interrupted(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            ring.end()
            assert timeout is not None, "waits for ever: nobody will wake it"
            return False

    ring._changed = Interrupted()
    assert ring.read() is None


# ----- capture


class Script:
    """A source that delivers blocks of numbered samples and remembers whether it was released."""

    name, rate_hz = "script", 16_000

    def __init__(self, blocks: int, error: BaseException | None = None) -> None:
        self._blocks, self._error = blocks, error
        self.released = threading.Event()

    def blocks(self) -> Iterator[Block]:
        try:
            for index in range(self._blocks):
                yield Block(chunk(100 * index, 100).samples[:, None])
            if self._error is not None:
                raise self._error
        finally:
            self.released.set()


def test_capture_hands_over_what_the_source_delivers() -> None:
    found = list(Capture(Script(50), 16_000, STEP, live=False))
    expected = list(chunks(Script(50), 16_000))
    assert np.array_equal(np.concatenate([c.samples for c in found]), np.concatenate([c.samples for c in expected]))
    assert [c.start for c in found] == list(np.cumsum([0, *(len(c.samples) for c in found[:-1])]))


def test_an_error_of_the_source_is_raised_where_the_chunks_are_read() -> None:
    found = []
    with pytest.raises(DataError, match="half a file"):
        found.extend(Capture(Script(3, DataError("half a file")), 16_000, 1_000, live=False))


@LIVE_OR_NOT
def test_a_reader_that_leaves_releases_the_source(live: bool) -> None:
    source = Script(1_000_000)
    stream = iter(Capture(source, 16_000, STEP, live=live))
    next(stream)
    stream.close()
    assert source.released.is_set()


def test_a_stopped_capture_ends_the_stream_and_keeps_what_is_held() -> None:
    source = Script(1_000_000)
    capture = Capture(source, 16_000, 100, live=False, steps=4)
    read = 0
    for item in capture:
        assert item.start == read  # nothing is lost on the way to the end
        read += len(item.samples)
        capture.stop()
    assert 0 < read <= 2 * 400
    assert source.released.is_set()
