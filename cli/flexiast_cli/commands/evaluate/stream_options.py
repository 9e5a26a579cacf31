"""The options of `flexiast evaluate` that measure events in streams rather than labels of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from flexiast.errors import UsageError

SNRS_DB = "quiet,20,10,5,0"
CLIPS = 200


@dataclass(frozen=True)
class StreamOptions:
    """Which streams are heard, and how."""

    streams: Path | None
    mix: Path | None
    backgrounds: tuple[Path, ...]
    snrs_db: tuple[float, ...]
    """Infinite: a quiet room"""
    level_dbfs: float | None
    """None: that of speech"""
    clips: int
    seed: int
    threshold: float | None
    deadline_s: float | None

    def check(self, data: Path | None) -> None:
        """Raise UsageError unless one thing is measured: clips, annotated recordings, or mixes and background."""
        if self.streams is not None and (self.mix is not None or self.backgrounds):
            raise UsageError("annotated recordings have their own background; leave --mix and --background out")
        is_streams = self.streams is not None or self.mix is not None or bool(self.backgrounds)
        if is_streams == (data is not None):
            raise UsageError(
                "give clips as DATA, or annotated recordings by --streams, or clips by --mix and hours of --background"
            )
        if self.mix is not None and not self.backgrounds and any(snr < math.inf for snr in self.snrs_db):
            raise UsageError("--mix needs a --background to mix the clips into; without one there is only --snr quiet")


def parse_snrs(text: str) -> tuple[float, ...]:
    """``quiet,20,10`` → infinity, 20, 10; raises UsageError."""
    found = []
    for part in text.split(","):
        try:
            snr_db = math.inf if part.strip() == "quiet" else float(part)
        except ValueError:
            snr_db = math.nan
        if not snr_db >= -60:  # NaN is not, either
            raise UsageError(f"--snr {text!r} cannot be read; give decibels by commas, such as {SNRS_DB}")
        found.append(snr_db)
    return tuple(dict.fromkeys(found))
