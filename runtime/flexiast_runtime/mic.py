"""The microphone, through PortAudio: a callback that copies and counts, nothing else."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from flexiast.errors import DeviceError, DeviceLostError
from flexiast_runtime.source import Block

BLOCK_S = 0.032
"""Callback interval: long enough for Python, short against a step."""
LATENCY_S = 0.1
"""Asked of PortAudio: its own `high` is 32 ms on ALSA and lost audio in one run of twenty on a busy machine."""
SILENT_S = 2.0
"""Without a block for so long, the device is taken for lost."""


class Microphone:
    """An input device by name, or part of a name; its own default rate, its first two channels at most."""

    def __init__(self, device: str | None = None) -> None:
        self._portaudio = _import_portaudio()
        self._index, info = self._find(device)
        self.name: str = info["name"]
        self.rate_hz = int(info["default_samplerate"])
        self._channels = min(2, int(info["max_input_channels"]))

    def blocks(self) -> Iterator[Block]:
        """Blocks until the iterator is closed; raises DeviceError, or DeviceLostError when it falls silent."""
        delivered: queue.SimpleQueue[Block] = queue.SimpleQueue()

        def copy(samples: Any, frames: int, timing: Any, status: Any) -> None:
            # PortAudio says that frames were lost, not how many: one block marks the discontinuity.
            delivered.put(Block(samples.copy(), lost=frames if status.input_overflow else 0))

        stream = self._open(copy)
        while True:
            try:
                block = delivered.get(timeout=SILENT_S)
            except queue.Empty:  # left open: of an unplugged device, PortAudio before mid-2025 hangs in close()
                raise DeviceLostError(
                    f"{self.name} has delivered nothing for {SILENT_S:g} s; "
                    "check that it is plugged in, then start again"
                ) from None
            try:
                yield block
            except GeneratorExit:
                stream.close()
                raise

    def _open(self, callback: Any) -> Any:
        try:
            stream = self._portaudio.InputStream(
                samplerate=self.rate_hz,
                blocksize=round(BLOCK_S * self.rate_hz),
                device=self._index,
                channels=self._channels,
                dtype=np.float32,
                latency=LATENCY_S,
                callback=callback,
            )
            stream.start()
        except self._portaudio.PortAudioError as error:
            raise DeviceError(f"{self.name} cannot be opened: {error}; another program may be using it") from error
        return stream

    def _find(self, device: str | None) -> tuple[int, dict[str, Any]]:
        """The device whose name equals, else contains, what was asked for."""
        devices = [
            (index, info) for index, info in enumerate(self._portaudio.query_devices()) if info["max_input_channels"]
        ]
        names = ", ".join(repr(info["name"]) for _, info in devices) or "none"
        if device is None:
            default = self._portaudio.default.device[0]
            chosen = [item for item in devices if item[0] == default] or devices[:1]
            if not chosen:
                raise DeviceError("no microphone was found; plug one in, or give a file with --input FILE")
            return chosen[0]
        exact = [item for item in devices if item[1]["name"] == device]
        matching = exact or [item for item in devices if device.lower() in item[1]["name"].lower()]
        if not matching:
            raise DeviceError(f"no microphone is called {device!r}; found: {names}")
        if len(matching) > 1:
            raise DeviceError(
                f"{device!r} fits several microphones: "
                f"{', '.join(repr(info['name']) for _, info in matching)}; give more of the name"
            )
        return matching[0]


def _import_portaudio() -> ModuleType:
    try:
        import sounddevice
    except OSError as error:  # the wheel for Linux does not bring the library
        raise DeviceError(
            f"{error}: install it with your system's packages (Debian, Ubuntu, JetPack: apt install libportaudio2)"
        ) from error
    module: ModuleType = sounddevice
    return module
