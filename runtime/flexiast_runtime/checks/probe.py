"""A program that queries PortAudio and prints a JSON object: ``probe devices`` or ``probe record SECONDS [NAME]``.

Its caller can kill it after a timeout. It ends with ``os._exit``, since PortAudio may hang at exit too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

from flexiast.errors import DeviceError
from flexiast_runtime.audio.devices import import_portaudio
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.mixing import measure_powers
from flexiast_runtime.audio.source import read_blocks

RATES_HZ = (16_000, 22_050, 32_000, 44_100, 48_000, 96_000)
GRACE_S = 3.0
"""Time for a device to start to deliver"""
FULL_SCALE = 0.999


def list_devices() -> dict[str, Any]:
    """PortAudio's version, and each input device with the rates that it supports."""
    portaudio = import_portaudio()
    found = [
        {"name": info["name"], "channels": info["max_input_channels"], "rates_hz": _rates(portaudio, index)}
        for index, info in enumerate(portaudio.query_devices())
        if info["max_input_channels"]
    ]
    return {"portaudio": portaudio.get_portaudio_version()[1], "devices": found}


def _rates(portaudio: Any, index: int) -> list[int]:
    accepted = []
    for rate_hz in RATES_HZ:
        try:
            portaudio.check_input_settings(device=index, channels=1, samplerate=rate_hz)
        except portaudio.PortAudioError:
            continue
        accepted.append(rate_hz)
    return accepted


def record_sample(seconds: float, name: str | None = None) -> dict[str, Any]:
    """Record, and measure level (mixed to mono as while listening), clipping, losses and channel faults.

    The recording is shorter than requested if the device delivers too little.
    """
    microphone = Microphone(name)
    started_s, frames, blocks, lost = time.monotonic(), 0, [], 0
    for block in read_blocks(microphone):
        frames, lost = frames + len(block.samples), lost + block.lost
        blocks.append(block.samples)
        if frames >= seconds * microphone.rate_hz or time.monotonic() - started_s > seconds + GRACE_S:
            break
    samples = np.concatenate([part for part in blocks if len(part)] or [np.zeros((1, 1), np.float32)])
    powers = measure_powers(samples)
    fault = powers.fault(powers.loudest)
    mono = samples.mean(axis=1) if fault is None else samples[:, powers.loudest]
    return {
        "name": microphone.name,
        "rate_hz": microphone.rate_hz,
        "seconds": frames / microphone.rate_hz,
        "rms": float(np.sqrt(np.mean(mono.astype(np.float64) ** 2))),
        "peak": float(np.abs(samples).max()),
        "clipped": float(np.mean(np.abs(samples) >= FULL_SCALE)),
        "channel_fault": fault,
        "lost_s": lost / microphone.rate_hz,
    }


def main(question: str, *details: str) -> dict[str, Any]:
    """Answer a question; an error is an answer too."""
    try:
        return list_devices() if question == "devices" else record_sample(float(details[0]), *details[1:])
    except DeviceError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])), flush=True)
    os._exit(0)
