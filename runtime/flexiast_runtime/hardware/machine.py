"""What a measurement depends on: which machine this is, how it is configured, how warm it is."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast.processor import read_processor_name
from flexiast.spec import Value
from flexiast_runtime.hardware.sysfs import list_entries, read_number, read_text

ROOT = Path("/")
NVPMODEL_S = 3.0
"""Timeout of nvpmodel"""


class Machine(Value):
    """What does not change while a program runs; empty where unknown."""

    model: str
    """Board or product"""
    processor: str
    cores: int
    memory_mb: int
    system: str
    """Kernel and architecture"""
    jetpack: str = ""
    """L4T release, on a Jetson"""


class MachineSettings(Value):
    """What a user may change. A profile measured under other settings does not apply.

    The names are part of the key that profiles are stored under.
    """

    power_mode: str = ""
    """nvpmodel's, or the platform profile of a laptop"""
    governor: str = ""
    """Of the processor's frequency (Linux cpufreq), not ours"""


class ThermalZone(NamedTuple):
    """A temperature sensor of the kernel."""

    name: str
    celsius: float
    limit_c: float | None
    """Where the kernel acts on it; None: nowhere"""

    @property
    def headroom_c(self) -> float | None:
        return None if self.limit_c is None else self.limit_c - self.celsius


@dataclass(frozen=True)
class Climate:
    """What changes while a program runs."""

    temperatures_c: dict[str, float]
    """By thermal zone"""
    clocks_mhz: dict[str, float]
    """Of each core, and of the GPU on a Jetson"""
    throttled: bool | None
    """Whether the kernel throttles the processor; None: unknown"""
    thermal_headroom_c: float | None
    """Degrees until it does, from the zone that is closest to it"""
    power_saver: bool | None
    """Whether the user asked the system to save power"""


def read_machine(root: Path = ROOT) -> Machine:
    """Read what the machine is from its own files."""
    tree, dmi = root / "proc" / "device-tree", root / "sys" / "class" / "dmi" / "id"
    product = " ".join(filter(None, (read_text(dmi / "sys_vendor"), read_text(dmi / "product_name"))))
    memory = re.search(r"MemTotal:\s+(\d+)", read_text(root / "proc" / "meminfo"))
    return Machine(
        model=read_text(tree / "model") or product or platform.node(),
        processor=read_processor_name(root),
        cores=len(list_entries(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*")) or 1,
        memory_mb=round(int(memory[1]) / 1024) if memory else 0,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        jetpack=_read_l4t(root),
    )


def read_settings(root: Path = ROOT) -> MachineSettings:
    """Read the current power mode and frequency governor."""
    cpus = list_entries(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*/cpufreq/scaling_governor")
    governors = sorted({read_text(path) for path in cpus})
    profile = read_text(root / "sys" / "firmware" / "acpi" / "platform_profile")
    return MachineSettings(power_mode=_read_nvpmodel() or profile, governor=", ".join(governors))


def read_climate(root: Path = ROOT) -> Climate:
    """Read temperatures, clocks and throttling; what cannot be read is left out."""
    thermal, system = root / "sys" / "class" / "thermal", root / "sys" / "devices" / "system" / "cpu"
    zones = read_thermal_zones(root)
    clocks = {
        path.parent.parent.name: kilohertz / 1000
        for path in list_entries(system, "cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (kilohertz := read_number(path)) is not None
    }
    for device in list_entries(root / "sys" / "class" / "devfreq"):
        if "gpu" in device.name and (hertz := read_number(device / "cur_freq")) is not None:
            clocks["gpu"] = hertz / 1e6
    cooling = [
        state > 0
        for device in list_entries(thermal, "cooling_device*")
        if "cpufreq" in read_text(device / "type") and (state := read_number(device / "cur_state")) is not None
    ]
    return Climate(
        {zone.name: zone.celsius for zone in zones},
        clocks,
        any(cooling) if cooling else None,
        min((zone.headroom_c for zone in zones if zone.headroom_c is not None), default=None),
        _read_power_saver(root),
    )


def read_thermal_zones(root: Path = ROOT) -> list[ThermalZone]:
    """The zones that can be read; a zone without power cannot."""
    return [
        ThermalZone(read_text(zone / "type"), celsius / 1000, _read_limit_c(zone))
        for zone in list_entries(root / "sys" / "class" / "thermal", "thermal_zone*")
        if (celsius := read_number(zone / "temp", negative=True)) is not None
    ]


def _read_limit_c(zone: Path) -> float | None:
    """The lowest trip point at which the kernel throttles or shuts down.

    At the other type, active, it starts a fan, which costs no speed. A trip point of 0 or below is switched off.
    """
    limits = [
        limit / 1000
        for kind in list_entries(zone, "trip_point_*_type")
        if read_text(kind) in {"passive", "hot", "critical"}
        and (limit := read_number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
        and limit > 0
    ]
    return min(limits, default=None)


def _read_power_saver(root: Path) -> bool | None:
    """From the platform profile, which power-profiles-daemon sets too, or the processor's energy preference."""
    profile = read_text(root / "sys" / "firmware" / "acpi" / "platform_profile")
    if profile:
        return profile in {"low-power", "quiet"}
    cpus = list_entries(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*/cpufreq/energy_performance_preference")
    return all(read_text(path) == "power" for path in cpus) if cpus else None


def _read_l4t(root: Path) -> str:
    """``R36 (release), REVISION: 4.3, …`` → ``L4T 36.4.3``."""
    found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", read_text(root / "etc" / "nv_tegra_release"))
    return f"L4T {found[1]}.{found[2]}" if found else ""


def _read_nvpmodel() -> str:
    """The name of a Jetson's power mode; empty on other machines."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return ""
    try:
        answer = subprocess.run([tool, "-q"], capture_output=True, text=True, timeout=NVPMODEL_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else ""
