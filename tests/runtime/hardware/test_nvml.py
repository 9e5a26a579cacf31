"""NVML's functions in a library of our own, compiled on the spot and called as the real one is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flexiast_runtime.checks import machine
from flexiast_runtime.hardware.meters import Counter, find_meter
from flexiast_runtime.hardware.nvml import LIBRARY, Gpu
from flexiast_runtime.hardware.platform import read_current_climate

Build = Callable[..., str]

SOURCE = r"""
#include <stdio.h>
#include <string.h>
typedef void *device;
static int card;
static unsigned long long mj = 1000000;
#define ONLY(handle) if (handle != &card) return 2
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) { if (i) return 2; *d = &card; return 0; }
int nvmlDeviceGetName(device d, char *name, unsigned n) { ONLY(d); snprintf(name, n, "NVIDIA T4"); return 0; }
int nvmlDeviceGetPowerUsage(device d, unsigned *mw) { ONLY(d); *mw = 27500; return POWER; }
int nvmlDeviceGetTemperature(device d, int sensor, unsigned *c) { ONLY(d); if (sensor) return 2; *c = 61; return 0; }
int nvmlDeviceGetClockInfo(device d, int type, unsigned *mhz) {
    ONLY(d);
    if (type != 1 && type != 2) return 2;
    *mhz = type == 1 ? 1590 : 5000;
    return 0;
}
#ifdef ENERGY
int nvmlDeviceGetTotalEnergyConsumption(device d, unsigned long long *sum) {
    ONLY(d); *sum = mj += 30000; return 0;
}
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *bits) {
    ONLY(d); *bits = REASONS; return 0;
}
"""


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A library with these answers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "nvml.c"
    source.write_text(SOURCE)

    def build(init: int = 0, power: int = 0, reasons: int = 0, *, energy: bool = True) -> str:
        library = tmp_path / f"nvml-{init}-{power}-{reasons}-{energy}.so"
        answers = [f"-DINIT={init}", f"-DPOWER={power}", f"-DREASONS={reasons}ULL", *(["-DENERGY"] if energy else [])]
        subprocess.run([compiler, "-shared", "-fPIC", *answers, "-o", library, source], check=True)
        return str(library)

    return build


def test_everything_that_nvml_tells_is_read(build: Build) -> None:
    gpu = Gpu.open(build(reasons=0x05))
    assert gpu is not None
    assert gpu.name == "GPU alone: NVIDIA T4 (NVML)"
    now = gpu.read()
    assert (now.watts, now.temperature_c) == (27.5, 61.0)
    assert now.clocks_mhz == {"gpu": 1590.0, "gpu memory": 5000.0}
    assert (now.limits, now.hot) == (("power limit",), False)  # an idle GPU, bit 0, is held back by nothing


@pytest.mark.parametrize("bit", [0x08, 0x20, 0x40, 0x80])
def test_heat_is_a_reason_of_its_own(build: Build, bit: int) -> None:
    gpu = Gpu.open(build(reasons=bit))
    assert gpu is not None
    assert gpu.read().hot is True
    climate = read_current_climate(gpu)
    assert climate.throttled is True
    assert (climate.temperatures_c["gpu"], climate.clocks_mhz["gpu"]) == (61.0, 1590.0)
    assert machine.check_gpu(gpu).state == "warning"


def test_a_gpu_that_counts_its_energy_is_a_meter_that_misses_nothing(build: Build, tmp_path: Path) -> None:
    found, times = find_meter(tmp_path, Gpu.open(build())), iter([10.0, 12.0])
    assert isinstance(found, Counter)
    meter = Counter(found.name, found.joules, clock=lambda: next(times))
    assert meter.watts() is None
    assert meter.watts() == pytest.approx(15.0)  # 30 J at each look


def test_an_older_gpu_tells_its_power_alone(build: Build, tmp_path: Path) -> None:
    meter = find_meter(tmp_path, Gpu.open(build(energy=False)))
    assert meter is not None
    assert meter.watts() == pytest.approx(27.5)


def test_what_a_gpu_does_not_support_is_absent_not_zero(build: Build, tmp_path: Path) -> None:
    """As on a Jetson, where NVML answers and knows no power."""
    gpu = Gpu.open(build(power=3, energy=False))
    assert gpu is not None
    assert (gpu.watts(), gpu.joules(), gpu.read().watts) == (None, None, None)
    assert find_meter(tmp_path, gpu) is None
    assert "no power, 61 °C" in machine.check_gpu(gpu).text


def test_without_a_driver_nothing_is_known_and_the_doctor_says_so(build: Build) -> None:
    assert Gpu.open("libno-such-library.so.1") is None
    assert Gpu.open(build(init=9)) is None  # NVML_ERROR_DRIVER_NOT_LOADED
    finding = machine.check_gpu(None)
    assert finding.state == "note"
    assert LIBRARY in finding.text
