"""The ring, against a list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ring, model = Ring(STEPS, STEP), ListRing()
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
    ring = Ring(STEPS, STEP)
    ring.write(chunk(0, CAPACITY))
    ring.write(chunk(CAPACITY, 1))
    assert same(ring.take(), chunk(STEP, CAPACITY - STEP + 1))


def test_a_ring_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="use at least 2"):
        Ring(1, STEP)


# ----- notices


def test_a_notice_stands_where_it_was_given() -> None:
    ring = Ring(STEPS, STEP)
    ring.write(chunk(0, 3))
    ring.write(chunk(3, 0, LOST))
    ring.write(chunk(7, 2, Notice("found", "plugged in")))
    assert same(ring.take(), chunk(0, 3))
    assert same(ring.take(), chunk(3, 0, LOST))
    assert same(ring.take(), chunk(7, 2, Notice("found", "plugged in")))
    assert ring.take() is None


@given(st.lists(st.tuples(st.integers(0, CAPACITY), st.booleans()), max_size=20))
def test_no_notice_is_lost_with_the_audio_that_is_dropped(writes: list[tuple[int, bool]]) -> None:
    ring, given_, start = Ring(STEPS, STEP), [], 0
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


@given(st.lists(st.integers(0, 4 * CAPACITY), max_size=20))
def test_a_ring_without_a_bound_loses_nothing(lengths: list[int]) -> None:
    ring, starts = Ring(None, STEP), np.cumsum([0, *lengths])
    for start, length in zip(starts, lengths, strict=False):
        ring.write(chunk(int(start), length))
    assert ring.backlog() == sum(lengths)
    assert ring.is_empty == (ring.backlog() == 0)
    found = ring.take() or chunk(0, 0)
    assert same(found, chunk(0, sum(lengths)))
    assert ring.is_empty


@pytest.mark.parametrize("steps", [STEPS, None], ids=["live", "lossless"])
def test_audio_before_a_gap_is_read_before_the_gap_is_seen(steps: int | None) -> None:
    ring = Ring(steps, STEP)
    writes = [chunk(0, 5), chunk(100, 5), chunk(2**53, 5)]  # which the ring holds together
    for item in writes:
        ring.write(item)
    assert all(same(ring.take(), item) for item in writes)
