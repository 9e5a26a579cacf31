"""Which machine this is and how it is set: what a figure measured on it depends on."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flexiast.spec import Value
from flexiast_runtime.hardware.sysfs import folders, number, text

ROOT = Path("/")
NVPMODEL_S = 3.0
"""Seconds that nvpmodel may take to answer."""


class Machine(Value):
    """What does not change while a program runs; empty where it is not known."""

    model: str
    """Board or product"""
    processor: str
    cores: int
    memory_mb: int
    system: str
    """Kernel and architecture"""
    jetpack: str = ""
    """L4T release, on a Jetson"""


class Settings(Value):
    """What somebody may change: a profile measured under others does not hold."""

    power_mode: str = ""
    """nvpmodel's, or the platform profile of a laptop"""
    governor: str = ""
    """Of the processor's frequency"""


@dataclass(frozen=True)
class Climate:
    """What changes by itself."""

    temperatures_c: dict[str, float]
    """By thermal zone"""
    clocks_mhz: dict[str, float]
    """Of each core, and of the GPU on a Jetson"""
    throttled: bool | None
    """Whether the kernel holds the processor back; None where it does not say"""
    thermal_headroom_c: float | None
    """Kelvins until it does, from the zone that is nearest to it"""
    power_saver: bool | None
    """Whether the user asked the system to save power"""


def read_machine(root: Path = ROOT) -> Machine:
    """The machine as its own files describe it."""
    tree, dmi = root / "proc" / "device-tree", root / "sys" / "class" / "dmi" / "id"
    product = " ".join(filter(None, (text(dmi / "sys_vendor"), text(dmi / "product_name"))))
    memory = re.search(r"MemTotal:\s+(\d+)", text(root / "proc" / "meminfo"))
    return Machine(
        model=text(tree / "model") or product or platform.node(),
        processor=_processor(root),
        cores=len(folders(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*")) or 1,
        memory_mb=round(int(memory[1]) / 1024) if memory else 0,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        jetpack=_l4t(root),
    )


def read_settings(root: Path = ROOT) -> Settings:
    """Power mode and governor, as they are now."""
    cpus = folders(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*/cpufreq/scaling_governor")
    governors = sorted({text(path) for path in cpus})
    profile = text(root / "sys" / "firmware" / "acpi" / "platform_profile")
    return Settings(power_mode=_nvpmodel() or profile, governor=", ".join(governors))


def read_climate(root: Path = ROOT) -> Climate:
    """Temperatures, clocks and throttling; zones and clocks that do not read are left out."""
    thermal, system = root / "sys" / "class" / "thermal", root / "sys" / "devices" / "system" / "cpu"
    temperatures = {
        text(zone / "type"): celsius / 1000
        for zone in folders(thermal, "thermal_zone*")
        if (celsius := number(zone / "temp", negative=True)) is not None
    }
    clocks = {
        path.parent.parent.name: kilohertz / 1000
        for path in folders(system, "cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (kilohertz := number(path)) is not None
    }
    for device in folders(root / "sys" / "class" / "devfreq"):
        if "gpu" in device.name and (hertz := number(device / "cur_freq")) is not None:
            clocks["gpu"] = hertz / 1e6
    cooling = [
        state > 0
        for device in folders(thermal, "cooling_device*")
        if "cpufreq" in text(device / "type") and (state := number(device / "cur_state")) is not None
    ]
    rooms = [room for zone in folders(thermal, "thermal_zone*") if (room := _room(zone)) is not None]
    return Climate(
        temperatures, clocks, any(cooling) if cooling else None, min(rooms, default=None), _saves_power(root)
    )


def _room(zone: Path) -> float | None:
    """From a zone's temperature to its lowest trip point at which the kernel acts; a fan that starts is no such."""
    celsius = number(zone / "temp", negative=True)
    trips = [
        limit
        for kind in folders(zone, "trip_point_*_type")
        if text(kind) in {"passive", "hot", "critical"}
        and (limit := number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
        and limit > 0  # a trip that is switched off
    ]
    return None if celsius is None or not trips else (min(trips) - celsius) / 1000


def _saves_power(root: Path) -> bool | None:
    """The platform's profile, which power-profiles-daemon sets too, or the processor's energy preference."""
    profile = text(root / "sys" / "firmware" / "acpi" / "platform_profile")
    if profile:
        return profile in {"low-power", "quiet"}
    cpus = folders(root / "sys" / "devices" / "system" / "cpu", "cpu[0-9]*/cpufreq/energy_performance_preference")
    return all(text(path) == "power" for path in cpus) if cpus else None


def _processor(root: Path) -> str:
    lines = text(root / "proc" / "cpuinfo").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor() or platform.machine())


def _l4t(root: Path) -> str:
    """``R36 (release), REVISION: 4.3, …`` → ``L4T 36.4.3``."""
    found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", text(root / "etc" / "nv_tegra_release"))
    return f"L4T {found[1]}.{found[2]}" if found else ""


def _nvpmodel() -> str:
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
