"""What `listen` hears: each microphone once, by whatever names it is asked for."""

from __future__ import annotations

import pytest

from flexiast.errors import UsageError
from flexiast_cli.stations import microphones
from flexiast_runtime import devices, mic
from flexiast_runtime.devices import InputDevice

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


def test_different_ones_are_heard_together() -> None:
    assert [source.name for source in microphones(("usb", "stereo"), None, "retry", None)] == ["USB Mic", "stereo"]
