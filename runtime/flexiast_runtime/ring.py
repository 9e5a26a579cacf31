"""Between capture and inference: a bounded ring whose sample counter is the clock.

A live source never waits: when the ring is full the oldest whole steps go, and the jump in the counter marks the
discontinuity. A file or pipe waits instead, and loses nothing. Counters are Python integers: a 32-bit one overflows
after 37 hours at 16 kHz.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.source import Chunk, Source, chunks

Float = NDArray[np.float32]


class Ring:
    """Bounded audio buffer for one writer and one reader."""

    def __init__(self, steps: int, step_samples: int, *, live: bool) -> None:
        """``live``: when full, drop the oldest steps; otherwise make the writer wait."""
        if steps < 2:
            raise ValueError(f"a ring of {steps} steps cannot drop one and keep one; use at least 2")
        self._step, self._live = step_samples, live
        self._buffer = np.zeros(steps * step_samples, np.float32)
        self._head = 0  # number of the oldest sample held
        self._tail = 0  # number of the next sample to be written
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.dropped = 0
        """Samples thrown away because the reader was late."""

    def write(self, chunk: Chunk) -> None:
        """Add a chunk; what comes after ``end`` is ignored."""
        with self._changed:
            if chunk.start != self._tail:
                self._skip_to(chunk.start)
            samples = chunk.samples
            while len(samples) and not self._ended:
                part = samples[: self._step]  # a chunk larger than the ring goes in step by step
                self._make_room(len(part))
                self._store(part)
                samples = samples[len(part) :]
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more will be written; an error is raised where the ring is read. Safe in a signal handler."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        return self._ended

    def backlog(self) -> int:
        """Samples written and not yet read."""
        return self._tail - self._head

    def read(self) -> Chunk | None:
        """All that is held, waiting for the first sample; None at the end."""
        with self._changed:
            # With a time-out: a signal handler that ends the ring just before this thread waits would wake nobody.
            while not self._changed.wait_for(lambda: self._tail > self._head or self._ended, timeout=1.0):
                pass
            if self._tail > self._head:
                places = np.arange(self._head, self._tail) % len(self._buffer)
                chunk = Chunk(self._head, self._buffer[places])
                self._head = self._tail
                self._changed.notify_all()
                return chunk
            if self._error is not None:
                raise self._error
            return None

    def _skip_to(self, start: int) -> None:
        """Audio is missing: a reader sees the jump, so what is held must be read first or is dropped."""
        if not self._live:
            self._changed.wait_for(lambda: self._tail == self._head or self._ended)
        if not self._ended:  # else what is held is still read
            self.dropped += self._tail - self._head
            self._head = self._tail = start

    def _make_room(self, samples: int) -> None:
        capacity = len(self._buffer)
        if not self._live:
            self._changed.wait_for(lambda: self.backlog() + samples <= capacity or self._ended)
            return
        excess = self.backlog() + samples - capacity
        if excess > 0:
            lost = min(-(-excess // self._step) * self._step, self.backlog())
            self._head += lost
            self.dropped += lost

    def _store(self, samples: Float) -> None:
        if self._ended:  # nobody reads any more
            return
        places = np.arange(self._tail, self._tail + len(samples)) % len(self._buffer)
        self._buffer[places] = samples
        self._tail += len(samples)


class Capture:
    """A source read by a thread of its own into a ring; iterating gives the chunks."""

    def __init__(self, source: Source, rate_hz: int, step_samples: int, *, live: bool, steps: int = 8) -> None:
        self.ring = Ring(steps, step_samples, live=live)
        self._source, self._rate_hz = source, rate_hz

    def __iter__(self) -> Iterator[Chunk]:
        thread = threading.Thread(target=self._capture, name="flexiast-capture", daemon=True)
        thread.start()
        try:
            while (chunk := self.ring.read()) is not None:
                yield chunk
        finally:
            self.stop()
            thread.join(timeout=1.0)  # a pipe may block for ever; the thread is a daemon

    def stop(self) -> None:
        """End the stream: what is held is still read. Safe in a signal handler."""
        self.ring.end()

    def _capture(self) -> None:
        try:
            for chunk in chunks(self._source, self._rate_hz):
                if self.ring.ended:
                    return
                self.ring.write(chunk)
            self.ring.end()
        except BaseException as error:  # noqa: BLE001 (raised again where the ring is read)
            self.ring.end(error)
