"""What a lookout knows, when, and what it never waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from flexiast_runtime.hardware.poller import VALID_S, Poller

PATIENCE_S = 30.0
"""Far more than a thread needs to run on a busy machine."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def numbers() -> Iterator[int]:
    return iter(range(1_000_000))


def test_it_looks_once_before_and_again_while_it_runs(numbers: Iterator[int]) -> None:
    third = threading.Event()

    def look() -> int:
        number = next(numbers)
        if number == 3:
            third.set()
        return number

    lookout = Poller(look, unknown=-1, every_s=0.001)
    assert lookout.latest == 0
    with lookout:
        assert third.wait(PATIENCE_S)
        assert lookout.latest >= 2


def test_an_error_that_nobody_foresaw_is_said_once_and_looking_goes_on(numbers: Iterator[int]) -> None:
    said: list[str] = []
    seen_again = threading.Event()

    def look() -> str:
        number = next(numbers)
        if number in {1, 2}:
            raise PermissionError("not yours")
        if number > 3:
            seen_again.set()
        return "seen"

    lookout = Poller(look, unknown="unknown", every_s=0.001, say=said.append)
    with lookout:
        assert seen_again.wait(PATIENCE_S)
        assert lookout.latest == "seen"
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
        assert hung.wait(PATIENCE_S)
        clock.now = VALID_S
        assert lookout.latest == "seen"
        clock.now += 1
        assert lookout.latest == "unknown"
        free.set()
