"""The battery, read from Linux's sysfs; the root is a parameter, so a folder of files is a battery too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")


@dataclass(frozen=True)
class Battery:
    """What the batteries of this machine hold together."""

    fraction: float
    """0 empty … 1 full"""
    discharging: bool


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
    full = sum(capacity for _, capacity, _ in batteries)
    if not batteries or full <= 0:
        return None
    fraction = sum(fraction * capacity for fraction, capacity, _ in batteries) / full
    return Battery(min(max(fraction, 0.0), 1.0), any(discharging for _, _, discharging in batteries))


def _read(supply: Path) -> tuple[float, float, bool] | None:
    """(fraction, capacity when full or 1, discharging) of one battery; None for anything else or unreadable."""
    if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device" or _text(supply / "present") == "0":
        return None
    discharging = _text(supply / "status") == "Discharging"
    for kind in ("energy", "charge"):
        now, full = _number(supply / f"{kind}_now"), _number(supply / f"{kind}_full")
        if now is not None and full:
            return now / full, full, discharging
    percent = _number(supply / "capacity")
    return None if percent is None else (percent / 100, 1.0, discharging)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        value = float(_text(path))
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None
