"""Meters on trees of files laid out as the kernel does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexiast_runtime.hardware.meters import Counter, find_meter

NANO = {"VDD_IN": (4976, 1056), "VDD_CPU_GPU_CV": (4976, 160), "VDD_SOC": (4976, 288)}
AGX = {"VDD_GPU_SOC": (19920, 160), "VDD_CPU_CV": (19920, 80), "VIN_SYS_5V0": (4968, 720)}


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def jetson(root: Path, rails: dict[str, tuple[int, int]]) -> Path:
    monitor = root / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        put(monitor / f"in{channel}_label", label)
        put(monitor / f"in{channel}_input", millivolts)
        put(monitor / f"curr{channel}_input", milliamperes)
    put(monitor / "in7_label", "sum of shunt voltages")
    put(monitor / "in7_input", 12)
    return monitor


def test_a_module_with_a_rail_for_the_whole_is_read_there_alone(tmp_path: Path) -> None:
    jetson(tmp_path, NANO)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == "whole module: VDD_IN (INA3221)"
    assert meter.watts() == pytest.approx(4.976 * 1.056)


def test_rails_side_by_side_are_added(tmp_path: Path) -> None:
    jetson(tmp_path, AGX)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.watts() == pytest.approx(19.92 * 0.16 + 19.92 * 0.08 + 4.968 * 0.72)


@pytest.mark.parametrize("broken", ["", "-1", "nan", "n/a"])
def test_a_rail_that_cannot_be_read_makes_the_sum_unknown_not_smaller(tmp_path: Path, broken: str) -> None:
    monitor = jetson(tmp_path, AGX)
    meter = find_meter(tmp_path)
    assert meter is not None
    put(monitor / "curr2_input", broken)
    assert meter.watts() is None


def test_thor_counts_microwatts(tmp_path: Path) -> None:
    put(tmp_path / "class/hwmon/hwmon0/name", "nvme")
    put(tmp_path / "class/hwmon/hwmon1/name", "ina238")
    put(tmp_path / "class/hwmon/hwmon1/power1_input", 41_500_000)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.watts() == pytest.approx(41.5)


def battery(root: Path, **files: object) -> None:
    for name, content in {"type": "Battery", "status": "Discharging", **files}.items():
        put(root / "class/power_supply/BAT0" / name, content)


@pytest.mark.parametrize(
    "files",
    [{"power_now": 12_500_000}, {"power_now": -12_500_000}, {"voltage_now": 12_500_000, "current_now": -1_000_000}],
    ids=["power", "signed power", "current"],
)
def test_a_battery_gives_what_the_machine_draws_while_it_drains(tmp_path: Path, files: dict[str, int]) -> None:
    battery(tmp_path, **files)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.watts() == pytest.approx(12.5)
    battery(tmp_path, status="Charging", **files)
    assert meter.watts() is None


def test_a_mouse_is_no_meter_and_neither_is_nothing(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    battery(tmp_path, power_now=1_000_000, scope="Device")
    assert find_meter(tmp_path) is None


def test_a_processor_counts_its_energy(tmp_path: Path) -> None:
    for package in (0, 1):
        put(tmp_path / f"class/powercap/intel-rapl:{package}/name", f"package-{package}")
        put(tmp_path / f"class/powercap/intel-rapl:{package}/energy_uj", 0)
    put(tmp_path / "class/powercap/intel-rapl:0:0/name", "core")  # part of a package
    put(tmp_path / "class/powercap/intel-rapl:0:0/energy_uj", 0)
    found, times = find_meter(tmp_path), iter([0.0, 2.0, 3.0, 4.0])
    assert isinstance(found, Counter)
    meter = Counter(found.name, found.joules, clock=lambda: next(times))
    assert meter.watts() is None  # the first look
    for package, joules in ((0, 20), (1, 10)):
        put(tmp_path / f"class/powercap/intel-rapl:{package}/energy_uj", joules * 1_000_000)
    assert meter.watts() == pytest.approx(15.0)
    put(tmp_path / "class/powercap/intel-rapl:0/energy_uj", 3)  # began anew
    assert meter.watts() is None
    assert meter.watts() == pytest.approx(0.0)
