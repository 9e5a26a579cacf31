"""What a lookout knows, when, and what it never waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from flexiast_runtime.hardware.poller import VALID_S, Poller

T = TypeVar("T")

PATIENCE_S = 30.0
"""Far more than a thread needs to run on a busy machine."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def numbers() -> Iterator[int]:
    return iter(range(1_000_000))


def ask_until(lookout: Poller[T], wanted: Callable[[T], bool]) -> T:
    """Ask as a loop does, until the answer is wanted."""
    end_s = time.monotonic() + PATIENCE_S
    while not wanted(found := lookout.latest):
        assert time.monotonic() < end_s, f"it still says {found!r}"
        time.sleep(0.001)
    return found


def test_it_polls_once_before_and_again_while_somebody_asks(numbers: Iterator[int]) -> None:
    clock = Clock()
    lookout = Poller(numbers.__next__, unknown=-1, every_s=5.0, clock=clock)
    clock.now = 10.0
    assert lookout.latest == 0  # it is not open
    with lookout:
        assert lookout.latest == 0  # known at once; its successor is fetched meanwhile
        assert ask_until(lookout, lambda number: number != 0) == 1
        clock.now += 4.9
        assert lookout.latest == 1
        clock.now += 0.1
        assert ask_until(lookout, lambda number: number != 1) == 2
    assert lookout.latest == 2
    assert next(numbers) == 3  # nobody asked in between, so nobody polled


def test_its_thread_ends_with_it() -> None:
    before = threading.active_count()
    with Poller(lambda: 1, unknown=0, every_s=0.0) as lookout:
        assert lookout.latest == 1
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_an_error_that_nobody_foresaw_is_said_once_and_looking_goes_on(numbers: Iterator[int]) -> None:
    said: list[str] = []

    def look() -> str:
        number = next(numbers)
        if number in {1, 2}:
            raise PermissionError("not yours")
        return "seen"

    lookout = Poller(look, unknown="unknown", every_s=0.001, log=said.append)
    with lookout:
        ask_until(lookout, lambda found: found == "unknown")
        ask_until(lookout, lambda found: found == "seen")
    assert said == ["a sensor cannot be read: PermissionError: not yours; polling continues"]


def test_a_sensor_that_hangs_delays_nobody_and_is_no_longer_believed(numbers: Iterator[int]) -> None:
    clock, hung, free = Clock(), threading.Event(), threading.Event()

    def look() -> str:
        if next(numbers):
            hung.set()
            free.wait(PATIENCE_S)
        return "seen"

    lookout = Poller(look, unknown="unknown", every_s=0.001, clock=clock)
    with lookout:
        clock.now = 1.0
        assert lookout.latest == "seen"
        assert hung.wait(PATIENCE_S)
        clock.now = VALID_S
        assert lookout.latest == "seen"
        clock.now += 1
        assert lookout.latest == "unknown"
        free.set()
