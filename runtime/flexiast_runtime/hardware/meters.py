"""What the machine draws, in watts, from whatever on it can measure that.

Jetson boards measure their rails (INA3221, INA238 on Thor); laptops measure their battery, and Intel and AMD processors
count their own energy (RAPL). A meter says what it covers: the whole module, what the battery gives, the processor
alone, the GPU alone. Sources: Linux's Documentation/hwmon/ina3221.rst, ina238.rst and
ABI/testing/sysfs-class-powercap, -power.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flexiast_runtime.hardware.nvml import Gpu
from flexiast_runtime.hardware.sysfs import SYSFS, folders, number, text

WHOLE_MODULE = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that all others are behind: Orin NX and Nano, Xavier and before, Thor."""
PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""What an AGX Orin measures side by side; it has no rail for the whole."""


class Meter(Protocol):
    """Something that knows the power drawn now."""

    @property
    def name(self) -> str:
        """What is measured, and by what."""
        ...

    def watts(self) -> float | None:
        """Power now; None while it cannot be read."""
        ...


@dataclass(frozen=True)
class Rails:
    """The rails of a Jetson, voltage times current, added up."""

    name: str
    channels: tuple[tuple[Path, Path], ...]
    """Voltage in mV and current in mA"""

    def watts(self) -> float | None:
        powers = [_product(number(volts), number(amperes), 1e-6) for volts, amperes in self.channels]
        return None if None in powers else sum(filter(None, powers))


@dataclass(frozen=True)
class Gauge:
    """One file that holds microwatts, or two that hold microvolts and microamperes."""

    name: str
    power: Path
    volts: Path | None = None
    amperes: Path | None = None
    counts: Callable[[], bool] = lambda: True
    """A battery's power is what the machine draws only while it is discharging."""

    def watts(self) -> float | None:
        if not self.counts():
            return None
        microwatts = number(self.power, negative=True)  # some fuel gauges count what leaves the battery as negative
        if microwatts is not None:
            return abs(microwatts) * 1e-6
        if self.volts is None or self.amperes is None:
            return None
        current = number(self.amperes, negative=True)
        return _product(number(self.volts), None if current is None else abs(current), 1e-12)


@dataclass
class Counter:
    """Energy counted by processor (RAPL) or GPU (NVML): power is what was added since the last look, over the time."""

    name: str
    joules: Callable[[], Sequence[float | None]]
    """Of each part that counts"""
    clock: Callable[[], float] = time.monotonic
    _last: tuple[float, tuple[float, ...]] | None = field(default=None, init=False)

    def watts(self) -> float | None:
        values, now = self.joules(), self.clock()
        joules = tuple(value for value in values if value is not None)
        if len(joules) < len(values):
            return None
        before, self._last = self._last, (now, joules)
        if before is None or now <= before[0] or any(new < old for new, old in zip(joules, before[1], strict=True)):
            return None  # the first look, or the counter began anew
        return (sum(joules) - sum(before[1])) / (now - before[0])


def find_meter(root: Path = SYSFS, gpu: Gpu | None = None) -> Meter | None:
    """The meter that covers most of this machine, or None: the module's rails, the battery, the GPU, the processor.

    ``gpu`` is the one that runs the engines, if one does; there the processor's own energy would say little.
    """
    return _rails(root) or _thor(root) or _battery(root) or _gpu(gpu) or _rapl(root)


def _rails(root: Path) -> Meter | None:
    found: dict[str, tuple[Path, Path]] = {}
    for driver in ("ina3221", "ina3221x"):
        for monitor in folders(root / "bus" / "i2c" / "drivers" / driver, "*/hwmon/hwmon*"):
            for label in folders(monitor, "in*_label"):
                channel = label.name[2 : -len("_label")]
                found[text(label)] = (monitor / f"in{channel}_input", monitor / f"curr{channel}_input")
    for whole in WHOLE_MODULE:
        if whole in found:
            return Rails(f"whole module: {whole} (INA3221)", (found[whole],))
    if all(part in found for part in PARTS):
        return Rails(f"{' + '.join(PARTS)} (INA3221)", tuple(found[part] for part in PARTS))
    return None


def _thor(root: Path) -> Meter | None:
    for monitor in folders(root / "class" / "hwmon"):
        if text(monitor / "name") == "ina238" and (monitor / "power1_input").exists():
            return Gauge("whole module: VIN (INA238)", monitor / "power1_input")
    return None


def _battery(root: Path) -> Meter | None:
    for supply in folders(root / "class" / "power_supply"):
        if text(supply / "type") != "Battery" or text(supply / "scope") == "Device":
            continue
        gauge = Gauge(
            f"what the battery gives ({supply.name})",
            supply / "power_now",
            supply / "voltage_now",
            supply / "current_now",
            lambda supply=supply: text(supply / "status") == "Discharging",  # type: ignore[misc]
        )
        if gauge.watts() is not None:
            return gauge
    return None


def _rapl(root: Path) -> Meter | None:
    packages = [
        zone / "energy_uj"
        for zone in folders(root / "class" / "powercap", "intel-rapl:*")
        if text(zone / "name").startswith("package") and number(zone / "energy_uj") is not None
    ]
    return Counter("processor alone (RAPL)", lambda: [_joules(path) for path in packages]) if packages else None


def _joules(path: Path) -> float | None:
    microjoules = number(path)
    return None if microjoules is None else microjoules * 1e-6


def _gpu(gpu: Gpu | None) -> Meter | None:
    """By its energy, which misses nothing between two looks, or else by its power."""
    if gpu is None or gpu.watts() is None:
        return None
    return gpu if gpu.joules() is None else Counter(gpu.name, lambda: [gpu.joules()])


def _product(first: float | None, second: float | None, scale: float) -> float | None:
    return None if first is None or second is None else first * second * scale
