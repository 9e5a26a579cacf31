"""Between capture and inference: a bounded ring whose sample counter is the clock.

A live source never waits: when the ring is full the oldest whole steps go, and the jump in the counter marks the
discontinuity. A file or pipe waits instead, and loses nothing. Counters are Python integers: a 32-bit one overflows
after 37 hours at 16 kHz.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from flexiast_runtime.audio.source import Chunk, Notice


class Ring:
    """Bounded audio buffer for one writer and one reader."""

    def __init__(
        self, steps: int, step_samples: int, *, live: bool, changed: threading.Condition | None = None
    ) -> None:
        """``live``: when full, drop the oldest steps; otherwise make the writer wait.

        ``changed`` is notified of every write and end; one reader can wait for all rings that share it.
        """
        if steps < 2:
            raise ValueError(f"a ring of {steps} steps cannot drop one and keep one; use at least 2")
        self._step, self._capacity, self._live = step_samples, steps * step_samples, live
        self._chunks: deque[Chunk] = deque()
        self._backlog = 0
        self._notices: tuple[Notice, ...] = ()  # of chunks that were dropped
        self._ended = False
        self._error: BaseException | None = None
        self._changed = changed or threading.Condition()

    def write(self, chunk: Chunk) -> None:
        """Add a chunk; what comes after ``end`` is ignored."""
        with self._changed:
            start, samples = chunk.start, chunk.samples
            if chunk.notices and not self._ended:
                self._chunks.append(chunk._replace(samples=samples[:0]))
                self._changed.notify_all()
            while len(samples) and not self._ended:
                part = samples[: self._step]  # a chunk larger than the ring goes in step by step
                self._make_room(len(part))
                if not self._ended:  # else the reader has gone
                    self._chunks.append(Chunk(start, part))
                    self._backlog += len(part)
                start, samples = start + len(part), samples[len(part) :]
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more will be written; an error is raised where the ring is read. Safe in a signal handler."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def readable(self) -> bool:
        """Whether `take` has something to give or to raise."""
        return bool(self._chunks) or (self._ended and self._error is not None)

    @property
    def exhausted(self) -> bool:
        """Whether all was read, and nothing will come."""
        return self._ended and not self.readable

    def backlog(self) -> int:
        """Samples written and not yet read."""
        return self._backlog

    def take(self) -> Chunk | None:
        """All that is held up to the next discontinuity or notice; None when there is nothing."""
        with self._changed:
            if not self._chunks:
                if self._ended and self._error is not None:
                    raise self._error
                return None
            run = [self._chunks.popleft()]
            while self._chunks and self._follows(run[-1]):
                run.append(self._chunks.popleft())
            samples = np.concatenate([chunk.samples for chunk in run])
            notices, self._notices = self._notices + run[0].notices, ()
            self._backlog -= len(samples)
            self._changed.notify_all()
            return Chunk(run[0].start, samples, notices)

    def _follows(self, last: Chunk) -> bool:
        following = self._chunks[0]
        return following.start == last.start + len(last.samples) and not following.notices

    def _make_room(self, samples: int) -> None:
        if not self._live:
            self._changed.wait_for(lambda: self._backlog + samples <= self._capacity or self._ended)
            return
        excess = self._backlog + samples - self._capacity
        if excess > 0:
            self._drop(min(-(-excess // self._step) * self._step, self._backlog))

    def _drop(self, samples: int) -> None:
        """Drop the oldest samples; their notices stay."""
        self._backlog -= samples
        while samples:
            chunk = self._chunks.popleft()
            self._notices += chunk.notices
            if len(chunk.samples) > samples:
                rest = Chunk(chunk.start + samples, chunk.samples[samples:])
                self._chunks.appendleft(rest)
            samples -= min(samples, len(chunk.samples))
