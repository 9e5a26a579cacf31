"""The last seconds of a source, so that a clip can begin before its event was known."""

from __future__ import annotations

import threading

import numpy as np

from flexiast_runtime.source import Chunk, Float


class AudioHistory:
    """A bounded ring of mono float32 audio, addressed by sample number; one thread writes, any may read."""

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
