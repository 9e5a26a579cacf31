"""Checks power, heat, clocks, disk space and permissions. It only reads Linux's files; roots are parameters."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from flexiast.errors import DataError
from flexiast_runtime.checks.result import CheckResult
from flexiast_runtime.hardware import desktop, platform
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.machine import ROOT, read_climate, read_settings, read_thermal_zones
from flexiast_runtime.hardware.nvml import LIBRARY, Gpu
from flexiast_runtime.hardware.power_source import PowerSource
from flexiast_runtime.hardware.sysfs import list_entries, read_text

LOW_BATTERY = 0.2
"""The default reserve of the governor"""
HOT_C = 80.0
"""Assumed throttling temperature where no zone has a trip point; most processors throttle at 80 to 100 °C. The governor
assumes nothing: it then goes by the latency alone."""
MIN_FREE_BYTES = 200_000_000
"""Room for the plans of one model and its profile"""

SCALES_IN_POWERSAVE = {"intel_pstate", "amd-pstate-epp"}
"""Drivers whose `powersave` raises the clock under load; with all others it stays at the lowest."""
THROTTLED = {0: "voltage is too low", 1: "clocks are capped", 2: "clocks are throttled", 3: "it is too hot"}
"""Bits of the Raspberry Pi's firmware, as in `vcgencmd get_throttled`; 16 bits higher: the same since boot."""

COOL_IT = "improve its cooling: air flow or a heat sink"


def check_battery(found: Battery | None) -> CheckResult:
    """The battery, which the governor takes into account."""
    if found is None and not platform.LINUX and desktop.import_psutil() is None:
        return CheckResult("battery", "note", "cannot be read without psutil", "pip install 'flexiast[power]'")
    if found is None:
        return CheckResult(
            "battery", "note", "none: the governor considers the deadline only", "docs/how-to/power.md, for a UPS HAT"
        )
    charge = _describe_charge(found)
    if found.discharging and found.fraction < LOW_BATTERY:
        return CheckResult("battery", "warning", charge, "plug it in; until then larger patch sizes run")
    return CheckResult("battery", "ok", charge)


def check_power_source(named: PowerSource) -> CheckResult:
    """The user's power source, read once."""
    try:
        supply = named.read()
    except DataError as error:
        return CheckResult("power source", "failure", str(error), "docs/how-to/power.md describes its format")
    readings = [] if supply.battery is None else [_describe_charge(supply.battery)]
    readings += [] if supply.watts is None else [f"{supply.watts:g} W"]
    return CheckResult("power source", "ok", f"{named.name}: {', '.join(readings)}")


def _describe_charge(battery: Battery) -> str:
    return f"{battery.fraction:.0%}, {'discharging' if battery.discharging else 'not discharging'}"


def check_gpu(found: Gpu | None) -> CheckResult:
    """Power and temperature of a discrete GPU."""
    if found is None:
        return CheckResult(
            "GPU", "note", f"no discrete NVIDIA GPU responds ({LIBRARY}): power and temperature are unknown"
        )
    now = found.read()
    power = "no power" if now.watts is None else f"{now.watts:.0f} W"
    heat = "no temperature" if now.temperature_c is None else f"{now.temperature_c:.0f} °C"
    summary = f"{found.name}: {power}, {heat}"
    if now.hot:
        return CheckResult("GPU", "warning", f"{summary}; clocks reduced: {', '.join(now.limits or ())}", COOL_IT)
    return CheckResult("GPU", "ok", summary)


def check_temperature(root: Path = ROOT) -> CheckResult:
    """The zone that is closest to its throttling temperature, by the trip points that the governor goes by, too."""
    zones = read_thermal_zones(root)
    if not zones:
        return CheckResult("temperature", "note", "no sensor can be read")
    limits = {zone: zone.limit_c for zone in zones if zone.limit_c is not None} or dict.fromkeys(zones, HOT_C)
    zone = max(limits, key=lambda each: each.celsius - limits[each])
    assumed = " (assumed: it has no trip point)" if zone.limit_c is None else ""
    summary = f"{zone.name} is at {zone.celsius:.0f} °C, its limit is {limits[zone]:.0f} °C{assumed}"
    if read_climate(root).throttled:
        return CheckResult("temperature", "warning", f"{summary}; the processor is throttled now", COOL_IT)
    if zone.celsius >= limits[zone]:
        return CheckResult("temperature", "warning", summary, COOL_IT)
    return CheckResult("temperature", "ok", summary)


def check_clocks(root: Path = ROOT) -> Iterator[CheckResult]:
    """The frequency governor, and the power mode of boards and laptops that have one."""
    settings = read_settings(root)
    if settings.power_mode:
        yield CheckResult("power mode", "ok", settings.power_mode)
    if not settings.governor:
        yield CheckResult("clocks", "note", "this kernel does not report its frequency governor")
        return
    policies = list_entries(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq")
    pinned = [
        policy
        for policy in policies
        if read_text(policy / "scaling_governor") == "powersave"
        and read_text(policy / "scaling_driver") not in SCALES_IN_POWERSAVE
    ]
    if pinned:
        remedy = f"echo schedutil | sudo tee {pinned[0].parent.parent}/cpu*/cpufreq/scaling_governor"
        yield CheckResult("clocks", "warning", f"{settings.governor}: the clock stays at its lowest frequency", remedy)
    else:
        yield CheckResult("clocks", "ok", settings.governor)


def check_supply(root: Path = ROOT) -> Iterator[CheckResult]:
    """The power supply of a Raspberry Pi; nothing on other machines."""
    for path in list_entries(root / "sys/devices/platform/soc", "soc:firmware/get_throttled"):
        flags = int(read_text(path) or "0", 16)
        now = [fault for bit, fault in THROTTLED.items() if flags >> bit & 1]
        before = [fault for bit, fault in THROTTLED.items() if flags >> bit + 16 & 1]
        summary = ", ".join(now) or f"since boot: {', '.join(before) or 'no low voltage, no throttling'}"
        remedy = "use the board's official power supply, and improve its cooling"
        yield (
            CheckResult("supply", "warning", summary, remedy) if now or before else CheckResult("supply", "ok", summary)
        )


def check_sound_rights(
    folder: Path = Path("/dev/snd"), may_read: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK)
) -> CheckResult:
    """Whether this user may open the sound cards for recording."""
    nodes = sorted(folder.glob("pcmC*D*c"))
    if not nodes:
        return CheckResult("sound rights", "note", f"{folder} has no recording device", "plug a microphone in")
    if denied := [node for node in nodes if not may_read(node)]:
        remedy = "sudo usermod -aG audio $USER, then log in again (in a container: --device /dev/snd --group-add audio)"
        return CheckResult("sound rights", "failure", f"this user may not read {denied[0]}", remedy)
    return CheckResult("sound rights", "ok", f"{len(nodes)} recording devices, all readable")


def check_disk_space(folder: Path) -> CheckResult:
    """Free space where the folder is or would be."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    summary = f"{free / 1e9:.1f} GB free for {folder}"
    if free < MIN_FREE_BYTES:
        return CheckResult(
            "disk", "warning", summary, "delete old files; `flexiast engines prune` removes unusable plans"
        )
    if not os.access(existing, os.W_OK):
        # Only the folder itself becomes the user's, never its parent, which may belong to the whole system.
        path = shlex.quote(str(folder))
        remedy = f"sudo chown $USER {path}" if existing == folder else f"sudo install -d -o $USER {path}"
        return CheckResult(
            "disk", "warning", f"this user may not write to {existing}", f"{remedy}, or set XDG_DATA_HOME"
        )
    return CheckResult("disk", "ok", summary)
