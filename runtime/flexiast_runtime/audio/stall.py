"""When a pipe that plays as time goes by has stalled, and how much is missing when it goes on.

A pipe has no clock: a camera's comes as it sounds, in bursts of some seconds perhaps. How far it was ahead of the time
in the last half a minute may be waited for; a wait beyond that is a stall, and what did not come in it is missing,
unless it all comes afterwards.
"""

from __future__ import annotations

from collections import deque

STALL_S = 1.0
"""Seconds beyond its time after which audio that is waited for is taken for lost."""
LATE_S = 0.25
"""Less is missing than this: it was late."""
REMEMBERED_S = 30.0
"""Bursts come more often than this; what was ahead before, from the start or by a faster clock, is forgotten."""
AWAITED_S = 0.05
"""What comes sooner lay in the pipe, as all that was written before anybody read does."""


class PipeClock:
    """Compares what comes with the time that it takes to come. Times are of a clock that runs on in suspend."""

    def __init__(self) -> None:
        self._lead_s: float | None = None  # audio that came, less the time that passed; None before the first
        self._lows: deque[tuple[float, float]] = deque()  # when the lead was how low, the lowest first: each rises
        self._at_s = 0.0

    def start_wait(self, now_s: float) -> None:
        """The pipe is empty from here on; who reads it may have been busy until now, which is no fault of the pipe."""
        if self._lead_s is not None:
            self._lead_s -= now_s - self._at_s
            if self._lows:
                self._remember_low(now_s, self._lead_s)
        self._at_s = now_s

    def overdue_s(self, now_s: float, came_s: float = 0.0) -> float:
        """Seconds of audio that should have come by now besides ``came_s``, since `start_wait`; 0 before the first."""
        if self._lead_s is None:
            return 0.0
        ahead_s = max(0.0, self._lead_s - self._lows[0][1]) if self._lows else 0.0
        return max(0.0, now_s - self._at_s - ahead_s - came_s)

    def receive(self, now_s: float, came_s: float, missing_s: float = 0.0) -> None:
        """So much audio has come after so much that is known to be missing."""
        waited_s = now_s - self._at_s
        if self._lead_s is None:
            self._lead_s = 0.0
        else:
            self._lead_s += missing_s - waited_s
            if waited_s >= AWAITED_S:
                self._remember_low(now_s, self._lead_s)
        self._lead_s += came_s
        self._at_s = now_s

    def _remember_low(self, now_s: float, lead_s: float) -> None:
        while self._lows and self._lows[-1][1] >= lead_s:
            self._lows.pop()
        self._lows.append((now_s, lead_s))
        while self._lows[0][0] < now_s - REMEMBERED_S:
            self._lows.popleft()
