"""Measures the power that the machine draws, in watts, with whatever sensor it has.

Jetson boards measure their rails (INA3221, INA238 on Thor); laptops measure their battery, and Intel and AMD processors
count their own energy (RAPL). A meter's name says what it covers: the whole module, the battery's output, the
processor alone, the GPU alone. Sources: Linux's Documentation/hwmon/ina3221.rst, ina238.rst and
ABI/testing/sysfs-class-powercap, -power.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flexiast_runtime.hardware.nvml import Gpu
from flexiast_runtime.hardware.sysfs import SYSFS, list_entries, read_number, read_text

WHOLE_MODULE = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that feed all others: Orin NX and Nano, Xavier and earlier, Thor."""
PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""Rails of an AGX Orin, which has none for the whole module."""


class Meter(Protocol):
    """Measures the current power."""

    @property
    def name(self) -> str:
        """What is measured, and by which sensor."""
        ...

    def watts(self) -> float | None:
        """Current power; None while it cannot be read."""
        ...


@dataclass(frozen=True)
class Rails:
    """Sum of a Jetson's rails, voltage times current."""

    name: str
    channels: tuple[tuple[Path, Path], ...]
    """Voltage in mV and current in mA"""

    def watts(self) -> float | None:
        powers = [_multiply(read_number(volts), read_number(amperes), 1e-6) for volts, amperes in self.channels]
        return None if None in powers else sum(filter(None, powers))


@dataclass(frozen=True)
class Gauge:
    """One file that holds microwatts, or two that hold microvolts and microamperes."""

    name: str
    power: Path
    volts: Path | None = None
    amperes: Path | None = None
    is_valid: Callable[[], bool] = lambda: True
    """Whether the reading is valid: a battery's power is the machine's only while it discharges."""

    def watts(self) -> float | None:
        if not self.is_valid():
            return None
        microwatts = read_number(self.power, negative=True)  # some fuel gauges report discharge as negative
        if microwatts is not None:
            return abs(microwatts) * 1e-6
        if self.volts is None or self.amperes is None:
            return None
        current = read_number(self.amperes, negative=True)
        return _multiply(read_number(self.volts), None if current is None else abs(current), 1e-12)


@dataclass
class Counter:
    """An energy counter of a processor (RAPL) or GPU (NVML): its increase since the last reading, over the time."""

    name: str
    joules: Callable[[], Sequence[float | None]]
    """Energy so far, of each part"""
    clock: Callable[[], float] = time.monotonic
    _last: tuple[float, tuple[float, ...]] | None = field(default=None, init=False)

    def watts(self) -> float | None:
        values, now = self.joules(), self.clock()
        joules = tuple(value for value in values if value is not None)
        if len(joules) < len(values):
            return None
        before, self._last = self._last, (now, joules)
        if before is None or now <= before[0] or any(new < old for new, old in zip(joules, before[1], strict=True)):
            return None  # the first reading, or the counter wrapped around
        return (sum(joules) - sum(before[1])) / (now - before[0])


def find_meter(root: Path = SYSFS, gpu: Gpu | None = None) -> Meter | None:
    """The meter that covers most of this machine, if any: the module's rails, the battery, the GPU, the processor.

    ``gpu`` is the GPU that runs the engines, if one does: the processor's own energy would say little then.
    """
    return _find_rails(root) or _find_thor(root) or _find_battery(root) or _find_gpu(gpu) or _find_rapl(root)


def _find_rails(root: Path) -> Meter | None:
    found: dict[str, tuple[Path, Path]] = {}
    for driver in ("ina3221", "ina3221x"):
        for monitor in list_entries(root / "bus" / "i2c" / "drivers" / driver, "*/hwmon/hwmon*"):
            for label in list_entries(monitor, "in*_label"):
                channel = label.name[2 : -len("_label")]
                found[read_text(label)] = (monitor / f"in{channel}_input", monitor / f"curr{channel}_input")
    for whole in WHOLE_MODULE:
        if whole in found:
            return Rails(f"whole module: {whole} (INA3221)", (found[whole],))
    if all(part in found for part in PARTS):
        return Rails(f"{' + '.join(PARTS)} (INA3221)", tuple(found[part] for part in PARTS))
    return None


def _find_thor(root: Path) -> Meter | None:
    for monitor in list_entries(root / "class" / "hwmon"):
        if read_text(monitor / "name") == "ina238" and (monitor / "power1_input").exists():
            return Gauge("whole module: VIN (INA238)", monitor / "power1_input")
    return None


def _find_battery(root: Path) -> Meter | None:
    for supply in list_entries(root / "class" / "power_supply"):
        if read_text(supply / "type") != "Battery" or read_text(supply / "scope") == "Device":
            continue
        gauge = Gauge(
            f"battery output ({supply.name})",
            supply / "power_now",
            supply / "voltage_now",
            supply / "current_now",
            lambda supply=supply: read_text(supply / "status") == "Discharging",  # type: ignore[misc]
        )
        if gauge.watts() is not None:
            return gauge
    return None


def _find_rapl(root: Path) -> Meter | None:
    packages = [
        zone / "energy_uj"
        for zone in list_entries(root / "class" / "powercap", "intel-rapl:*")
        if read_text(zone / "name").startswith("package") and read_number(zone / "energy_uj") is not None
    ]
    return Counter("processor alone (RAPL)", lambda: [_read_joules(path) for path in packages]) if packages else None


def _read_joules(path: Path) -> float | None:
    microjoules = read_number(path)
    return None if microjoules is None else microjoules * 1e-6


def _find_gpu(gpu: Gpu | None) -> Meter | None:
    """Its energy counter, which misses nothing between two readings, or else its power."""
    if gpu is None or gpu.watts() is None:
        return None
    return gpu if gpu.joules() is None else Counter(gpu.name, lambda: [gpu.joules()])


def _multiply(first: float | None, second: float | None, scale: float) -> float | None:
    return None if first is None or second is None else first * second * scale
