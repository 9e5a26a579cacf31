"""Which microphone is meant, and what to say when none is: names, parts of names, USB ids, never a number."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DeviceError
from flexiast_runtime.audio.devices import (
    InputDevice,
    choose,
    disambiguate,
    input_devices,
    match_device,
    missing_device_hint,
    usb_id,
)

WEBCAM = InputDevice(1, "C270 HD WEBCAM: USB Audio (hw:1,0)", "ALSA", 1, 44_100, "046d:0825")
ARRAY = InputDevice(2, "ReSpeaker 4 Mic Array: USB Audio (hw:2,0)", "ALSA", 6, 16_000, "2886:0018")
SHORT = InputDevice(3, "ReSpeaker", "ALSA", 1, 48_000)
PULSE = InputDevice(4, "pulse", "ALSA", 32, 48_000)
DEVICES = (WEBCAM, ARRAY, SHORT, PULSE)


# ----- choice


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("pulse", PULSE),
        ("webcam", WEBCAM),
        ("C270", WEBCAM),
        ("4 mic array", ARRAY),
        ("ReSpeaker", SHORT),  # its whole name goes before a part of another's
        ("2886:0018", ARRAY),
        ("046D:0825", WEBCAM),
    ],
)
def test_a_microphone_is_chosen_by_name_part_of_it_or_usb_id(wanted: str, chosen: InputDevice) -> None:
    assert choose(DEVICES, wanted) is chosen


@pytest.mark.parametrize("wanted", ["1", "3", "4"])
def test_a_number_is_no_index(wanted: str) -> None:
    try:
        assert wanted in choose(DEVICES, wanted).name
    except DeviceError as error:
        assert "several" in str(error) or "no microphone is called" in str(error)


def test_a_part_that_fits_several_names_them() -> None:
    with pytest.raises(
        DeviceError, match=r"'usb audio' fits several microphones: 'C270 HD .*', 'ReSpeaker 4 .*'; give"
    ):
        choose(DEVICES, "usb audio")


@given(st.lists(st.sampled_from(("mic", "webcam", "pulse"))))
def test_two_of_the_same_name_are_told_apart_by_a_number(names: list[str]) -> None:
    found = list(disambiguate(names))
    assert len(set(found)) == len(found)
    assert [name.partition(" #")[0] for name in found] == names
    devices = [InputDevice(index, name, "ALSA", 1, 48_000) for index, name in enumerate(found)]
    assert all(choose(devices, device.name) is device is match_device(devices, device) for device in devices)


def test_two_of_the_same_kind_are_not_told_apart_by_their_usb_id() -> None:
    twin = WEBCAM._replace(name="C270 HD WEBCAM: USB Audio (hw:3,0)")
    with pytest.raises(DeviceError, match="fits several"):
        choose((WEBCAM, twin), "046d:0825")


def test_a_name_that_none_has_says_what_there_is() -> None:
    with pytest.raises(DeviceError, match=r"no microphone is called 'HDMI'; found: 'C270 .*', 'ReSpeaker', 'pulse'"):
        choose(DEVICES, "HDMI")


def test_without_a_name_it_is_the_default_else_the_first() -> None:
    assert choose((WEBCAM, ARRAY, PULSE._replace(is_default=True)), None).name == "pulse"
    assert choose(DEVICES, None) is WEBCAM


def test_a_machine_without_a_microphone_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"was found; plug one in .`flexiast listen --input FILE` hears a file."):
        choose((), None)


# ----- found again


def test_it_is_found_again_under_the_same_name() -> None:
    assert match_device([device._replace(number=9) for device in DEVICES], ARRAY) == ARRAY._replace(number=9)


def test_a_usb_microphone_is_found_again_as_another_card() -> None:
    moved = WEBCAM._replace(name="C270 HD WEBCAM: USB Audio (hw:3,0)")
    assert match_device((ARRAY, PULSE, moved), WEBCAM) is moved


def test_of_two_of_the_same_kind_the_name_tells() -> None:
    twin = WEBCAM._replace(name="C270 HD WEBCAM: USB Audio (hw:3,0)")
    assert match_device((twin, WEBCAM), WEBCAM) is WEBCAM


@pytest.mark.parametrize(
    "other",
    [
        WEBCAM._replace(usb_id="0d8c:0014"),  # another device took its card's number, and calls itself the same
        WEBCAM._replace(host_api="OSS"),
        PULSE._replace(name="pulse2"),
    ],
)
def test_another_microphone_is_not_taken_for_it(other: InputDevice) -> None:
    assert match_device([other], WEBCAM) is None
    assert match_device([other], PULSE) is None


# ----- what Linux tells


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """Two cards as sysfs shows them: card 1 on USB, card 0 on the board."""
    usb = tmp_path / "devices" / "usb1" / "1-2"
    for card in (usb / "1-2:1.0", tmp_path / "devices" / "platform"):
        card.mkdir(parents=True)
    (usb / "idVendor").write_text("0d8c\n")
    (usb / "idProduct").write_text("0014\n")
    for number, device in ((0, tmp_path / "devices" / "platform"), (1, usb / "1-2:1.0")):
        folder = tmp_path / "class" / "sound" / f"card{number}"
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(device)
    return tmp_path


def test_the_usb_id_is_that_of_the_card_in_the_name(linux: Path) -> None:
    names = ["USB PnP Sound Device: Audio (hw:1,0)", "bcm2835: - (hw:0,0)", "gone: - (hw:7,0)", "pulse"]
    assert [usb_id(name, linux) for name in names] == ["0d8c:0014", None, None, None]


@pytest.fixture
def proc(tmp_path: Path) -> Callable[[str], Path]:
    def make(status: str) -> Path:
        folder = tmp_path / "asound" / "card1" / "pcm0c" / "sub0"
        folder.mkdir(parents=True)
        (folder / "status").write_text(status)
        return tmp_path / "asound"

    return make


def test_a_microphone_that_another_program_holds_is_told(tmp_path: Path, proc: Callable[[str], Path]) -> None:
    held = proc("state: RUNNING\nowner_pid   : 1234\ntrigger_time: 1.5\n")
    assert missing_device_hint(tmp_path / "snd", held) == "; card1 is in use by process 1234"


def test_nothing_is_told_of_a_microphone_that_is_free(tmp_path: Path, proc: Callable[[str], Path]) -> None:
    assert missing_device_hint(tmp_path / "snd", proc("closed\n")) == ""


def test_a_microphone_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pcmC1D0c").touch(mode=0)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read everything
    assert "add it to the group audio" in missing_device_hint(tmp_path, tmp_path)


def test_a_machine_without_portaudio_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sounddevice does where the library is missing: the import itself fails."""
    (tmp_path / "sounddevice.py").write_text('raise OSError("PortAudio library not found")')
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"PortAudio library not found: .*apt install libportaudio2"):
        input_devices()


