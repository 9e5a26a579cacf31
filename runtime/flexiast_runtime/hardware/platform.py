"""Readings of this machine on any system: Linux's own files, psutil elsewhere, NVML for a discrete GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace

from flexiast_runtime.hardware import desktop
from flexiast_runtime.hardware.battery import Battery, read_battery
from flexiast_runtime.hardware.machine import Climate, Machine, read_climate, read_machine
from flexiast_runtime.hardware.nvml import Gpu, GpuReading

LINUX = platform.system() == "Linux"


def read_current_battery() -> Battery | None:
    """The battery, or None if there is none or it cannot be read."""
    if LINUX:
        return read_battery()
    psutil = desktop.import_psutil()
    return None if psutil is None else desktop.convert_battery(psutil.sensors_battery())


def describe_machine() -> Machine:
    """What this machine is."""
    psutil, described = None if LINUX else desktop.import_psutil(), read_machine()
    if psutil is None:
        return described
    return desktop.complete_machine(described, psutil.cpu_count(), psutil.virtual_memory().total)


def read_current_climate(gpu: Gpu | None = None, saver: Callable[[], bool | None] = lambda: None) -> Climate:
    """Temperatures and clocks, with the GPU's; ``saver`` is called if the kernel does not say whether to save power."""
    psutil = None if LINUX else desktop.import_psutil()
    found = read_climate() if psutil is None else desktop.convert_climate(psutil.cpu_freq())
    if found.power_saver is None:
        found = replace(found, power_saver=saver())
    return found if gpu is None else add_gpu(found, gpu.read())


def add_gpu(climate: Climate, gpu: GpuReading) -> Climate:
    """Add a GPU's temperature, clocks and throttling."""
    heat = {} if gpu.temperature_c is None else {"gpu": gpu.temperature_c}
    known = [throttled for throttled in (climate.throttled, gpu.hot) if throttled is not None]
    return replace(
        climate,
        temperatures_c=climate.temperatures_c | heat,
        clocks_mhz=climate.clocks_mhz | gpu.clocks_mhz,
        throttled=any(known) if known else None,
    )
