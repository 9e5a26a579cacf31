"""Lists the microphones of this machine and chooses one by what survives a reconnect: its name or USB id."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from flexiast.errors import DeviceError

NOT_THERE_YET = -1
"""Number of a requested microphone that no list holds yet"""
ALSA_CARD = re.compile(r"\(hw:(\d+),\d+\)")
"""The card number in PortAudio's name of an ALSA device"""


class InputDevice(NamedTuple):
    """One microphone, as PortAudio lists it, or a requested one that is not connected yet."""

    number: int
    """In the list it comes from; another list may count otherwise; NOT_THERE_YET"""
    name: str
    """Of several that are called the same, from the second on, with a number: ``USB Mic #2``"""
    host_api: str
    """ALSA, Core Audio …"""
    channels: int
    rate_hz: int
    """Its own default"""
    usb_id: str | None = None
    """``vendor:product``, where Linux reports it"""
    is_default: bool = False


def input_devices() -> tuple[InputDevice, ...]:
    """Input devices of PortAudio. It scans once per process, so only a new process sees changes."""
    portaudio = import_portaudio()
    default = portaudio.default.device[0]
    host_apis = portaudio.query_hostapis()
    microphones = [
        (index, found) for index, found in enumerate(portaudio.query_devices()) if found["max_input_channels"]
    ]
    names = disambiguate(found["name"] for _, found in microphones)
    return tuple(
        InputDevice(
            index,
            name,
            host_apis[found["hostapi"]]["name"],
            found["max_input_channels"],
            round(found["default_samplerate"]),
            usb_id(found["name"]),
            index == default,
        )
        for (index, found), name in zip(microphones, names, strict=True)
    )


def disambiguate(names: Iterable[str]) -> Iterator[str]:
    """Each name; from the second of the same on with a number, in the order of the list."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def choose(devices: Sequence[InputDevice], wanted: str | None) -> InputDevice:
    """By its name, else a part of its name, else its USB id; the default, else the first, where nothing is wanted.

    Raises DeviceError where none or several match; the message lists the microphones.
    """
    if wanted is None:
        if not devices:
            raise DeviceError(no_microphone_hint())
        return next((device for device in devices if device.is_default), devices[0])
    fitting = _match_devices(devices, wanted)
    if not fitting:
        raise DeviceError(
            f"no microphone is called {wanted!r}; found: {_names(devices) or 'none'}{missing_device_hint()}"
        )
    if len(fitting) > 1:
        raise DeviceError(f"{wanted!r} fits several microphones: {_names(fitting)}; give more of the name")
    return fitting[0]


def is_absent(devices: Sequence[InputDevice], wanted: str | None) -> bool:
    """Whether there is no such microphone now; one may come. Several that fit are there."""
    return not devices if wanted is None else not _match_devices(devices, wanted)


def _match_devices(devices: Sequence[InputDevice], wanted: str) -> list[InputDevice]:
    part = wanted.casefold()
    return (
        [device for device in devices if device.name == wanted]
        or [device for device in devices if part in device.name.casefold()]
        or [device for device in devices if device.usb_id == part]
    )


def no_microphone_hint() -> str:
    """What to do on a machine without a microphone."""
    return f"no microphone was found; plug one in (`flexiast listen --input FILE` hears a file){missing_device_hint()}"


def match_device(devices: Iterable[InputDevice], known: InputDevice) -> InputDevice | None:
    """The same microphone in a newer list: by name and host API, else by its USB id.

    A card that is plugged in again may have another number, and ALSA's names hold it.
    """
    akin = [device for device in devices if (device.host_api, device.usb_id) == (known.host_api, known.usb_id)]
    namesakes = [device for device in akin if device.name == known.name]
    return next(iter(namesakes or (akin if known.usb_id else [])), None)


def usb_id(name: str, sys: Path = Path("/sys")) -> str | None:
    """``vendor:product`` of the USB device behind an ALSA card; None for any other."""
    card = ALSA_CARD.search(name)
    if card is None:
        return None
    usb_device = (sys / "class" / "sound" / f"card{card[1]}" / "device").resolve().parent
    try:
        return ":".join((usb_device / part).read_text().strip() for part in ("idVendor", "idProduct"))
    except OSError:  # on another bus
        return None


def missing_device_hint(dev: Path = Path("/dev/snd"), proc: Path = Path("/proc/asound")) -> str:
    """Why PortAudio does not list a microphone that Linux has: it may not be read, or is in use. Else nothing."""
    nodes = sorted(dev.glob("pcmC*D*c"))
    if any(not os.access(node, os.R_OK) for node in nodes):
        return f"; {dev} may not be read by this user: add it to the group audio and log in again"
    held = (f"; {status.parts[-4]} is in use by process {owner}" for status, owner in _owners(proc))
    return next(held, "")


def _owners(proc: Path) -> Iterator[tuple[Path, str]]:
    """Capture streams that are open, and the process that holds each."""
    for status in sorted(proc.glob("card*/pcm*c/sub*/status")):
        with suppress(OSError):  # unplugged just now
            if owner := re.search(r"owner_pid\s*:\s*(\d+)", status.read_text()):
                yield status, owner[1]


def import_portaudio() -> ModuleType:
    """The module sounddevice, which loads PortAudio; raises DeviceError where that is missing."""
    try:
        import sounddevice
    except OSError as error:  # the wheel for Linux does not bring the library
        raise DeviceError(
            f"{error}: install it with your system's packages (Debian, Ubuntu, JetPack: apt install libportaudio2)"
        ) from error
    module: ModuleType = sounddevice
    return module


def _names(devices: Sequence[InputDevice]) -> str:
    return ", ".join(repr(device.name) for device in devices)
