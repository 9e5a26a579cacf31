"""The parent's side of `capture_process`: starts it, reads its blocks from shared memory, kills it."""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from soxr import ResampleStream
from typing_extensions import Self

from flexiast_runtime.audio import capture_process
from flexiast_runtime.audio.capture_process import ARRIVED, WAKE_AT, WRITTEN, count_header_bytes, count_slots
from flexiast_runtime.audio.devices import InputDevice
from flexiast_runtime.audio.source import IDLE_S, Wait, measure_held_s
from flexiast_runtime.audio.timeline import uptime_s

Float = NDArray[np.float32]

SILENT_S, OVERDUE_S = 0.5, 0.35
"""Without a block for so long, and so long after one was due, the device counts as lost."""
OPENING_S = 10.0
"""Longest time from the start of a capture process to its first block: a Raspberry Pi loads Python from a slow card."""
LATE_S = 0.05
"""A block may be so late before the reader looks what is wrong."""
SUSPENDED_S = 0.25
"""A reader that is woken so much later than it asked for was suspended, or busy, and so may its device have been."""
PUNCTUAL = 0.01
"""Share of a block that an hour-old rounding may amount to: it asks for no further block."""
KILLED_S = 1.0
"""Seconds to wait for a killed process. Inside a broken driver it may end much later."""


class StreamEndedError(Exception):
    """A capture process cannot deliver audio; the message gives the reason."""


class Delivery(NamedTuple):
    """Blocks that arrived since the last delivery."""

    samples: Float
    """[blocks, frames, channels], at the device's rate of today"""
    arrived_s: tuple[float, ...]
    """When each block was complete, by `uptime_s`"""
    overflowed: tuple[bool, ...]
    """Whether the device reported lost frames before or in each"""
    missed: int
    """Blocks before them that were overwritten before they were read"""


class DeviceStream:
    """A stream of one device; leaving the context kills it."""

    def __init__(self, device: InputDevice, channels: range | None, block_s: float) -> None:
        """``channels`` count from 1; the first two at most for None. ``block_s`` is the length of a block."""
        self._memory_fd = _create_shared_memory()
        last = None if channels is None else channels[-1]
        wanted = {"device": device, "channel": last, "block_s": block_s, "memory": self._memory_fd}
        self._process = _start(wanted, self._memory_fd)
        self._pipe = self._process.stdout.fileno()  # type: ignore[union-attr]
        os.set_blocking(self._pipe, False)
        self._device, self._channels, self._slots = device, channels, count_slots(block_s)
        self._silent_s = max(SILENT_S, block_s + OVERDUE_S)
        self._header: NDArray[np.int64] | None = None  # until the device is open
        self._unread, self._failure = b"", ""
        self._taken = self._overflows = 0
        self._seen_s = uptime_s()  # the last block, or the last time that the reader could not have seen one
        self._wake_by_s = math.inf
        self._resample: Callable[[Float], Float] = _identity
        self.block_frames = 0
        """Of a block, at the rate of the requested device, once it is open"""
        self.held_s = 0.0
        """Most that `resample` holds back, once the device is open"""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)
        for end in (self._process.stdin, self._process.stdout):
            end.close()  # type: ignore[union-attr]
        os.close(self._memory_fd)

    def deliveries(self) -> Iterator[Delivery | Wait]:
        """What has come, at once, or what to wait for. Raises StreamEndedError."""
        while True:
            self._read_messages()
            if (delivery := self._take()) is not None:
                self._seen_s = delivery.arrived_s[-1]
                yield delivery
                continue
            if self._failure:
                raise StreamEndedError(self._failure)
            limit_s = self._silent_s if self._taken else OPENING_S
            if uptime_s() - self._seen_s > limit_s:
                raise StreamEndedError("it delivers nothing")
            yield Wait(self._wake_after(0.0), self._pipe, self._wake_after)
            if (now_s := uptime_s()) > self._wake_by_s + SUSPENDED_S:
                self._seen_s = now_s

    def resample(self, blocks: Float, skipped_s: float = 0.0) -> Float:
        """Blocks [blocks, frames, channels] that follow each other → samples at the rate of the requested device.

        The first ``skipped_s`` seconds are left out.
        """
        skipped = math.floor(skipped_s * blocks.shape[1] / self._block_s)
        return self._resample(blocks.reshape(-1, blocks.shape[2])[skipped:])

    def _wake_after(self, seconds: float) -> float:
        """Have the pipe written to once so much more audio has come; returns for how long to wait for it."""
        now_s, wait_s = uptime_s(), IDLE_S
        if self._header is not None:
            blocks = max(1, math.ceil(seconds / self._block_s - PUNCTUAL))
            self._header[WAKE_AT] = self._taken + blocks
            if self._header[WRITTEN] >= self._header[WAKE_AT]:
                wait_s = 0.0
            elif self._taken:
                wait_s = self._seen_s + max(self._silent_s, blocks * self._block_s + LATE_S) - now_s
        self._wake_by_s = now_s + max(0.0, wait_s)
        return max(0.0, wait_s)

    def _read_messages(self) -> None:
        try:
            content = os.read(self._pipe, 65_536)
        except BlockingIOError:
            return
        *lines, self._unread = (self._unread + content).split(b"\n")
        for message in map(json.loads, filter(None, lines)):
            if "error" in message:
                self._failure = message["error"]
            else:
                self._attach(**message)
        if not content:
            self._failure = self._failure or "its capture process ended without a word"

    def _attach(self, rate_hz: int, channels: int, block_frames: int) -> None:
        memory = mmap.mmap(self._memory_fd, 0)
        header_bytes = count_header_bytes(self._slots)
        self._header = np.frombuffer(memory, np.int64, header_bytes // 8)
        audio = np.frombuffer(memory, np.float32, offset=header_bytes).reshape(self._slots, block_frames, channels)
        self._audio = audio if self._channels is None else audio[:, :, self._channels[0] - 1 : self._channels[-1]]
        self._block_s = block_frames / rate_hz
        self.block_frames = round(block_frames * self._device.rate_hz / rate_hz)
        if self._device.rate_hz != rate_hz:
            self._resample = ResampleStream(
                rate_hz, self._device.rate_hz, self._audio.shape[2], dtype="float32"
            ).resample_chunk
            self.held_s = measure_held_s(rate_hz, self._device.rate_hz)

    def _take(self) -> Delivery | None:
        """Blocks not yet taken; those that may have been overwritten while they were copied are missed."""
        written = 0 if self._header is None else int(self._header[WRITTEN])
        if self._header is None or written == self._taken:
            return None
        first = max(self._taken, written - self._slots)
        header, slots = self._header, [block % self._slots for block in range(first, written)]
        samples = self._audio[slots]
        arrived_s = [int(header[ARRIVED + slot]) / 1e9 for slot in slots]
        overflows = [self._overflows, *(int(header[ARRIVED + self._slots + slot]) for slot in slots)]
        # One more than were counted: the one that is being written.
        oldest = min(max(first, int(header[WRITTEN]) + 1 - self._slots), written)
        if oldest == written:  # the reader was suspended just now
            return self._take()
        new = slice(oldest - first, None)
        overflowed = [after > before for before, after in itertools.pairwise(overflows)]
        missed, self._taken, self._overflows = oldest - self._taken, written, overflows[-1]
        return Delivery(samples[new], tuple(arrived_s[new]), tuple(overflowed[new]), missed)


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
