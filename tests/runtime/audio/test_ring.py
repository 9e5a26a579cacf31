"""The ring, against a list; what a reader and a writer on two threads see."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError
from flexiast_runtime.audio.ring import Ring
from flexiast_runtime.audio.source import Chunk, Notice

STEPS, STEP = 3, 5
CAPACITY = STEPS * STEP
LOST = Notice("lost", "unplugged")


def chunk(start: int, length: int, *notices: Notice) -> Chunk:
    """Samples that carry their own number, as far as float32 holds it."""
    numbers = [number % 65_521 for number in range(start, start + length)]
    return Chunk(start, np.array(numbers, np.float32), notices)


def same(found: Chunk | None, expected: Chunk) -> bool:
    return (
        found is not None
        and (found.start, found.notices) == (expected.start, expected.notices)
        and np.array_equal(found.samples, expected.samples)
    )


# ----- against a model


class ListRing:
    """What a live ring promises, one sample at a time."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.next = 0

    def write(self, start: int, length: int) -> None:
        for begin in range(start, start + length, STEP):
            numbers = range(begin, min(begin + STEP, start + length))
            while len(self.held) + len(numbers) > CAPACITY:
                del self.held[:STEP]
            self.held += numbers
        self.next = start + length

    def take(self) -> Chunk:
        start, length = self.held[0], 1
        while length < len(self.held) and self.held[length] == start + length:
            length += 1
        del self.held[:length]
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
            assert same(ring.take(), model.take())
        assert ring.backlog() == len(model.held) <= CAPACITY


def test_whole_steps_are_dropped() -> None:
    ring = Ring(STEPS, STEP, live=True)
    ring.write(chunk(0, CAPACITY))
    ring.write(chunk(CAPACITY, 1))
    assert same(ring.take(), chunk(STEP, CAPACITY - STEP + 1))


def test_a_ring_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="use at least 2"):
        Ring(1, STEP, live=True)


# ----- notices


def test_a_notice_stands_where_it_was_given() -> None:
    ring = Ring(STEPS, STEP, live=True)
    ring.write(chunk(0, 3))
    ring.write(chunk(3, 0, LOST))
    ring.write(chunk(7, 2, Notice("found", "plugged in")))
    assert same(ring.take(), chunk(0, 3))
    assert same(ring.take(), chunk(3, 0, LOST))
    assert same(ring.take(), chunk(7, 2, Notice("found", "plugged in")))
    assert ring.take() is None


@given(st.lists(st.tuples(st.integers(0, CAPACITY), st.booleans()), max_size=20))
def test_no_notice_is_lost_with_the_audio_that_is_dropped(writes: list[tuple[int, bool]]) -> None:
    ring, given_, start = Ring(STEPS, STEP, live=True), [], 0
    for number, (length, said) in enumerate(writes):
        notices = (Notice("lost", str(number)),) if said else ()
        ring.write(chunk(start, length, *notices))
        given_ += notices
        start += length
    found: list[Notice] = []
    while (item := ring.take()) is not None:
        found += item.notices
    assert found == given_


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
    while not ring.exhausted:
        if (item := ring.take()) is not None:
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


@given(st.lists(st.integers(0, 4 * CAPACITY), max_size=20))
def test_chunks_larger_than_the_ring_go_through_it(lengths: list[int]) -> None:
    ring, starts = Ring(STEPS, STEP, live=False), np.cumsum([0, *lengths])
    thread = written_by_a_thread(ring, [chunk(int(s), n) for s, n in zip(starts, lengths, strict=False)])
    found = read_all(ring)
    thread.join()
    joined = np.concatenate([np.empty(0, np.float32), *(item.samples for item in found)])
    assert np.array_equal(joined, chunk(0, sum(lengths)).samples)


@pytest.mark.parametrize("live", [True, False], ids=["live", "lossless"])
def test_audio_before_a_gap_is_read_before_the_gap_is_seen(live: bool) -> None:
    ring = Ring(STEPS, STEP, live=live)
    writes = [chunk(0, 5), chunk(100, 5), chunk(2**53, 5)]  # which the ring holds together
    for item in writes:
        ring.write(item)
    assert all(same(ring.take(), item) for item in writes)


# ----- the end

LIVE_OR_NOT = pytest.mark.parametrize("live", [True, False], ids=["live", "lossless"])


@LIVE_OR_NOT
def test_what_is_held_at_the_end_is_still_read(live: bool) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end()
    assert not ring.exhausted
    assert same(ring.take(), chunk(0, 7))
    assert ring.exhausted
    assert ring.take() is None


@LIVE_OR_NOT
@pytest.mark.parametrize("late", [chunk(7, 20), chunk(100, 3), chunk(7, 0, LOST)], ids=["next", "gap", "notice"])
def test_what_is_written_after_the_end_changes_nothing(live: bool, late: Chunk) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end()
    ring.write(late)
    assert same(ring.take(), chunk(0, 7))
    assert ring.exhausted


@LIVE_OR_NOT
def test_an_error_is_raised_after_what_came_before_it(live: bool) -> None:
    ring = Ring(STEPS, STEP, live=live)
    ring.write(chunk(0, 7))
    ring.end(DataError("the cable was pulled"))
    ring.end()  # a second end, as from Ctrl-C, does not hide it
    assert same(ring.take(), chunk(0, 7))
    assert not ring.exhausted
    with pytest.raises(DataError, match="cable"):
        ring.take()


def test_the_end_frees_a_writer_that_waits() -> None:
    ring = Ring(STEPS, STEP, live=False)
    thread = written_by_a_thread(ring, [chunk(0, 10 * CAPACITY)])
    while ring.backlog() < CAPACITY:
        pass
    ring.end()
    thread.join()  # returns: the test ends
    assert same(ring.take(), chunk(0, CAPACITY))
    assert ring.exhausted
