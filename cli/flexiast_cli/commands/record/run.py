"""The work of `flexiast record`: a microphone into files, with a word on what is wrong with its level."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from flexiast.errors import ExitCode, UsageError
from flexiast.files import check_sibling_output
from flexiast_cli.terminal.console import count_noun, log
from flexiast_cli.terminal.interrupts import graceful_shutdown
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.levels import LevelCheck
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.recorder import FileFormat, Recorder
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Source
from flexiast_runtime.units import parse_size

STEP_S = 0.5
"""Audio that is read at once"""


def run(
    output: Path,
    hours: float | None,
    device: str | None,
    channel: int | None,
    file_minutes: float,
    disk_limit: str,
    file_format: FileFormat,
) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder for the recordings")
    check_sibling_output(output)
    source = Microphone(device, channel=channel)
    recorder = Recorder(output, source.rate_hz, 60 * file_minutes, file_format, most_bytes=parse_size(disk_limit))
    record_source(source, recorder, None if hours is None else 3600 * hours)


def record_source(source: Source, recorder: Recorder, duration_s: float | None) -> None:
    """Record a source until its end, for so long, or until a signal; what was recorded stays in any case."""
    monitored, rate_hz = Monitored(source), source.rate_hz
    capture = Capture(monitored, rate_hz, round(STEP_S * rate_hz), live=True, duration_s=duration_s)
    levels, end = LevelCheck(rate_hz), 0
    log(f"Recording {source.name}; Ctrl-C ends")
    try:
        with graceful_shutdown(capture.stop, terminated=ExitCode.OK), closing(recorder):
            for chunk in capture:
                for state, reason in chunk.notices:
                    log(f"{state}: {reason}")
                if chunk.start > end:
                    recorder.break_off((chunk.start - end) / rate_hz, "the microphone delivered nothing")
                end = max(end, chunk.start + len(chunk.samples))
                started_at_s = capture.unix_s(chunk.start) or time.time()
                if (limit := recorder.write(chunk.samples, started_at_s)) is not None:
                    log(f"Recording ends: {limit}")
                    capture.stop()
                    break
                for warning in levels.update(monitored.signal, len(chunk.samples) / rate_hz):
                    log(f"Warning: {warning}")
    finally:
        _report(recorder, rate_hz, levels)


def _report(recorder: Recorder, rate_hz: int, levels: LevelCheck) -> None:
    recorded = recorder.recorded
    gaps = f", {count_noun(recorded.gaps, 'gap')} of {recorded.lost_s:.1f} s" if recorded.gaps else ""
    log(f"{recorded.samples / rate_hz / 3600:.2f} h in {count_noun(len(recorded.files), 'file')}{gaps}; {levels}")
