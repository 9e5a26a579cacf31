"""Power, heat, clocks, room and rights, read from Linux's files and never written; roots are parameters."""

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
from flexiast_runtime.hardware.machine import ROOT, read_climate, read_settings
from flexiast_runtime.hardware.nvml import LIBRARY, Gpu
from flexiast_runtime.hardware.power_source import PowerSource
from flexiast_runtime.hardware.sysfs import folders, number, text

LOW_BATTERY = 0.2
HOT_C = 80.0
"""Where no zone says itself at which temperature it slows the clocks down."""
LITTLE_ROOM_BYTES = 200_000_000

SCALES_IN_POWERSAVE = {"intel_pstate", "amd-pstate-epp"}
"""Drivers whose `powersave` goes up under load; with all others it stays at the lowest clock."""
THROTTLED = {0: "voltage is too low", 1: "clocks are capped", 2: "clocks are throttled", 3: "it is too hot"}
"""Bits of the Raspberry Pi's firmware, as in `vcgencmd get_throttled`; 16 higher, the same since it started."""

COOL_IT = "give it air or a heat sink"


def check_battery(found: Battery | None) -> CheckResult:
    """What the governor will save for."""
    if found is None and not platform.LINUX and desktop.import_psutil() is None:
        return CheckResult("battery", "note", "cannot be read without psutil", "pip install 'flexiast[power]'")
    if found is None:
        return CheckResult(
            "battery", "note", "none: the governor goes by the deadline alone", "docs/power.md, for a UPS HAT"
        )
    said = _charge(found)
    if found.discharging and found.fraction < LOW_BATTERY:
        return CheckResult("battery", "warning", said, "plug it in; until then coarser patch sizes run")
    return CheckResult("battery", "ok", said)


def check_power_source(named: PowerSource) -> CheckResult:
    """A power source of the user's own, asked once."""
    try:
        supply = named.read()
    except DataError as error:
        return CheckResult("power source", "failure", str(error), "docs/power.md says what it may give")
    said = [] if supply.battery is None else [_charge(supply.battery)]
    said += [] if supply.watts is None else [f"{supply.watts:g} W"]
    return CheckResult("power source", "ok", f"{named.name}: {', '.join(said)}")


def _charge(battery: Battery) -> str:
    return f"{battery.fraction:.0%}, {'draining' if battery.discharging else 'not draining'}"


def check_gpu(found: Gpu | None) -> CheckResult:
    """What a discrete GPU says of its power and heat."""
    if found is None:
        return CheckResult(
            "GPU", "note", f"no discrete NVIDIA GPU answers ({LIBRARY}): its power and heat are not known"
        )
    now = found.read()
    power = "no power" if now.watts is None else f"{now.watts:.0f} W"
    heat = "no temperature" if now.temperature_c is None else f"{now.temperature_c:.0f} °C"
    said = f"{found.name}: {power}, {heat}"
    if now.hot:
        return CheckResult("GPU", "warning", f"{said}; held back: {', '.join(now.limits or ())}", COOL_IT)
    return CheckResult("GPU", "ok", said)


def check_temperature(root: Path = ROOT) -> CheckResult:
    """The zone that is nearest to where it slows the clocks down."""
    zones = [
        (degrees - _limit(zone), text(zone / "type"), degrees)
        for zone in folders(root / "sys/class/thermal", "thermal_zone*")
        if (degrees := _celsius(zone / "temp")) is not None  # zones without power do not read
    ]
    if not zones:
        return CheckResult("temperature", "note", "no sensor can be read")
    over, name, degrees = max(zones)
    said = f"{name} is at {degrees:.0f} °C, clocks go down at {degrees - over:.0f}"
    if read_climate(root).throttled:
        return CheckResult("temperature", "warning", f"{said}; the processor is held back now", COOL_IT)
    return CheckResult("temperature", "warning", said, COOL_IT) if over >= 0 else CheckResult("temperature", "ok", said)


def check_clocks(root: Path = ROOT) -> Iterator[CheckResult]:
    """The frequency governor, and the power mode of boards and laptops that have one."""
    settings = read_settings(root)
    if settings.power_mode:
        yield CheckResult("power mode", "ok", settings.power_mode)
    if not settings.governor:
        yield CheckResult("clocks", "note", "this kernel does not say how it sets them")
        return
    policies = folders(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq")
    pinned = [
        policy
        for policy in policies
        if text(policy / "scaling_governor") == "powersave"
        and text(policy / "scaling_driver") not in SCALES_IN_POWERSAVE
    ]
    if pinned:
        remedy = f"echo schedutil | sudo tee {pinned[0].parent.parent}/cpu*/cpufreq/scaling_governor"
        yield CheckResult("clocks", "warning", f"{settings.governor}: stays at the lowest frequency", remedy)
    else:
        yield CheckResult("clocks", "ok", settings.governor)


def check_supply(root: Path = ROOT) -> Iterator[CheckResult]:
    """What a Raspberry Pi says of its power supply; nothing on other machines."""
    for path in folders(root / "sys/devices/platform/soc", "soc:firmware/get_throttled"):
        flags = int(text(path) or "0", 16)
        now = [said for bit, said in THROTTLED.items() if flags >> bit & 1]
        before = [said for bit, said in THROTTLED.items() if flags >> bit + 16 & 1]
        said = ", ".join(now) or f"since it started: {', '.join(before) or 'never too weak, never too hot'}"
        remedy = "use the board's own power supply, and cool it"
        yield CheckResult("supply", "warning", said, remedy) if now or before else CheckResult("supply", "ok", said)


def check_sound_rights(
    folder: Path = Path("/dev/snd"), may_read: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK)
) -> CheckResult:
    """Whether this user may open the sound cards that record."""
    nodes = sorted(folder.glob("pcmC*D*c"))
    if not nodes:
        return CheckResult("sound rights", "note", f"{folder} has no card that records", "plug a microphone in")
    if denied := [node for node in nodes if not may_read(node)]:
        remedy = "sudo usermod -aG audio $USER, then log in again (in a container: --device /dev/snd --group-add audio)"
        return CheckResult("sound rights", "failure", f"this user may not read {denied[0]}", remedy)
    return CheckResult("sound rights", "ok", f"{len(nodes)} that record, all readable")


def check_disk_space(folder: Path) -> CheckResult:
    """Space where the folder is or would be made."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    said = f"{free / 1e9:.1f} GB free for {folder}"
    if free < LITTLE_ROOM_BYTES:
        return CheckResult("disk", "warning", said, "remove what is old; `flexiast engines prune` frees unusable plans")
    if not os.access(there, os.W_OK):
        # The folder itself is to be the user's, never what it would lie in: that may be the whole system.
        path = shlex.quote(str(folder))
        remedy = f"sudo chown $USER {path}" if there == folder else f"sudo install -d -o $USER {path}"
        return CheckResult("disk", "warning", f"{there} may not be written to", f"{remedy}, or set XDG_DATA_HOME")
    return CheckResult("disk", "ok", said)


def _limit(zone: Path) -> float:
    """Degrees at which the zone slows something down."""
    passive = [trip for trip in folders(zone, "trip_point_*_type") if text(trip) == "passive"]
    limits = [_celsius(trip.with_name(trip.name.replace("_type", "_temp"))) for trip in passive]
    return min((limit for limit in limits if limit and limit > 0), default=HOT_C)  # unused ones say 0 or -274


def _celsius(path: Path) -> float | None:
    value = number(path, negative=True)
    return None if value is None else value / 1000
