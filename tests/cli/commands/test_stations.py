"""What `listen` hears: each microphone once, by whatever names it is asked for."""

from __future__ import annotations

from typing import Literal

import pytest

from flexiast.errors import DeviceError, UsageError
from flexiast_cli.commands.listen.stations import microphones
from flexiast_runtime.audio import devices
from flexiast_runtime.audio import microphone as mic
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.devices import InputDevice

WINDOWS = WindowTiming(16_000, 1.0, 0.25)
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
        microphones(names, None, "retry", WINDOWS, None)


def test_of_several_one_that_is_not_there_is_looked_for() -> None:
    found = microphones(("usb", "garden"), None, "retry", WINDOWS, None)
    assert [one.source.name for one in found] == ["USB Mic", "garden"]


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
        microphones(names, None, on_loss, WINDOWS, None)


def test_different_ones_are_heard_together() -> None:
    found = microphones(("usb", "stereo"), None, "retry", WINDOWS, None)
    assert [(one.source.name, one.channel) for one in found] == [("USB Mic", None), ("stereo", None)]


def test_each_channel_is_a_source_of_its_own() -> None:
    """A microphone of one channel keeps its name; one that may come is taken for a stereo recorder."""
    found = microphones(("usb", "stereo", "garden"), "each", "retry", WINDOWS, None)
    assert [(one.source.name, one.channel) for one in found] == [
        ("USB Mic", 1),
        ("stereo channel 1", 1),
        ("stereo channel 2", 2),
        ("garden channel 1", 1),
        ("garden channel 2", 2),
    ]


@pytest.mark.parametrize(("channels", "sources"), [(4, 4), (31, 31), (32, 2), (128, 2)])
def test_channels_that_a_sound_server_only_claims_are_no_sources(
    channels: int, sources: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mic, "input_devices", lambda: (InputDevice(0, "pulse", "ALSA", channels, 44_100),))
    assert len(microphones((None,), "each", "retry", WINDOWS, None)) == sources
