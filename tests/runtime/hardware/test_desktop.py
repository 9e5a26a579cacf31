"""psutil's values as ours; what psutil says of this very machine, where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from flexiast_runtime.checks import machine
from flexiast_runtime.hardware import desktop
from flexiast_runtime.hardware import platform as here
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.machine import read_machine


def sensed(percent: float, power_plugged: bool | None) -> Any:
    return SimpleNamespace(percent=percent, secsleft=-1, power_plugged=power_plugged)


@pytest.mark.parametrize(
    ("value", "battery"),
    [
        (None, None),
        (sensed(42, False), Battery(0.42, discharging=True)),
        (sensed(100, True), Battery(1.0, discharging=False)),
        (sensed(80, None), Battery(0.8, discharging=False)),
        (sensed(float("nan"), False), None),
        (sensed(255, False), None),  # Windows: unknown
    ],
)
def test_a_battery_is_what_psutil_says_or_absent(value: Any, battery: Battery | None) -> None:
    assert desktop.battery(value) == battery


def test_clocks_that_are_not_told_are_absent() -> None:
    assert desktop.climate(SimpleNamespace(current=2400.0)).clocks_mhz == {"cpu": 2400.0}
    for value in (None, SimpleNamespace(current=0.0)):
        assert desktop.climate(value).clocks_mhz == {}


def test_psutil_describes_this_machine_as_its_files_do(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    expected = read_machine()
    monkeypatch.setattr(here, "LINUX", False)
    found = here.machine()
    assert found.memory_mb == pytest.approx(expected.memory_mb, abs=1)
    assert found.cores == psutil.cpu_count()
    assert here.climate().thermal_headroom_c is None
    monkeypatch.setattr(psutil, "sensors_battery", lambda: sensed(42, False))
    assert here.battery() == Battery(0.42, discharging=True)


def test_without_psutil_nothing_is_known_and_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "LINUX", False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert here.battery() is None
    assert here.machine() == read_machine()
    finding = machine.battery(here.battery())
    assert (finding.state, finding.remedy) == ("note", "pip install 'flexiast[power]'")
