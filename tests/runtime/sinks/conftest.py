"""Records as a listener makes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from flexiast.spec import PatchSize
from flexiast_runtime.detection.records import Event, Status

RATE_HZ = 16_000
BEGAN_AT_S = 1_795_620_222.0
"""2026-11-25 15:23:42 UTC"""
PATIENCE_S = 20.0
"""Seconds after which a test gives up waiting for a thread or process on a machine under full load."""


def event(number: int = 0, label: str = "dog", **fields: Any) -> Event:
    """The number makes its time and its id."""
    defaults = {
        "source": "kitchen",
        "start_sample": number * RATE_HZ,
        "end_sample": number * RATE_HZ + RATE_HZ // 2,
        "sample_rate_hz": RATE_HZ,
        "score": 0.75,
        "patch": PatchSize(16, 16),
        "started_at_s": BEGAN_AT_S + number,
    }
    return Event(label=label, **defaults | fields)


def status(active: tuple[str, ...] = (), source: str = "kitchen", **fields: Any) -> Status:
    defaults = {"time_s": 1.0, "patch": PatchSize(16, 16), "top": (), "latency_s": 0.01, "deadline_s": 0.25}
    return Status(
        source=source,
        active=active,
        **defaults | {"backlog_s": 0.0, "dropped_s": 0.0, "skipped": 0, "battery": None} | fields,
    )


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something is true; what it then is."""

    def wait(true: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while not (value := true()):
            assert time.monotonic() < until, "this never came true"
            time.sleep(0.005)
        return value

    return wait
