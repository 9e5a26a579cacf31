"""The battery, read from Linux's sysfs; the root is a parameter, so a folder of files is a battery too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast_runtime.hardware.sysfs import SYSFS, number, text


@dataclass(frozen=True)
class Battery:
    """What the batteries of this machine hold together."""

    fraction: float
    """0 empty … 1 full"""
    discharging: bool
    energy_j: float | None = None
    """Left in them, where they say it"""


def read_battery(root: Path = SYSFS) -> Battery | None:
    """The machine's battery, or None where there is none or it cannot be read now; never a guess, never zero instead.

    Batteries are known by their type, not by their name: fuel gauges are called bq27542-0 or max170xx. Those of scope
    Device belong to a mouse or headset. Several are weighed by what they hold when full.
    """
    folder = root / "class" / "power_supply"
    try:
        supplies = sorted(folder.iterdir())
    except OSError:
        return None
    batteries = [battery for supply in supplies if (battery := _read(supply)) is not None]
    if not batteries:
        return None
    # Watt-hours and ampere-hours cannot be added: batteries that speak of different things count alike.
    alike = len({battery.kind for battery in batteries}) == 1
    capacities = [battery.capacity if alike else 1.0 for battery in batteries]
    held = sum(battery.fraction * capacity for battery, capacity in zip(batteries, capacities, strict=True))
    fraction = held / sum(capacities)
    energies = [battery.energy_j for battery in batteries]
    energy_j = None if None in energies else sum(filter(None, energies))
    return Battery(min(max(fraction, 0.0), 1.0), any(battery.discharging for battery in batteries), energy_j)


class _Cell(NamedTuple):
    """One battery."""

    fraction: float
    kind: str
    capacity: float
    """When full, in the unit of its kind; 1 where only a percentage is known"""
    discharging: bool
    energy_j: float | None = None


def _joules(supply: Path, kind: str, now: float) -> float | None:
    """Microwatt-hours, or microampere-hours at the present voltage in microvolts."""
    volts = 1.0 if kind == "energy" else (number(supply / "voltage_now") or 0.0) * 1e-6
    return now * 1e-6 * volts * 3_600 if volts else None


def _read(supply: Path) -> _Cell | None:
    """One battery; None for anything else or unreadable."""
    if text(supply / "type") != "Battery" or text(supply / "scope") == "Device" or text(supply / "present") == "0":
        return None
    discharging = text(supply / "status") == "Discharging"
    for kind in ("energy", "charge"):
        now, full = number(supply / f"{kind}_now"), number(supply / f"{kind}_full")
        if now is not None and full:
            return _Cell(now / full, kind, full, discharging, _joules(supply, kind, now))
    percent = number(supply / "capacity")
    return None if percent is None else _Cell(percent / 100, "percent", 1.0, discharging)
