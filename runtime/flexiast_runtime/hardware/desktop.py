"""Battery, processor and memory on macOS, through psutil (extra `power`).

Linux is read from its own files: psutil takes a wireless mouse for the battery there, and does not see a fuel gauge.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.machine import Climate, Machine


def import_psutil() -> ModuleType | None:
    """The module, or None if it is not installed."""
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return psutil


def convert_battery(reading: Any) -> Battery | None:
    """From ``sensors_battery()``, which is None without one. It counts as plugged in unless psutil denies it."""
    if reading is None or not 0 <= reading.percent <= 100:
        return None
    return Battery(reading.percent / 100, discharging=reading.power_plugged is False)


def convert_climate(frequency: Any) -> Climate:
    """From ``cpu_freq()``; temperatures and throttling are unknown."""
    clocks = {"cpu": frequency.current} if frequency is not None and frequency.current else {}
    return Climate({}, clocks, throttled=None, thermal_headroom_c=None, power_saver=None)


def complete_machine(described: Machine, cores: int | None, memory_bytes: int) -> Machine:
    """Add ``cpu_count()`` and ``virtual_memory().total``."""
    return described.model_copy(update={"cores": cores or 1, "memory_mb": round(memory_bytes / 2**20)})
