"""A source's audio, so that a clip can begin before its event was known.

Of a live source the last seconds are held; a recording is read again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from flexiast_runtime.audio.source import Chunk, Float, Source, chunks


class Audio(Protocol):
    """Mono float32 audio, addressed by sample number at the model's rate."""

    @property
    def rate_hz(self) -> int: ...

    def push(self, chunk: Chunk) -> None:
        """Take a chunk of the stream."""
        ...

    def read(self, start: int, end: int, timeout_s: float = 0.0) -> Chunk:
        """Samples ``start`` to ``end``, or what there is of them; waits up to ``timeout_s`` for what is to come."""
        ...

    def end(self) -> None:
        """Nothing more will come."""
        ...


class AudioHistory:
    """A bounded ring of a live source's last seconds; one thread writes, any may read."""

    def __init__(self, seconds: float, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._buffer = np.zeros(round(seconds * rate_hz), np.float32)
        self._end = 0  # number of the next sample to be stored
        self._ended = False
        self._changed = threading.Condition()

    @property
    def begin(self) -> int:
        """Number of the oldest sample held."""
        with self._changed:
            return max(0, self._end - len(self._buffer))

    def push(self, chunk: Chunk) -> None:
        """Add a chunk. What is missing before it becomes silence."""
        with self._changed:
            missing = min(max(0, chunk.start - self._end), len(self._buffer))
            self._end = chunk.start - missing
            self._store(np.zeros(missing, np.float32))
            self._store(chunk.samples)
            self._changed.notify_all()

    def end(self) -> None:
        """No more will come: readers wait no longer."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, start: int, end: int, timeout_s: float = 0.0) -> Chunk:
        """Samples ``start`` to ``end``, or what is held of them.

        Waits up to ``timeout_s`` for the last of them.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._end >= end or self._ended, timeout_s)
            first = max(start, self.begin)
            places = np.arange(first, max(first, min(end, self._end))) % len(self._buffer)
            return Chunk(first, self._buffer[places])

    def _store(self, samples: Float) -> None:
        held = samples[-len(self._buffer) :]
        self._end += len(samples)
        self._buffer[np.arange(self._end - len(held), self._end) % len(self._buffer)] = held


class RecordingAudio:
    """A recording, read a second time as far as clips need it: nothing is too old, and no sound too long.

    Clips come nearly in the order of the recording, so reading goes on where it was; for one that lies before the
    last ``seconds`` it begins again. One thread reads.
    """

    def __init__(self, source: Source, seconds: float, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._source, self._held_samples = source, round(seconds * rate_hz)
        self._chunks: Iterator[Chunk] = iter(())
        self._held: deque[Chunk] = deque()
        self._begin = self._end = 0  # of what was read and is held
        self._opened = False

    def push(self, chunk: Chunk) -> None:
        """The file has it."""

    def end(self) -> None:
        """The file has an end of its own."""

    def read(self, start: int, end: int, timeout_s: float = 0.0) -> Chunk:
        """Samples ``start`` to ``end``, or what the recording has of them; raises as its source does."""
        if not self._opened or start < self._begin:
            self._rewind()
        while self._end < end and (chunk := next(self._chunks, None)) is not None:
            self._held.append(chunk)
            self._end = chunk.start + len(chunk.samples)
            self._forget(min(start, self._end - self._held_samples))
        samples = np.zeros(max(0, min(end, self._end) - start), np.float32)  # what is missing is silence
        for chunk in self._held:
            first, last = max(start, chunk.start), min(end, chunk.start + len(chunk.samples))
            if first < last:
                samples[first - start : last - start] = chunk.samples[first - chunk.start : last - chunk.start]
        return Chunk(start, samples)

    def _rewind(self) -> None:
        self._chunks = chunks(self._source, self.rate_hz)
        self._held.clear()
        self._begin = self._end = 0
        self._opened = True

    def _forget(self, before: int) -> None:
        while self._held and (end := self._held[0].start + len(self._held[0].samples)) <= before:
            self._held.popleft()
            self._begin = end
