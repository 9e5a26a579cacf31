"""Checks microphones, in a process of its own: a device may hang PortAudio, and then the process is killed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from flexiast_runtime.checks.result import CheckResult, State

PATIENCE_S = 15.0
"""Timeout of opening all devices; starting the process alone takes 2 s on a Raspberry Pi."""
QUIET_DBFS = -60.0
CLIPPED_SHARE = 0.001

LOUDER = "unmute it and raise its level: alsamixer, F4"
QUIETER = "lower its level: alsamixer, F4"
ONE_CHANNEL = "check its cable and input: a balanced microphone needs a mono input; --channel selects one channel"
LESS_LOAD = "check what else is running; a USB hub may be too slow"
HUNG = "unplug it and plug it in again; a newer PortAudio (after June 2025) notices a device that is gone"


def run_probe(*question: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Run the probe; the answer has ``error`` if there is none in time."""
    command = [sys.executable, "-m", "flexiast_runtime.checks.probe", *question]
    try:
        result = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # after losing a device PortAudio writes 20 000 lines a second
            timeout=patience_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no response within {patience_s:.0f} s", "remedy": HUNG}
    try:
        answer: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        return {"error": f"the process that queries PortAudio exited with {result.returncode}", "remedy": HUNG}
    return answer


def check_devices(answer: dict[str, Any]) -> Iterator[CheckResult]:
    """PortAudio's version and its microphones, from the probe's answer to ``devices``."""
    if "error" in answer:
        yield CheckResult("PortAudio", "failure", answer["error"], answer.get("remedy", ""))
        return
    yield CheckResult("PortAudio", "ok", answer["portaudio"])
    for device in answer["devices"]:
        rates = ", ".join(f"{rate_hz:,}" for rate_hz in device["rates_hz"]) or "none of the usual rates"
        text = f"{device['name']}: {device['channels']} channel{'s' * (device['channels'] > 1)} at {rates} Hz"
        if device["rates_hz"]:
            yield CheckResult("microphone", "ok", text)
        else:
            yield CheckResult("microphone", "warning", text, "another program may be using it: fuser -v /dev/snd/*")
    if not answer["devices"]:
        yield CheckResult("microphone", "warning", "PortAudio finds none", "plug one in; --input reads files and pipes")


def judge_recording(answer: dict[str, Any]) -> CheckResult:
    """Judge a test recording, from the probe's answer to ``record``, by its worst fault."""
    if "error" in answer:
        return CheckResult("recording", "failure", answer["error"], answer.get("remedy", ""))
    summary = (
        f"{answer['name']}: {answer['seconds']:.1f} s at {answer['rate_hz']:,} Hz, "
        f"level {format_dbfs(answer['rms'])}, peak {format_dbfs(answer['peak'])}"
    )
    channels = answer.get("channel_fault") or ""
    faults: list[tuple[bool, State, str, str]] = [
        (not answer["seconds"], "failure", "it opens but delivers no sound", HUNG),
        (not answer["peak"], "warning", "digital silence", LOUDER),
        (answer["lost_s"] > 0, "warning", f"{answer['lost_s']:.2f} s of sound was lost", LESS_LOAD),
        (answer["clipped"] > CLIPPED_SHARE, "warning", f"{answer['clipped']:.1%} of the samples are clipped", QUIETER),
        (answer["peak"] < 10 ** (QUIET_DBFS / 20), "warning", "almost silent", LOUDER),
        (bool(channels), "warning", channels, ONE_CHANNEL),
    ]
    for present, state, what, remedy in faults:
        if present:
            return CheckResult("recording", state, f"{summary}; {what}", remedy)
    return CheckResult("recording", "ok", summary)


def format_dbfs(amplitude: float) -> str:
    """An amplitude in decibels relative to full scale."""
    return f"{20 * math.log10(amplitude):.0f} dBFS" if amplitude > 0 else "-∞ dBFS"
