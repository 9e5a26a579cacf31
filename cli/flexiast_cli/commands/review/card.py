"""One event as a terminal shows it, and its sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.text import Text

from flexiast.errors import DataError
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec
from flexiast.text import printable
from flexiast_cli.commands.history.run import describe_time
from flexiast_cli.spectrogram import COLUMN_FRAMES, Spectrogram
from flexiast_runtime.history.clips import Span, read_span
from flexiast_runtime.history.verdicts import ReviewedEvent

Float = NDArray[np.float32]
LINES = 8
"""Of the spectrogram"""
NEAR = 4
"""Neighbours that are named"""
SHORTEST_S = 0.1
"""Of a clip that has a picture"""


def draw_card(
    event: ReviewedEvent, place: str, neighbours: Sequence[ReviewedEvent], clip: Path | None
) -> RenderableType:
    """What is known of an event, with its spectrogram where the clip can be read."""
    record = event.event
    threshold = "" if record["threshold"] is None else f" (needs {record['threshold']:.2f})"
    seconds = f"{record['end_s'] - record['start_s']:.1f} s"
    facts = (describe_time(record), seconds, record["source"], record["patch_size"], event.model or "")
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{place}  ", "dim"), (printable(record["label"]), "bold green"), f"  {record['score']:.2f}{threshold}"
        ),
        Text(" · ".join(printable(fact) for fact in facts if fact), "dim"),
    ]
    if neighbours:
        nearest = sorted(neighbours, key=lambda other: abs(_measure_distance(record, other)))[:NEAR]
        nearest.sort(key=lambda other: _measure_distance(record, other))
        parts.append(Text("near: " + ", ".join(_describe_near(record, other) for other in nearest), "dim"))
    if event.judgement is not None:
        parts.append(Text(printable(str(event.judgement)), "yellow"))
    if clip is not None:
        parts.append(_draw_clip(clip))
    return Group(*parts)


def play(clip: Path) -> str | None:
    """Start to play a clip, in place of the last one; why that cannot be, None where it can."""
    try:
        import sounddevice

        samples, rate_hz = soundfile.read(clip, dtype="float32")
        sounddevice.play(samples, rate_hz)
    except Exception as error:
        # OSError: PortAudio is not installed. Its own error class cannot be named before it is imported.
        if not isinstance(error, OSError | RuntimeError | ValueError) and type(error).__name__ != "PortAudioError":
            raise
        return f"this cannot be played here ({error}); the clip is {clip}"
    return None


def compute_log_mel(samples: Float, rate_hz: int) -> Float:
    """Log-mel [frames, 64], standardised over the clip as features are over training data."""
    spec = FrontendSpec(
        sample_rate_hz=rate_hz,
        window_samples=max(400, rate_hz),
        mel_bins=64,
        high_hz=min(8_000.0, rate_hz / 2),
        mean=0.0,
        std=0.5,
    )
    log_mel = Frontend(spec).log_mel(samples)
    standardised: Float = (log_mel - log_mel.mean()) / max(1e-6, 2 * float(log_mel.std()))
    return standardised


def _draw_clip(clip: Path) -> RenderableType:
    try:
        span = read_span(clip)
        samples, rate_hz = soundfile.read(clip, dtype="float32")
    except (DataError, soundfile.LibsndfileError) as error:
        return Text(f"the clip cannot be read: {printable(str(error))}", "yellow")
    if len(samples) / rate_hz < SHORTEST_S:
        return Text("the clip is too short for a picture", "dim")
    return SoundPicture(samples, rate_hz, span, "the event")


class SoundPicture:
    """A spectrogram from the left on, as wide as the console at most, with a line under what is meant."""

    def __init__(self, samples: Float, rate_hz: int, span: Span, what: str) -> None:
        self._features, self._span, self._what = compute_log_mel(samples, rate_hz), span, what
        self._seconds = len(samples) / rate_hz

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(1, min(options.max_width, len(self._features) // COLUMN_FRAMES))
        frames = width * COLUMN_FRAMES
        picture = Spectrogram()
        picture.push(self._features[np.arange(frames) * len(self._features) // frames])
        yield Constrain(picture.with_height(LINES), width)
        first, last = (round(width * moment_s / self._seconds) for moment_s in self._span)
        yield Text(" " * min(first, width - 1) + "^" * max(1, last - first), "bold")
        yield Text(
            f"{self._what} is {self._span.start_s:.1f} to {self._span.end_s:.1f} s of {self._seconds:.1f} s", "dim"
        )


def _measure_distance(event: dict[str, Any], other: ReviewedEvent) -> float:
    """Seconds from one event to another."""
    distance_s: float = other.event["start_s"] - event["start_s"]
    return distance_s


def _describe_near(event: dict[str, Any], other: ReviewedEvent) -> str:
    said = "" if other.judgement is None else f" ({other.judgement.verdict.value})"
    return (
        f"{printable(other.event['label'])} {other.event['score']:.2f} {_measure_distance(event, other):+.0f} s{said}"
    )
