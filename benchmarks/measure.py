"""Measures the CPU time of calls that take turns, so that drift of the machine affects all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping

from flexiast.processor import read_processor_name


def cpu_ms(calls: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Median CPU milliseconds of each call, after one warm-up, over rounds in which each runs once."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def heading(title: str) -> None:
    """Title, date and machine: a figure without them is none."""
    date, python = time.strftime("%Y-%m-%d"), platform.python_version()
    print(f"\n{title}\n{date}, {read_processor_name()}, Python {python}, one thread, CPU time")
