"""The microphone as far as a machine without one can tell: advice when there is none, choice by name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexiast.errors import DeviceError
from flexiast_runtime import mic
from flexiast_runtime.mic import Microphone


def device(name: str, inputs: int = 1, rate_hz: float = 48_000.0) -> dict[str, Any]:
    return {"name": name, "max_input_channels": inputs, "default_samplerate": rate_hz}


DEVICES = [
    device("HDMI out", inputs=0),
    device("USB Audio: C270 HD WEBCAM", rate_hz=44_100.0),
    device("USB Audio: ReSpeaker 4 Mic Array", inputs=6, rate_hz=16_000.0),
    device("ReSpeaker"),
    device("pulse", inputs=32),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """PortAudio on a machine with these devices, as far as choosing one goes."""

    def make(devices: list[dict[str, Any]], default: int = -1) -> None:
        portaudio = SimpleNamespace(query_devices=lambda: devices, default=SimpleNamespace(device=[default, -1]))
        monkeypatch.setattr(mic, "_import_portaudio", lambda: portaudio)

    return make


# ----- what is installed here


def test_a_machine_without_microphone_says_what_to_do() -> None:
    try:
        found = Microphone()
    except DeviceError as error:
        advice = str(error)
    else:
        pytest.skip(f"this machine has a microphone: {found.name}")
    assert "--input FILE" in advice or "libportaudio2" in advice


def test_a_name_that_no_machine_has_says_what_there_is() -> None:
    with pytest.raises(
        DeviceError, match=r"no microphone is called 'no such thing'; found: |apt install libportaudio2"
    ):
        Microphone("no such thing")


def test_a_machine_without_portaudio_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sounddevice does where the library is missing: the import itself fails."""
    (tmp_path / "sounddevice.py").write_text('raise OSError("PortAudio library not found")')
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"PortAudio library not found: .*apt install libportaudio2"):
        Microphone()


# ----- choice


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("pulse", "pulse"),
        ("webcam", "USB Audio: C270 HD WEBCAM"),
        ("C270", "USB Audio: C270 HD WEBCAM"),
        ("4 mic array", "USB Audio: ReSpeaker 4 Mic Array"),
        ("ReSpeaker", "ReSpeaker"),  # its whole name goes before a part of another's
    ],
)
def test_a_microphone_is_found_by_its_name_or_a_part_of_it(machine: Any, asked: str, name: str) -> None:
    machine(DEVICES)
    assert Microphone(asked).name == name


def test_a_part_that_fits_several_names_them_all(machine: Any) -> None:
    machine(DEVICES)
    with pytest.raises(DeviceError, match=r"several microphones: 'USB Audio: C270 HD WEBCAM', 'USB Audio: ReSpeaker 4"):
        Microphone("usb audio")


def test_an_output_is_no_microphone(machine: Any) -> None:
    machine(DEVICES)
    with pytest.raises(DeviceError, match=r"no microphone is called 'HDMI'; found: 'USB Audio: C270"):
        Microphone("HDMI")


@pytest.mark.parametrize(
    ("default", "name"), [(4, "pulse"), (-1, "USB Audio: C270 HD WEBCAM"), (0, "USB Audio: C270 HD WEBCAM")]
)
def test_without_a_name_it_is_the_default_else_the_first(machine: Any, default: int, name: str) -> None:
    machine(DEVICES, default)
    assert Microphone().name == name


def test_a_machine_with_outputs_only_has_no_microphone(machine: Any) -> None:
    machine(DEVICES[:1])
    with pytest.raises(DeviceError, match="no microphone was found; plug one in"):
        Microphone()


def test_the_rate_is_the_devices_own(machine: Any) -> None:
    machine(DEVICES)
    assert [Microphone(name).rate_hz for name in ("webcam", "4 Mic", "pulse")] == [44_100, 16_000, 48_000]
