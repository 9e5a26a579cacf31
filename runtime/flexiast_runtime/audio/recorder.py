"""Records a stream into files that appear whole: each is unbroken audio, and a gap begins the next one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from flexiast.files import TEMPORARY

Float = NDArray[np.float32]

FileFormat = Literal["flac", "wav"]

JOURNAL = ".recording.jsonl"
"""Of the folder: a line for each file and each gap. Hidden, so that no search for audio tells of it."""

LEAST_FREE_BYTES = 200_000_000
"""Of the file system: recording ends before it is full."""

SHORTEST_S = 0.5
"""Less than that between two gaps is no recording."""


@dataclass
class _OpenFile:
    """A file that is being written under a name of its own."""

    path: Path
    temporary: Path
    sound: Any
    started_at_s: float
    samples: int = 0


@dataclass
class Recorded:
    """What came of a recording so far."""

    files: list[Path] = field(default_factory=list)
    samples: int = 0
    total_bytes: int = 0
    gaps: int = 0
    lost_s: float = 0.0


class Recorder:
    """Writes mono audio into a folder, a file after the other."""

    def __init__(
        self,
        folder: Path,
        rate_hz: int,
        file_s: float,
        file_format: FileFormat = "flac",
        *,
        most_bytes: int | None = None,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """``most_bytes`` limits what this recording may take. Files of earlier ones in the folder stay."""
        self._folder, self._rate_hz, self._format = folder, rate_hz, file_format
        self._file_samples, self._most_bytes, self._free_bytes = round(file_s * rate_hz), most_bytes, free_bytes
        self._open: _OpenFile | None = None
        self.recorded = Recorded()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, samples: Float, started_at_s: float) -> str | None:
        """Samples that follow the last ones, of which the first sounded at so many Unix seconds.

        Returns why nothing more can be recorded, None while it can; what was written so far stays.
        """
        while len(samples):
            if (reason := self._find_limit()) is not None:
                self.close()
                return reason
            file = self._open or self._begin(started_at_s)
            taken = samples[: self._file_samples - file.samples]
            file.sound.write(taken)
            file.samples += len(taken)
            self.recorded.samples += len(taken)
            started_at_s += len(taken) / self._rate_hz
            samples = samples[len(taken) :]
            if file.samples == self._file_samples:
                self.close()
        return None

    def break_off(self, lost_s: float, reason: str) -> None:
        """Audio is missing here, so many seconds as far as that is known: the next sample begins another file."""
        self.close()
        self.recorded.gaps += 1
        self.recorded.lost_s += lost_s
        self._note({"gap_s": round(lost_s, 3), "reason": reason})

    def close(self) -> None:
        """Finish the open file; it gets its name only now."""
        file, self._open = self._open, None
        if file is None:
            return
        file.sound.close()
        if file.samples < SHORTEST_S * self._rate_hz:
            file.temporary.unlink()
            self.recorded.samples -= file.samples
            return
        with file.temporary.open("rb+") as written:
            os.fsync(written.fileno())
        size = file.temporary.stat().st_size
        file.temporary.rename(file.path)
        self.recorded.files.append(file.path)
        self.recorded.total_bytes += size
        seconds = round(file.samples / self._rate_hz, 3)
        self._note({"file": file.path.name, "started_at": _format_utc(file.started_at_s), "seconds": seconds})

    def _begin(self, started_at_s: float) -> _OpenFile:
        name = datetime.fromtimestamp(started_at_s, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = self._folder / f"{name}.{self._format}"
        number = 1
        while path.exists():  # a clock that was set back
            number += 1
            path = self._folder / f"{name}-{number}.{self._format}"
        temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
        sound = soundfile.SoundFile(temporary, "w", self._rate_hz, 1, "PCM_16", format=self._format.upper())
        self._open = _OpenFile(path, temporary, sound, started_at_s)
        return self._open

    def _find_limit(self) -> str | None:
        """Why no more may be written; asked for each block, for others fill the disk too."""
        being_written = self._open.temporary.stat().st_size if self._open else 0
        if self._most_bytes is not None and self.recorded.total_bytes + being_written >= self._most_bytes:
            return f"{self._most_bytes / 1e9:.2g} GB are recorded, as many as may be"
        free = self._free_bytes(self._folder)
        if free < LEAST_FREE_BYTES:
            return f"only {free / 1e6:,.0f} MB are free on the disk of {self._folder}"
        return None

    def _note(self, entry: dict[str, Any]) -> None:
        with (self._folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")


def _format_utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds")
