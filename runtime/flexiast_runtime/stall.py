"""When a pipe that plays as time goes by has stalled, and how much is missing when it goes on.

A pipe has no clock: a camera's comes as it sounds, in bursts of some seconds perhaps, a recording's as fast as it is
read. What came before its time may be waited for as long; a wait beyond that is a stall, and what did not come in it is
missing, unless it all comes afterwards.
"""

from __future__ import annotations

from flexiast_runtime.timeline import MAX_DRIFT

STALL_S = 1.0
"""Seconds beyond its time after which audio that is waited for is taken for lost."""
LATE_S = 0.25
"""Less is missing than this: it was late."""


class PipeClock:
    """Compares what comes with the time that it takes to come. Times are of a clock that runs on in suspend."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None  # audio that came before its time; None before the first
        self._at_s = 0.0

    def wait_from(self, now_s: float) -> None:
        """The pipe is empty from here on; who reads it may have been busy until now, which is no fault of the pipe."""
        if self._ahead_s is not None:
            self._ahead_s = max(0.0, self._ahead_s - (1 + MAX_DRIFT) * (now_s - self._at_s))
        self._at_s = now_s

    def overdue_s(self, now_s: float, came_s: float = 0.0) -> float:
        """Seconds of audio that should have come by now besides ``came_s``, since `wait_from`; 0 before the first."""
        return 0.0 if self._ahead_s is None else max(0.0, now_s - self._at_s - self._ahead_s - came_s)

    def come(self, now_s: float, seconds: float) -> None:
        """So much audio has come, or is known to be missing."""
        ahead_s = (self._ahead_s or 0.0) - (1 + MAX_DRIFT) * (now_s - self._at_s)
        self._ahead_s = seconds if self._ahead_s is None else max(0.0, ahead_s + seconds)
        self._at_s = now_s
