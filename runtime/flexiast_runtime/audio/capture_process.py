"""One PortAudio stream in a process of its own, which `device_stream` starts, reads and kills.

PortAudio before mid-2025 spins for ever when a microphone is unplugged, and hangs a process that closes the stream or
exits; its list of devices is also as old as its process. Its audio goes into memory shared with the parent: a ring of
blocks, float32 [slots, block_frames, channels], behind a header of int64:

    written, wake_at             blocks written so far; the parent wants to be woken once there are so many
    [slots] arrived, in ns       by CLOCK_BOOTTIME where there is one, which counts suspend
    [slots] overflows            that the device had reported by then

On stdout, one line for each message, and an empty one to wake the parent:

    {"rate_hz": 48000, "channels": 2, "block_frames": 4800}    the stream runs and the memory has its size
    {"error": "another program is using it"}                   and nothing more

It ends when its stdin does, so with its parent, however that ends. It imports little: a small board has started it
before the parent has loaded its engines.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from flexiast.errors import DeviceError
from flexiast_runtime.audio.devices import (
    NOT_THERE_YET,
    InputDevice,
    choose,
    import_portaudio,
    input_devices,
    match_device,
    missing_device_hint,
)

LATENCY_BLOCKS = 3
"""Requested latency, in blocks. With the one that is being filled they are the four periods of PortAudio's buffer: with
another number its period would be another than the block, which would wait for the end of a period."""
RING_S, IN_THE_MAKING = 4.0, 2
"""Seconds of the ring in which the parent may be busy, and blocks that may be in the making"""
WRITTEN, WAKE_AT, ARRIVED = 0, 1, 8
"""Places in the header; the first ones are alone in their cache line"""
NEVER = 2**62
FIRST_CHANNELS = 2
"""Opened unless a further one is chosen, or each: a stereo pair is mixed, the others of an array are raw capsules.
Never one of several: ALSA's plug and PulseAudio would mix them all into it, whichever is chosen."""
DEVICE_UNAVAILABLE, BAD_IO_DEVICE_COMBINATION = -9985, -9993
"""PortAudio's error codes; on ALSA the second is what opening a device that is gone gives."""
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""That of `timeline.uptime_s`"""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which then ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe = os.dup(1)
    os.dup2(2, 1)  # sound libraries print
    wanted = json.loads(sys.argv[1])
    try:
        _capture(InputDevice(*wanted["device"]), wanted["channel"], wanted["block_s"], wanted["memory"], pipe)
        reason = "its driver ended the stream"
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        reason = _reason(error)
    os.set_blocking(pipe, True)
    _send(pipe, {"error": reason})
    os._exit(1)  # PortAudio's own exit handler can hang


def count_slots(block_s: float) -> int:
    """Blocks that the ring holds."""
    return math.ceil(RING_S / block_s) + IN_THE_MAKING


def count_header_bytes(slots: int) -> int:
    return 8 * (ARRIVED + 2 * slots)


def _capture(known: InputDevice, channel: int | None, block_s: float, memory_fd: int, pipe: int) -> None:
    """Capture until the driver ends the stream; it calls once a block."""
    there = input_devices()
    device = choose(there, known.name) if known.number == NOT_THERE_YET else match_device(there, known)
    if device is None:
        raise DeviceError("it is not there" + missing_device_hint())
    if channel is not None and channel > device.channels:
        raise DeviceError(f"channel {channel} was wanted of {device.channels}")
    channels = min(device.channels, max(FIRST_CHANNELS, channel or 0))
    frames = round(block_s * device.rate_hz)
    block_bytes = 4 * channels * frames
    slots = count_slots(block_s)
    header_bytes, overflows_at = count_header_bytes(slots), ARRIVED + slots
    os.ftruncate(memory_fd, header_bytes + slots * block_bytes)
    memory = mmap.mmap(memory_fd, 0)
    header = memoryview(memory)[:header_bytes].cast("q")
    blocks = overflows = 0
    ended = threading.Event()

    def copy(samples: Any, frames: int, timing: Any, status: Any) -> None:
        nonlocal blocks, overflows
        slot = blocks % slots
        start = header_bytes + slot * block_bytes
        memory[start : start + block_bytes] = samples
        blocks += 1
        overflows += status.input_overflow
        header[ARRIVED + slot], header[overflows_at + slot] = time.clock_gettime_ns(CLOCK), overflows
        header[WRITTEN] = blocks
        if blocks >= header[WAKE_AT]:
            header[WAKE_AT] = NEVER
            _write(pipe, b"\n")

    portaudio = import_portaudio()
    stream = portaudio.RawInputStream(
        samplerate=device.rate_hz,
        blocksize=frames,
        device=device.number,
        channels=channels,
        dtype="float32",
        latency=LATENCY_BLOCKS * block_s,
        callback=copy,
        finished_callback=ended.set,
    )
    _send(pipe, {"rate_hz": device.rate_hz, "channels": channels, "block_frames": frames})
    os.set_blocking(pipe, False)
    stream.start()
    ended.wait()


def _send(pipe: int, document: object) -> None:
    _write(pipe, json.dumps(document).encode() + b"\n")


def _write(pipe: int, content: bytes) -> None:
    with suppress(BlockingIOError):  # the parent is suspended, and has enough to wake it
        os.write(pipe, content)


def _reason(error: Exception) -> str:
    code = error.args[1] if len(error.args) > 1 else None
    if code == DEVICE_UNAVAILABLE:
        return "another program is using it" + missing_device_hint()
    if code == BAD_IO_DEVICE_COMBINATION:
        return "it is gone, or may not be used" + missing_device_hint()
    return str(error)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


if __name__ == "__main__":
    main()
