"""Keeps all live sound of the last hours on disk, so that a sound that no event reported can be marked later."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flexiast.files import write_atomically
from flexiast.log import Log, log_nothing
from flexiast_runtime.audio.flac import encode_flac
from flexiast_runtime.audio.recorder import LEAST_FREE_BYTES
from flexiast_runtime.audio.source import Chunk, Float
from flexiast_runtime.history.stored_audio import SEGMENT_NAME, SEGMENT_S, name_segment, render_source
from flexiast_runtime.sinks.outbox import CLOSING_S
from flexiast_runtime.sinks.retention import Keeper, Retention, clock_is_synchronised, list_half_written
from flexiast_runtime.sinks.sink import file_error

MOST_WAITING = 8
"""Segments of each source that wait for the disk; of more, the newest is lost."""

Date = Callable[[int], float | None]
"""Unix seconds at which a sample sounded; None for a recording"""


@dataclass
class _Open:
    """Unbroken audio that is not yet a whole segment."""

    started_at_s: float
    end: int
    pieces: list[Float] = field(default_factory=list)

    @property
    def length(self) -> int:
        return sum(map(len, self.pieces))


class AudioKeeper:
    """A folder with the sound of several sources. ``push`` never waits: a thread encodes and writes.

    A disk that is full or fails is reported once, and what sounds meanwhile is not kept.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        rate_hz: int,
        *,
        log: Log = log_nothing,
        wall: Callable[[], float] = time.time,
        synchronised: Callable[[], bool] = clock_is_synchronised,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """``retention`` has an age and a size."""
        self._folder, self._retention, self._rate_hz, self._log = folder, retention, rate_hz, log
        self._wall, self._synchronised, self._free_bytes = wall, synchronised, free_bytes
        self._segment_samples = round(SEGMENT_S * rate_hz)
        self._open: dict[str, _Open] = {}
        self._waiting: queue.SimpleQueue[tuple[str, float, Float] | None] = queue.SimpleQueue()
        self._sources: set[str] = set()
        self._thread = threading.Thread(target=self._write_all, name="flexiast-keep-audio", daemon=True)
        self._losing = threading.Lock()
        self._lost_s = 0.0
        self._is_cut_short = False

    def __enter__(self) -> AudioKeeper:
        """Raises SinkError for a folder that cannot be used."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is said in a room is for its owner only
            for path in list_half_written(self._folder, SEGMENT_NAME):
                path.unlink(missing_ok=True)
            self._keeper = Keeper(
                self._folder,
                self._retention,
                SEGMENT_NAME,
                wall=self._wall,
                log=self._log,
                synchronised=self._synchronised,
            )
            self._keeper.make_room()
        except OSError as error:
            text = f"{self._folder} cannot be used to keep audio: {error.strerror}; name another database"
            raise file_error(error, text) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is there; a disk that hangs gets as long as a sink."""
        for source in list(self._open):
            self._finish(source)
        self._waiting.put(None)
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            self._log(f"the last audio was not written to {self._folder}: the disk is too slow")

    def push(self, source: str, chunk: Chunk, date: Date) -> None:
        """Take a chunk of a source. A gap before it begins another segment."""
        samples, start = chunk.samples, chunk.start
        if source in self._open and start != self._open[source].end:
            self._finish(source)
        while len(samples):
            segment = self._open.get(source)
            if segment is None:
                started_at_s = date(start)
                if started_at_s is None:
                    return
                segment = self._open[source] = _Open(started_at_s, start)
            taken = samples[: self._segment_samples - segment.length]
            segment.pieces.append(taken)
            start += len(taken)
            segment.end, samples = start, samples[len(taken) :]
            if segment.length == self._segment_samples:
                self._finish(source)

    def _finish(self, source: str) -> None:
        segment = self._open.pop(source)
        samples = np.concatenate(segment.pieces)
        self._sources.add(source)
        if self._waiting.qsize() >= MOST_WAITING * len(self._sources):
            self._lose(len(samples), "the disk is too slow")
        else:
            self._waiting.put((source, segment.started_at_s, samples))

    def _write_all(self) -> None:
        while (segment := self._waiting.get()) is not None:
            source, started_at_s, samples = segment
            try:
                self._write(source, started_at_s, samples)
            except Exception as error:  # noqa: BLE001 (whatever it is, the next segment may be written)
                self._lose(len(samples), getattr(error, "strerror", None) or str(error))

    def _write(self, source: str, started_at_s: float, samples: Float) -> None:
        content = encode_flac(samples, self._rate_hz, render_source(source))
        self._keeper.make_room(len(content))
        free = self._free_bytes(self._folder)
        if free < LEAST_FREE_BYTES:
            self._lose(len(samples), f"only {free / 1e6:,.0f} MB are free on the disk")
            return
        name = name_segment(source, started_at_s)
        write_atomically(self._folder / name, content)
        self._keeper.add(name)
        with self._losing:
            if self._lost_s:
                self._log(f"audio is kept again in {self._folder}; {self._lost_s:,.0f} s were not")
                self._lost_s = 0.0
        if self._keeper.removed_early and not self._is_cut_short:
            self._is_cut_short = True
            self._log(
                f"the audio kept in {self._folder} has reached {(self._retention.total_bytes or 0) / 1e9:g} GB, so the "
                "oldest goes before its time; --keep-audio-limit allows more"
            )

    def _lose(self, samples: int, reason: str) -> None:
        with self._losing:
            if not self._lost_s:
                self._log(f"no audio is kept in {self._folder}: {reason}; listening goes on")
            self._lost_s += samples / self._rate_hz
