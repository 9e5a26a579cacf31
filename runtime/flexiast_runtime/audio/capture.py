"""Sources are read by the thread that classifies: woken once a step, it takes all that has come since."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

import numpy as np

from flexiast.errors import FlexiastError
from flexiast_runtime.audio.ring import Ring
from flexiast_runtime.audio.source import Chunk, Notice, Source, Wait, chunks, wait_for
from flexiast_runtime.audio.timeline import uptime_s

OnSourceLoss = Literal["continue", "exit"]

RING_STEPS = 8
"""Two to four seconds of audio: a slow window or a busy machine drops nothing."""
ARRIVALS = 100
"""The most punctual of the last 100 arrivals dates the audio: under a minute, in which clocks hardly drift."""


class Capture:
    """One source with the audio that was read and not yet classified; iterating gives the chunks."""

    def __init__(
        self,
        source: Source,
        rate_hz: int,
        step_samples: int,
        *,
        live: bool,
        window_samples: int = 0,
        steps: int = RING_STEPS,
        duration_s: float | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = uptime_s,
    ) -> None:
        """``live``: when the reader is late, drop the oldest of ``steps`` steps; else the source waits for the reader.

        The reader wants its first window after ``window_samples``, and one after each step from there.
        ``duration_s`` ends the stream after so much audio. ``wall`` gives Unix seconds, and may be set at any time;
        ``clock`` must run on in suspend.
        """
        self.ring = Ring(steps if live else None, step_samples)
        self._rate_hz, self._step, self._window, self._live = rate_hz, step_samples, window_samples, live
        self._most = steps * step_samples
        self._end_sample = None if duration_s is None else round(duration_s * rate_hz)
        self._wall, self._clock = wall, clock
        self._chunks = limit_chunks(chunks(source, rate_hz), self._end_sample)
        self._arrivals: tuple[tuple[int, float], ...] = ()  # how many samples had come, and when, since the last break
        self._begin = self._end = 0  # of the unbroken audio so far
        self._is_broken = False
        self._read_s = clock()
        self._has_ended = self._stopped = False
        self._error: Exception | None = None
        self._stop_pipe: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        return (chunk for _, chunk in merge_captures([self]))

    def unix_s(self, sample: int) -> float | None:
        """Unix seconds at which a sample of a live source sounded, by the wall clock as it is set now.

        Blocks arrive in bursts, so the most punctual recent arrival is the reference.
        """
        dated_s = (at_s - (samples - sample) / self._rate_hz for samples, at_s in self._arrivals)
        sounded_s = min(dated_s, default=None)
        return None if sounded_s is None else self._wall() - (self._clock() - sounded_s)

    def backlog(self) -> int:
        """Samples of a live source that wait: those in the ring, and what sounded since the source was read."""
        return self.ring.backlog() + round((self._clock() - self._read_s) * self._rate_hz) if self._live else 0

    def stop(self) -> None:
        """End the stream; what has come is still read. Safe in a signal handler."""
        self._stopped = True
        if (pipe := self._stop_pipe) is not None:
            with suppress(BlockingIOError):
                os.write(pipe[1], b"\n")

    def open(self) -> int:
        """Begin to read; returns a file descriptor that is readable once the capture is stopped."""
        self._stop_pipe = os.pipe()
        return self._stop_pipe[0]

    def close(self) -> None:
        """Release the source."""
        self._chunks.close()
        pipe, self._stop_pipe = self._stop_pipe, None
        for end in pipe or ():
            os.close(end)

    def receive(self) -> Wait | None:
        """Take all that a live source has now into the ring, or one chunk of a recording.

        Returns what to wait for; None if the source may have more at once, or has ended.
        """
        if self._stopped and not self._live:
            self._has_ended = True
        if self._has_ended:
            return None
        try:
            wait = self._receive()
        except Exception as error:  # noqa: BLE001 (raised by `take`, after what came before it)
            self._has_ended, self._error = True, error
            return None
        self._has_ended |= self._stopped
        return wait

    def take(self) -> Chunk | None:
        """The next chunk of the ring, None if it is empty; raises an error of the source after what came before it."""
        chunk = self.ring.take()
        if chunk is None and self._error is not None:
            error, self._error = self._error, None
            raise error
        return chunk

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more, and all was taken."""
        return self._has_ended and self._error is None and self.ring.is_empty

    def _receive(self) -> Wait | None:
        came = 0
        for chunk in self._chunks:
            self._read_s = self._clock()
            self._note(chunk)
            self.ring.write(chunk)
            came += len(chunk.samples)
            if chunk.wait is not None:
                return chunk.wait.request(self._missing_samples() / self._rate_hz)
            if not self._live or came >= self._most:  # a source that is never idle must not keep the reader
                return None
        self._has_ended = True
        return None

    def _note(self, chunk: Chunk) -> None:
        """Remember when a chunk arrived, and where its unbroken audio began."""
        self._is_broken |= any(state == "lost" for state, _ in chunk.notices)
        if not len(chunk.samples):
            return
        end = chunk.start + len(chunk.samples)
        arrival = end, self._read_s if chunk.arrived_s is None else chunk.arrived_s
        before = self._arrivals if chunk.start == self._end else ()
        if not before or self._is_broken:
            self._begin, self._is_broken = chunk.start, False
        self._arrivals, self._end = (*before[1 - ARRIVALS :], arrival), end

    def _missing_samples(self) -> int:
        """Samples until the next step is complete, in time with the windows, or the stream."""
        first = self._begin + self._window % self._step
        due = first + ((self._end - first) // self._step + 1) * self._step
        return (due if self._end_sample is None else min(due, self._end_sample)) - self._end


def merge_captures(captures: Sequence[Capture], on_loss: OnSourceLoss = "exit") -> Iterator[tuple[int, Chunk]]:
    """Chunks of several captures as they come, each with its capture's place.

    A failure of one ends all, or with ``on_loss="continue"`` only its own: a notice says so, the others go on, and the
    first failure is raised when all have ended.
    """
    stops = [capture.open() for capture in captures]
    running = dict(enumerate(captures))
    ends, failures = [0] * len(captures), []
    try:
        while running:
            waits = [capture.receive() for capture in running.values()]
            is_idle = True
            for place, capture in list(running.items()):
                try:
                    while (chunk := capture.take()) is not None:
                        is_idle, ends[place] = False, chunk.start + len(chunk.samples)
                        yield place, chunk
                except (FlexiastError, OSError) as error:
                    if on_loss == "exit":
                        raise
                    failures.append(error)
                    yield place, Chunk(ends[place], np.empty(0, np.float32), (Notice("lost", str(error)),))
                if capture.exhausted:
                    is_idle = False
                    del running[place]
            # Only after a round in which nothing came: the reader was busy meanwhile, and more may have come.
            if is_idle and (waiting := [wait for wait in waits if wait is not None]) and len(waiting) == len(waits):
                wait_for(waiting, *stops)
    finally:
        for capture in captures:
            capture.close()
    if failures:
        raise failures[0]


def stop(captures: Sequence[Capture]) -> None:
    """End all streams; what has come is still read. Safe in a signal handler."""
    for capture in captures:
        capture.stop()


def limit_chunks(chunks: Iterable[Chunk], end: int | None) -> Generator[Chunk, None, None]:
    """Chunks up to a sample number of the stream; all of them for None."""
    for chunk in chunks:
        if end is None or chunk.start + len(chunk.samples) < end:
            yield chunk
            continue
        if chunk.start < end:
            yield chunk._replace(samples=chunk.samples[: end - chunk.start])
        return
