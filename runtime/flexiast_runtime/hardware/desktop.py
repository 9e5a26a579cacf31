"""Battery, processor and memory of macOS and Windows, through psutil, which the extra `power` brings.

Linux is read from its own files: there psutil takes a wireless mouse for the battery, and does not see a fuel gauge.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.machine import Climate, Machine


def psutil() -> ModuleType | None:
    """The module, or None where it is not installed: then what it would read is not known."""
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return psutil


def battery(sensed: Any) -> Battery | None:
    """From ``sensors_battery()``, which is None without one; one that does not say whether it is plugged in, is."""
    if sensed is None or not 0 <= sensed.percent <= 100:
        return None
    return Battery(sensed.percent / 100, discharging=sensed.power_plugged is False)


def climate(frequency: Any) -> Climate:
    """From ``cpu_freq()``; temperatures and throttling are not told."""
    clocks = {"cpu": frequency.current} if frequency is not None and frequency.current else {}
    return Climate({}, clocks, throttled=None, thermal_headroom_c=None, power_saver=None)


def machine(described: Machine, cores: int | None, memory_bytes: int) -> Machine:
    """With ``cpu_count()`` and ``virtual_memory().total``."""
    return described.model_copy(update={"cores": cores or 1, "memory_mb": round(memory_bytes / 2**20)})
