"""Between a source and inference: a bounded ring whose sample counter is the clock.

A live source never waits: when the ring is full the oldest whole steps go, and the jump in the counter marks the
discontinuity. A recording waits instead, and loses nothing. Counters are Python integers: a 32-bit one overflows
after 37 hours at 16 kHz.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from flexiast_runtime.audio.source import Chunk, Notice


class Ring:
    """Audio that was read and not yet classified; one thread writes and takes."""

    def __init__(self, steps: int | None, step_samples: int) -> None:
        """``steps`` that it holds at most; None: everything, for a source whose reader stops in time."""
        if steps is not None and steps < 2:
            raise ValueError(f"a ring of {steps} steps cannot drop one and keep one; use at least 2")
        self._step, self._capacity = step_samples, None if steps is None else steps * step_samples
        self._chunks: deque[Chunk] = deque()
        self._backlog = 0
        self._notices: tuple[Notice, ...] = ()  # of chunks that were dropped

    def write(self, chunk: Chunk) -> None:
        """Add a chunk."""
        start, samples = chunk.start, chunk.samples
        if chunk.notices:
            self._chunks.append(Chunk(start, samples[:0], chunk.notices))
        while len(samples):
            part = samples[: self._step]  # a chunk larger than the ring goes in step by step
            self._make_room(len(part))
            self._chunks.append(Chunk(start, part))
            self._backlog += len(part)
            start, samples = start + len(part), samples[len(part) :]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._chunks

    def backlog(self) -> int:
        """Samples written and not yet taken."""
        return self._backlog

    def take(self) -> Chunk | None:
        """All that is held up to the next discontinuity or notice; None when there is nothing."""
        if not self._chunks:
            return None
        run = [self._chunks.popleft()]
        while self._chunks and self._follows(run[-1]):
            run.append(self._chunks.popleft())
        samples = np.concatenate([chunk.samples for chunk in run])
        notices, self._notices = self._notices + run[0].notices, ()
        self._backlog -= len(samples)
        return Chunk(run[0].start, samples, notices)

    def _follows(self, last: Chunk) -> bool:
        following = self._chunks[0]
        return following.start == last.start + len(last.samples) and not following.notices

    def _make_room(self, samples: int) -> None:
        excess = 0 if self._capacity is None else self._backlog + samples - self._capacity
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
