"""Reads the battery from Linux's sysfs. The root is a parameter, so that a folder of files can stand for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast_runtime.hardware.sysfs import SYSFS, read_number, read_text


@dataclass(frozen=True)
class Battery:
    """The charge of all batteries of this machine together."""

    fraction: float
    """0 empty … 1 full"""
    discharging: bool
    energy_j: float | None = None
    """Energy left, if the batteries report it"""


def read_battery(root: Path = SYSFS) -> Battery | None:
    """The machine's battery; None if there is none or it cannot be read. Never a guess, and never zero instead.

    Batteries are recognised by their type, not by their name: fuel gauges are called bq27542-0 or max170xx. Those of
    scope Device belong to a mouse or a headset. Several batteries are weighted by their full capacity.
    """
    folder = root / "class" / "power_supply"
    try:
        supplies = sorted(folder.iterdir())
    except OSError:
        return None
    batteries = [battery for supply in supplies if (battery := _read_supply(supply)) is not None]
    if not batteries:
        return None
    # Watt-hours and ampere-hours cannot be added: batteries with different units get equal weights.
    same_unit = len({battery.kind for battery in batteries}) == 1
    capacities = [battery.capacity if same_unit else 1.0 for battery in batteries]
    charge = sum(battery.fraction * capacity for battery, capacity in zip(batteries, capacities, strict=True))
    fraction = charge / sum(capacities)
    energies = [battery.energy_j for battery in batteries]
    energy_j = None if None in energies else sum(filter(None, energies))
    return Battery(min(max(fraction, 0.0), 1.0), any(battery.discharging for battery in batteries), energy_j)


class _Reading(NamedTuple):
    """One battery."""

    fraction: float
    kind: str
    capacity: float
    """When full, in the unit of its kind; 1 if only a percentage is known"""
    discharging: bool
    energy_j: float | None = None


def _convert_to_joules(supply: Path, kind: str, now: float) -> float | None:
    """From microwatt-hours, or from microampere-hours at the current voltage in microvolts."""
    volts = 1.0 if kind == "energy" else (read_number(supply / "voltage_now") or 0.0) * 1e-6
    return now * 1e-6 * volts * 3_600 if volts else None


def _read_supply(supply: Path) -> _Reading | None:
    """One battery; None if it cannot be read, or is something else."""
    if (
        read_text(supply / "type") != "Battery"
        or read_text(supply / "scope") == "Device"
        or read_text(supply / "present") == "0"
    ):
        return None
    discharging = read_text(supply / "status") == "Discharging"
    for kind in ("energy", "charge"):
        now, full = read_number(supply / f"{kind}_now"), read_number(supply / f"{kind}_full")
        if now is not None and full:
            return _Reading(now / full, kind, full, discharging, _convert_to_joules(supply, kind, now))
    percent = read_number(supply / "capacity")
    return None if percent is None else _Reading(percent / 100, "percent", 1.0, discharging)
