"""Batteries, as folders of files: what a kernel shows under /sys is nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.hardware.battery import Battery, read_battery

Files = dict[str, str]

BATTERY: Files = {"type": "Battery", "status": "Discharging", "present": "1"}
ENERGY = BATTERY | {"energy_now": "30000000", "energy_full": "40000000", "capacity": "99"}
CHARGE = BATTERY | {"charge_now": "1500000", "charge_full": "3000000", "capacity": "99"}
PERCENT = BATTERY | {"capacity": "42"}
MAINS: Files = {"type": "Mains", "online": "1"}
MOUSE = PERCENT | {"scope": "Device", "model_name": "Wireless Mouse"}


def machine(root: Path, **supplies: Files) -> Path:
    """A sysfs that holds these power supplies; dashes in names are written as underscores."""
    for name, files in supplies.items():
        folder = root / "class" / "power_supply" / name.replace("__", "-")
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "fraction"),
    [(ENERGY, 0.75), (CHARGE, 0.5), (PERCENT, 0.42), (ENERGY | {"scope": "System"}, 0.75)],
    ids=["energy", "charge", "capacity", "scope System"],
)
def test_a_battery_is_read_by_its_energy_else_its_charge_else_its_percentage(
    tmp_path: Path, files: Files, fraction: float
) -> None:
    battery = read_battery(machine(tmp_path, BAT0=files))
    assert battery is not None
    assert (battery.fraction, battery.discharging) == (fraction, True)


def test_a_fuel_gauge_is_a_battery_by_its_type_not_its_name(tmp_path: Path) -> None:
    assert read_battery(machine(tmp_path, bq27542__0=CHARGE, axp20x__ac=MAINS)) == Battery(0.5, discharging=True)
    assert (tmp_path / "class/power_supply/bq27542-0").is_dir()


@pytest.mark.parametrize("status", ["Not charging", "Full", "Charging", "Unknown", ""])
def test_only_a_battery_that_discharges_does(tmp_path: Path, status: str) -> None:
    assert read_battery(machine(tmp_path, BAT0=ENERGY | {"status": status})) == Battery(
        0.75, energy_j=108_000.0, discharging=False
    )


def test_a_battery_without_present_file_is_there(tmp_path: Path) -> None:
    files = {name: value for name, value in ENERGY.items() if name != "present"}
    assert read_battery(machine(tmp_path, BAT0=files)) == Battery(0.75, energy_j=108_000.0, discharging=True)


@pytest.mark.parametrize(
    "supplies",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"AC": MAINS}, id="mains"),
        pytest.param({"hid_mouse": MOUSE}, id="mouse"),
        pytest.param({"BAT0": ENERGY | {"present": "0"}}, id="empty bay"),
        pytest.param({"BAT0": BATTERY}, id="no numbers"),
        pytest.param({"BAT0": BATTERY | {"energy_now": "inf", "energy_full": "inf"}}, id="infinite energy"),
        pytest.param({"BAT0": {"type": ""}}, id="no type"),
        *(
            pytest.param({"BAT0": BATTERY | {"capacity": text}}, id=f"capacity {text!r}")
            for text in ("", "unknown", "-1", "nan", "inf")
        ),
    ],
)
def test_what_is_no_battery_or_says_nothing_is_none_never_zero(tmp_path: Path, supplies: dict[str, Files]) -> None:
    assert read_battery(machine(tmp_path, **supplies)) is None


def test_a_machine_without_power_supplies_has_no_battery(tmp_path: Path) -> None:
    assert read_battery(tmp_path / "absent") is None
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "power_supply").write_text("not a folder")
    assert read_battery(tmp_path) is None


@pytest.mark.parametrize("broken", ["", "garbled", "-5", "nan", "inf"])
@pytest.mark.parametrize("file", ["energy_now", "energy_full"])
def test_a_number_that_cannot_be_read_gives_way_to_the_percentage(tmp_path: Path, file: str, broken: str) -> None:
    assert read_battery(machine(tmp_path, BAT0=ENERGY | {file: broken})) == Battery(0.99, discharging=True)


def test_a_full_energy_of_zero_gives_way_to_the_percentage(tmp_path: Path) -> None:
    assert read_battery(machine(tmp_path, BAT0=ENERGY | {"energy_full": "0"})) == Battery(0.99, discharging=True)


def test_a_file_that_fails_to_read_is_as_good_as_none(tmp_path: Path) -> None:
    machine(tmp_path, BAT0=PERCENT)
    (tmp_path / "class/power_supply/BAT0/energy_now").mkdir()  # reading it fails, for root too
    assert read_battery(tmp_path) == Battery(0.42, discharging=True)


def test_a_file_that_is_no_text_is_as_good_as_none(tmp_path: Path) -> None:
    machine(tmp_path, BAT0=PERCENT)
    (tmp_path / "class/power_supply/BAT0/status").write_bytes(b"\xff\xfe\x00")
    assert read_battery(tmp_path) == Battery(0.42, discharging=False)


def test_several_batteries_are_weighed_by_what_they_hold(tmp_path: Path) -> None:
    small = ENERGY | {"energy_now": "0", "energy_full": "10000000", "status": "Not charging"}
    large = ENERGY | {"energy_now": "30000000", "energy_full": "30000000"}
    root = machine(tmp_path, BAT0=small, BAT1=large, AC=MAINS, hid_mouse=MOUSE)
    assert read_battery(root) == Battery(0.75, energy_j=108_000.0, discharging=True)


@given(now=st.integers(0, 10**8), full=st.integers(1, 10**8))
def test_the_fraction_stays_between_empty_and_full(
    tmp_path_factory: pytest.TempPathFactory, now: int, full: int
) -> None:
    # worn batteries report more than their full charge
    files = CHARGE | {"charge_now": str(now), "charge_full": str(full)}
    battery = read_battery(machine(tmp_path_factory.mktemp("sys"), BAT0=files))
    assert battery == Battery(min(1.0, now / full), discharging=True)


# ----- energy


@pytest.mark.parametrize(
    ("supplies", "joules"),
    [
        ({"BAT0": ENERGY}, 30 * 3_600),
        ({"BAT0": ENERGY, "BAT1": ENERGY}, 2 * 30 * 3_600),
        ({"BAT0": CHARGE | {"charge_now": "2000000", "voltage_now": "11500000"}}, 2 * 11.5 * 3_600),
        ({"BAT0": CHARGE}, None),
        ({"BAT0": ENERGY, "BAT1": CHARGE}, None),
        ({"BAT0": PERCENT}, None),
    ],
    ids=["energy", "two", "charge and voltage", "charge alone", "one unknown", "percentage"],
)
def test_joules_are_known_where_every_battery_says_them(
    tmp_path: Path, supplies: dict[str, Files], joules: float | None
) -> None:
    battery = read_battery(machine(tmp_path, **supplies))
    assert battery is not None
    assert battery.energy_j == (None if joules is None else pytest.approx(joules))
