"""What the system of this machine tells of it: Linux's own files, psutil elsewhere, NVML for a discrete GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace

from flexiast_runtime.hardware import desktop
from flexiast_runtime.hardware.battery import Battery, read_battery
from flexiast_runtime.hardware.machine import Climate, Machine, read_climate, read_machine
from flexiast_runtime.hardware.nvml import Gpu, GpuReading

LINUX = platform.system() == "Linux"


def battery() -> Battery | None:
    """Its battery, or None where there is none or it cannot be read now."""
    if LINUX:
        return read_battery()
    psutil = desktop.psutil()
    return None if psutil is None else desktop.battery(psutil.sensors_battery())


def machine() -> Machine:
    """What it is."""
    psutil, described = None if LINUX else desktop.psutil(), read_machine()
    if psutil is None:
        return described
    return desktop.machine(described, psutil.cpu_count(), psutil.virtual_memory().total)


def climate(gpu: Gpu | None = None, saver: Callable[[], bool | None] = lambda: None) -> Climate:
    """Heat and clocks, those of the GPU too; ``saver`` is asked whether to save power where the kernel does not say."""
    psutil = None if LINUX else desktop.psutil()
    found = read_climate() if psutil is None else desktop.climate(psutil.cpu_freq())
    if found.power_saver is None:
        found = replace(found, power_saver=saver())
    return found if gpu is None else with_gpu(found, gpu.read())


def with_gpu(climate: Climate, gpu: GpuReading) -> Climate:
    """The climate of a machine that has this GPU."""
    heat = {} if gpu.temperature_c is None else {"gpu": gpu.temperature_c}
    known = [throttled for throttled in (climate.throttled, gpu.hot) if throttled is not None]
    return replace(
        climate,
        temperatures_c=climate.temperatures_c | heat,
        clocks_mhz=climate.clocks_mhz | gpu.clocks_mhz,
        throttled=any(known) if known else None,
    )