# ----- flexiast devices


@pytest.fixture
def devices(virtual_microphone: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `flexiast devices` with two microphones, or none: exit code, stdout, stderr."""
    for name, channels in (("usbmic", 1), ("stereo", 2)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((100, channels)), 44_100, subtype="PCM_16")

    def run(*options: str, plugged: bool = True) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "flexiast_cli.main", "devices", *options]
        if not plugged:
            unplug = 'for name in usbmic stereo; do echo unplug > "$VMIC_DIR/$name.ctl"; done; exec "$@"'
            command = ["sh", "-c", unplug, "sh", *command]
        running = virtual_microphone(command, **{name: tmp_path / f"{name}.wav" for name in ("usbmic", "stereo")})
        printed = running.process.stdout.read()
        return running.process.wait(), printed, running.errors.read_text()

    return run


def test_devices_are_listed_and_the_one_that_would_be_heard_is_marked(devices: Any) -> None:
    code, printed, _ = devices()
    rows = [line.split() for line in printed.splitlines()]
    assert code == 0
    assert ["usbmic", "ALSA", "1", "44100", "Hz"] in rows
    assert [row for row in rows if row[0] == "*"] == [["*", "default", "ALSA", "128", "44100", "Hz"]]


def test_devices_are_listed_for_scripts(devices: Any) -> None:
    code, printed, _ = devices("--json", "--device", "STER")
    found = json.loads(printed)["devices"]
    assert code == 0
    assert [(one["name"], one["channels"], one["chosen"]) for one in found][:2] == [
        ("usbmic", 1, False),
        ("stereo", 2, True),
    ]
    assert {"host_api": "ALSA", "rate_hz": 44_100, "usb_id": None}.items() <= found[1].items()


@pytest.mark.parametrize(("wanted", "said"), [("nope", "found: 'usbmic', 'stereo'"), ("e", "fits several microphones")])
def test_a_device_that_is_not_there_or_not_clear_ends_with_4(devices: Any, wanted: str, said: str) -> None:
    code, printed, errors = devices("--device", wanted)
    assert (code, printed) == (4, "")
    assert said in errors


def test_a_machine_without_microphones_is_told_what_to_do(devices: Any) -> None:
    code, printed, errors = devices("--json", plugged=False)
    assert code == 0
    assert json.loads(printed)["devices"] == []
    assert "no microphone was found; plug one in" in errors
