"""Sources are read by one thread each, into rings that one reader empties."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from flexiast.errors import FlexiastError
from flexiast_runtime.audio.ring import Ring
from flexiast_runtime.audio.source import Chunk, Notice, Source, chunks
from flexiast_runtime.audio.timeline import uptime_s

OnSourceLoss = Literal["continue", "exit"]

RING_STEPS = 8
"""Two to four seconds of audio: a slow window or a busy machine drops nothing."""
ARRIVALS = 100
"""The most punctual of the last 100 chunks dates the audio: ten seconds, in which clocks hardly drift."""


class Capture:
    """Reads a source into a ring; iterating gives the chunks."""

    def __init__(
        self,
        source: Source,
        rate_hz: int,
        step_samples: int,
        *,
        live: bool,
        steps: int = RING_STEPS,
        duration_s: float | None = None,
        changed: threading.Condition | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = uptime_s,
    ) -> None:
        """``duration_s`` ends the stream after so much audio; captures read together share ``changed``.

        ``wall`` gives Unix seconds, and may be set at any time; ``clock`` must run on in suspend.
        """
        self.changed = changed or threading.Condition()
        self.ring = Ring(steps, step_samples, live=live, changed=self.changed)
        self._source, self._rate_hz, self._wall, self._clock = source, rate_hz, wall, clock
        self._arrivals: tuple[tuple[int, float], ...] = ()  # how many samples had come, and when, since the last break
        self._end = None if duration_s is None else round(duration_s * rate_hz)
        self._thread = threading.Thread(target=self._capture, name="flexiast-capture", daemon=True)

    def __iter__(self) -> Iterator[Chunk]:
        return (chunk for _, chunk in merge_captures([self]))

    def unix_s(self, sample: int) -> float | None:
        """Unix seconds at which a sample of a live source sounded, by the wall clock as it is set now.

        Blocks arrive in bursts, so the most punctual recent arrival is the reference.
        """
        dated_s = (at_s - (samples - sample) / self._rate_hz for samples, at_s in self._arrivals)
        sounded_s = min(dated_s, default=None)
        return None if sounded_s is None else self._wall() - (self._clock() - sounded_s)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the stream; the audio in the ring is still read. Safe in a signal handler."""
        self.ring.end()

    def join(self) -> None:
        """Wait for the source to be released, but not for ever: a pipe may block, and the thread is a daemon."""
        self._thread.join(timeout=1.0)

    def _capture(self) -> None:
        end = 0
        try:
            for chunk in limit_chunks(chunks(self._source, self._rate_hz), self._end):
                if self.ring.ended:
                    return
                if len(chunk.samples):
                    arrival = chunk.start + len(chunk.samples), self._clock()
                    recent = self._arrivals[1 - ARRIVALS :] if chunk.start == end else ()
                    self._arrivals, end = (*recent, arrival), arrival[0]
                self.ring.write(chunk)
            self.ring.end()
        except BaseException as error:  # noqa: BLE001 (raised again where the ring is read)
            self.ring.end(error)


def merge_captures(captures: Sequence[Capture], on_loss: OnSourceLoss = "exit") -> Iterator[tuple[int, Chunk]]:
    """Chunks of several captures as they come, each with its capture's place; all must share one ``changed``.

    A failure of one ends all, or with ``on_loss="continue"`` only its own: a notice says so, the others go on, and the
    first failure is raised when all have ended.
    """
    changed = captures[0].changed
    if any(capture.changed is not changed for capture in captures):
        raise ValueError("captures that are read together must share one condition")
    for capture in captures:
        capture.start()
    rings = {place: capture.ring for place, capture in enumerate(captures)}
    ends, failures = [0] * len(captures), []
    try:
        while rings := {place: ring for place, ring in rings.items() if not ring.exhausted}:
            with changed:
                # With a time-out: a signal handler that ends a ring just before this thread waits would wake nobody.
                changed.wait_for(
                    lambda: any(r.readable for r in rings.values()) or all(r.ended for r in rings.values()), timeout=1.0
                )
            for place, ring in list(rings.items()):
                try:
                    chunk = ring.take()
                except (FlexiastError, OSError) as error:
                    if on_loss == "exit":
                        raise
                    failures.append(error)
                    del rings[place]
                    yield place, Chunk(ends[place], np.empty(0, np.float32), (Notice("lost", str(error)),))
                    continue
                if chunk is not None:
                    ends[place] = chunk.start + len(chunk.samples)
                    yield place, chunk
    finally:
        stop(captures)
        for capture in captures:
            capture.join()
    if failures:
        raise failures[0]


def stop(captures: Sequence[Capture]) -> None:
    """End all streams; the audio in their rings is still read. Safe in a signal handler."""
    for capture in captures:
        capture.stop()


def limit_chunks(chunks: Iterable[Chunk], end: int | None) -> Iterator[Chunk]:
    """Chunks up to a sample number of the stream; all of them for None."""
    for chunk in chunks:
        if end is None or chunk.start + len(chunk.samples) < end:
            yield chunk
            continue
        if chunk.start < end:
            yield chunk._replace(samples=chunk.samples[: end - chunk.start])
        return
