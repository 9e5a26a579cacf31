"""What `listen` hears: each microphone once, by whatever names it is asked for."""

from __future__ import annotations

from typing import Literal

import pytest

from flexiast.errors import DeviceError, UsageError
from flexiast_cli.commands.listen.stations import microphones
from flexiast_runtime.audio import devices
from flexiast_runtime.audio import microphone as mic
from flexiast_runtime.audio.devices import InputDevice

FOUND = (
    InputDevice(0, "USB Mic", "ALSA", 1, 48_000, "1234:abcd", is_default=True),
    InputDevice(1, "stereo", "ALSA", 2, 44_100),
)


@pytest.fixture(autouse=True)
def two_microphones(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (devices, mic):
        monkeypatch.setattr(module, "input_devices", lambda: FOUND)


@pytest.mark.parametrize("names", [("USB Mic", "usb"), ("usb", "1234:abcd"), ("stereo", "usb", "STEREO")])
def test_one_microphone_under_two_names_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="are the same microphone"):
        microphones(names, None, "retry", None)


def test_of_several_one_that_is_not_there_is_looked_for() -> None:
    found = microphones(("usb", "garden"), None, "retry", None)
    assert [source.name for source in found] == ["USB Mic", "garden"]


@pytest.mark.parametrize(
    ("names", "on_loss", "said"),
    [
        (("garden",), "retry", "no microphone is called 'garden'"),
        (("garden", "yard"), "retry", "no microphone is called 'garden'"),
        (("usb", "garden"), "exit", "no microphone is called 'garden'"),
        (("usb", "s"), "retry", "fits several"),
    ],
)
def test_where_none_is_there_or_a_loss_ends_it_all_it_is_said_at_once(
    names: tuple[str, ...], on_loss: Literal["retry", "exit"], said: str
) -> None:
    with pytest.raises(DeviceError, match=said):
        microphones(names, None, on_loss, None)


def test_different_ones_are_heard_together() -> None:
    assert [source.name for source in microphones(("usb", "stereo"), None, "retry", None)] == ["USB Mic", "stereo"]
