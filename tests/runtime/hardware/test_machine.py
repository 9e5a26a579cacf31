"""The machine as its files describe it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexiast_runtime.hardware.machine import read_climate, read_machine, read_settings


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    put(tmp_path / "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    put(tmp_path / "proc/meminfo", "MemTotal:        7802000 kB\nMemFree:  1 kB\n")
    put(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    for core in range(6):
        policy = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        put(policy / "scaling_governor", "schedutil\n")
        put(policy / "scaling_cur_freq", "1510400\n")
    put(tmp_path / "sys/devices/system/cpu/cpufreq/policy0/x", "")
    put(tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq", "624750000\n")
    for zone, (kind, value) in enumerate({"cpu-thermal": "48500", "gpu-thermal": "45000", "cv0-thermal": ""}.items()):
        put(tmp_path / f"sys/class/thermal/thermal_zone{zone}/type", f"{kind}\n")
        put(tmp_path / f"sys/class/thermal/thermal_zone{zone}/temp", value)
    return tmp_path


def test_a_jetson_says_what_it_is(orin: Path) -> None:
    machine = read_machine(orin)
    assert machine.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (machine.cores, machine.memory_mb, machine.jetpack) == (6, 7619, "L4T 36.4.3")
    assert read_settings(orin).governor == "schedutil"


def test_zones_that_do_not_read_are_left_out(orin: Path) -> None:
    climate = read_climate(orin)
    assert climate.temperatures_c == {"cpu-thermal": 48.5, "gpu-thermal": 45.0}
    assert climate.clocks_mhz["gpu"] == pytest.approx(624.75)
    assert climate.clocks_mhz["cpu0"] == pytest.approx(1510.4)
    assert climate.throttled is None


@pytest.mark.parametrize("state", [0, 3])
def test_the_kernel_says_when_it_holds_the_processor_back(orin: Path, state: int) -> None:
    put(orin / "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n")
    put(orin / "sys/class/thermal/cooling_device0/cur_state", f"{state}\n")
    put(orin / "sys/class/thermal/cooling_device1/type", "pwm-fan\n")
    put(orin / "sys/class/thermal/cooling_device1/cur_state", "2\n")
    assert read_climate(orin).throttled is (state > 0)


def test_a_machine_that_says_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.cores == 1
    assert machine.memory_mb == 0
    climate = read_climate(tmp_path)
    assert (climate.temperatures_c, climate.clocks_mhz, climate.throttled) == ({}, {}, None)


def test_the_room_to_throttling_is_that_of_the_nearest_zone(orin: Path) -> None:
    assert read_climate(orin).thermal_headroom_c is None
    for zone, trips in {0: {"active": 40_000, "passive": 95_000, "critical": 105_000}, 1: {"passive": 60_000}}.items():
        for number, (kind, limit) in enumerate(trips.items()):
            put(orin / f"sys/class/thermal/thermal_zone{zone}/trip_point_{number}_type", kind)
            put(orin / f"sys/class/thermal/thermal_zone{zone}/trip_point_{number}_temp", str(limit))
    assert read_climate(orin).thermal_headroom_c == pytest.approx(60 - 45)


@pytest.mark.parametrize(("profile", "saves"), [("low-power", True), ("balanced", False), ("performance", False)])
def test_a_wish_to_save_power_is_known(orin: Path, profile: str, saves: bool) -> None:
    assert read_climate(orin).power_saver is None
    put(orin / "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference", "power\n")
    assert read_climate(orin).power_saver is True
    put(orin / "sys/firmware/acpi/platform_profile", f"{profile}\n")
    assert read_climate(orin).power_saver is saves
