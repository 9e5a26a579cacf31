"""The parent's side of `capture_process`: starts it, reads its blocks from shared memory, kills it."""

from __future__ import annotations

import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from soxr import ResampleStream
from typing_extensions import Self

from flexiast_runtime.audio import capture_process
from flexiast_runtime.audio.capture_process import HEADER_BYTES, SLOTS
from flexiast_runtime.audio.devices import InputDevice

Float = NDArray[np.float32]

SILENT_S = 0.5
"""Seconds without a block after which the device counts as lost; blocks come every few milliseconds."""
OPENING_S = 10.0
"""Longest time from the start of a capture process to its first block: a Raspberry Pi loads Python from a slow card."""
WAKE_S = 0.1
"""Seconds between two chances for the reader to stop while nothing arrives"""
KILLED_S = 1.0
"""Seconds to wait for a killed process. Inside a broken driver it may end much later."""


class StreamEndedError(Exception):
    """A capture process cannot deliver audio; the message gives the reason."""


class Delivery(NamedTuple):
    """Audio that arrived since the last delivery."""

    samples: Float
    """[frames, channels], at the rate of the requested device"""
    missed: int
    """Frames before them that were overwritten before they were read"""
    overflowed: bool
    """The device reports lost frames"""


class DeviceStream:
    """A stream of one device, at the rate given even if the device has changed; leaving the context kills it."""

    def __init__(self, device: InputDevice, channels: range | None) -> None:
        """``channels`` count from 1; the first two at most for None."""
        self._memory_fd = _create_shared_memory()
        last = None if channels is None else channels[-1]
        self._process = _start({"device": device, "channel": last, "memory": self._memory_fd}, self._memory_fd)
        self._pipe = self._process.stdout.fileno()  # type: ignore[union-attr]
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._device, self._channels = device, channels
        self._unread = b""
        self._taken = self._overflows = 0
        self._resample: Callable[[Float], Float] = _identity

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)
        for end in (self._process.stdin, self._process.stdout):
            end.close()  # type: ignore[union-attr]
        os.close(self._memory_fd)

    def deliveries(self) -> Iterator[Delivery | None]:
        """What comes, as it comes, and None every WAKE_S while nothing does. Raises StreamEndedError."""
        deadline_s = time.monotonic() + OPENING_S
        while True:
            delivery = self._take() if self._poll.poll(1000 * WAKE_S) else None
            # Checked after the wait: a reader that was suspended finds the blocks of the meantime.
            if delivery is None and time.monotonic() > deadline_s:
                raise StreamEndedError("it delivers nothing")
            yield delivery
            if delivery is not None:
                deadline_s = time.monotonic() + SILENT_S

    def _take(self) -> Delivery | None:
        content = os.read(self._pipe, 65_536)
        if not content:
            raise StreamEndedError("its capture process ended without a word")
        *lines, self._unread = (self._unread + content).split(b"\n")
        counts = None
        for message in map(json.loads, lines):
            if isinstance(message, list):
                counts = message
            elif "error" in message:
                raise StreamEndedError(message["error"])
            else:
                self._attach(**message)
        return self._copy(*counts) if counts else None

    def _attach(self, rate_hz: int, channels: int, block_frames: int) -> None:
        memory = mmap.mmap(self._memory_fd, 0)
        self._written = np.frombuffer(memory, np.int64, 1)
        audio = np.frombuffer(memory, np.float32, offset=HEADER_BYTES).reshape(SLOTS, block_frames, channels)
        self._audio = audio if self._channels is None else audio[:, :, self._channels[0] - 1 : self._channels[-1]]
        self._ratio = self._device.rate_hz / rate_hz
        if self._ratio != 1:
            self._resample = ResampleStream(
                rate_hz, self._device.rate_hz, self._audio.shape[2], dtype="float32"
            ).resample_chunk

    def _copy(self, blocks: int, overflows: int) -> Delivery:
        """Blocks not yet taken; those that may have been overwritten while they were copied are missed."""
        first = max(self._taken, blocks - SLOTS)
        copied = self._audio[np.arange(first, blocks) % SLOTS]
        # Two more than were counted: the one that is being written, and one whose count is not seen here yet.
        oldest = min(max(first, int(self._written[0]) + 2 - SLOTS), blocks)
        _, frames, channels = copied.shape
        samples = self._resample(copied[oldest - first :].reshape(-1, channels))
        missed = round((oldest - self._taken) * frames * self._ratio)
        overflowed = overflows > self._overflows
        self._taken, self._overflows = blocks, overflows
        return Delivery(samples, missed, overflowed)


def _start(wanted: dict[str, Any], memory_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-m", capture_process.__name__, json.dumps(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # an unplugged device makes PortAudio write 20,000 lines a second
        pass_fds=(memory_fd,),
        start_new_session=True,  # a terminal's Ctrl-Z must not stop it, or the device overflows
        cwd="/",  # `-m` searches the working directory first, before the parent's own path
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )


def _identity(samples: Float) -> Float:
    return samples


def _create_shared_memory() -> int:
    """A file without a name: it is gone with the last process that has it open, however that ends."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("flexiast-capture")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
