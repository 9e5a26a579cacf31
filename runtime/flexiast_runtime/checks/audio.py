"""Microphones, asked in a process of its own: a device may hang PortAudio, and what hangs there is killed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from flexiast_runtime.checks.result import CheckResult, State

PATIENCE_S = 15.0
"""What opening devices may take; a Raspberry Pi starts the process in two."""
QUIET_DBFS = -60.0
CLIPPED_SHARE = 0.001

LOUDER = "unmute it and raise its level: alsamixer, F4"
QUIETER = "lower its level: alsamixer, F4"
ONE_CHANNEL = "look at its cable and its input: a balanced microphone belongs on a mono input; --channel chooses one"
LESS_LOAD = "see what else runs; a USB hub may be too slow"
HUNG = "plug it out and in again; a newer PortAudio (after June 2025) notices a device that is gone"


def run_probe(*question: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """The probe's answer; with ``error`` if it has none in time."""
    command = [sys.executable, "-m", "flexiast_runtime.checks.probe", *question]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a lost device makes PortAudio write 20 000 lines a second
            timeout=patience_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {patience_s:.0f} s", "remedy": HUNG}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": f"the process that asks PortAudio ended with {done.returncode}", "remedy": HUNG}
    return answer


def check_devices(answer: dict[str, Any]) -> Iterator[CheckResult]:
    """What PortAudio is and which microphones it has, from the answer to ``devices``."""
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
        yield CheckResult("microphone", "warning", "PortAudio finds none", "plug one in; files and pipes work: --input")


def judge_recording(answer: dict[str, Any]) -> CheckResult:
    """How a test recording was, from the answer to ``record``: the worst that can be said of it."""
    if "error" in answer:
        return CheckResult("recording", "failure", answer["error"], answer.get("remedy", ""))
    said = (
        f"{answer['name']}: {answer['seconds']:.1f} s at {answer['rate_hz']:,} Hz, "
        f"level {format_dbfs(answer['rms'])}, peak {format_dbfs(answer['peak'])}"
    )
    channels = answer.get("channel_fault") or ""
    faults: list[tuple[bool, State, str, str]] = [
        (not answer["seconds"], "failure", "it opens and delivers nothing", HUNG),
        (not answer["peak"], "warning", "digital silence", LOUDER),
        (answer["lost_s"] > 0, "warning", f"{answer['lost_s']:.2f} s were lost", LESS_LOAD),
        (answer["clipped"] > CLIPPED_SHARE, "warning", f"{answer['clipped']:.1%} of it is clipped", QUIETER),
        (answer["peak"] < 10 ** (QUIET_DBFS / 20), "warning", "hardly a sound", LOUDER),
        (bool(channels), "warning", channels, ONE_CHANNEL),
    ]
    for found, state, what, remedy in faults:
        if found:
            return CheckResult("recording", state, f"{said}; {what}", remedy)
    return CheckResult("recording", "ok", said)


def format_dbfs(amplitude: float) -> str:
    """Relative to full scale."""
    return f"{20 * math.log10(amplitude):.0f} dBFS" if amplitude > 0 else "-∞ dBFS"
