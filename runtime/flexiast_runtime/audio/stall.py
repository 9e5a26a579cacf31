"""Detects when a live pipe has stalled, and how much audio is missing when it goes on.

A pipe has no clock. A camera writes audio as it sounds, perhaps in bursts of a few seconds, so the pipe runs ahead of
real time by some lead. A wait within the lead of the last half minute is normal. A longer wait is a stall, and its
audio is missing, unless it all arrives afterwards.
"""

from __future__ import annotations

from collections import deque

STALL_S = 1.0
"""Seconds of overdue audio after which the source counts as lost. A busy writer pauses for less."""
LATE_S = 0.25
"""Less missing audio than this was only late: two and a half blocks, as `Timeline` tolerates."""
REMEMBERED_S = 30.0
"""Bursts come more often than this. An older lead, from the start or by a faster clock, is forgotten."""
AWAITED_S = 0.05
"""Data that arrives after a shorter wait was already in the pipe, and says nothing about the writer's pace."""


class PipeClock:
    """Compares audio with the time it takes to arrive. Times are of a clock that runs on in suspend."""

    def __init__(self) -> None:
        self._lead_s: float | None = None  # audio that came, less the time that passed; None before the first
        self._lows: deque[tuple[float, float]] = deque()  # when the lead was how low, the lowest first: each rises
        self._at_s = 0.0

    def start_wait(self, now_s: float) -> None:
        """Start to wait on an empty pipe. The time before was the reader's: it may have been busy."""
        if self._lead_s is not None:
            self._lead_s -= now_s - self._at_s
            if self._lows:
                self._remember_low(now_s, self._lead_s)
        self._at_s = now_s

    def overdue_s(self, now_s: float, came_s: float = 0.0) -> float:
        """Seconds of audio due since `start_wait`, less ``came_s``; 0 before the first audio."""
        if self._lead_s is None:
            return 0.0
        ahead_s = max(0.0, self._lead_s - self._lows[0][1]) if self._lows else 0.0
        return max(0.0, now_s - self._at_s - ahead_s - came_s)

    def receive(self, now_s: float, came_s: float, missing_s: float = 0.0) -> None:
        """Count audio that arrived, after ``missing_s`` of audio that is known to be missing."""
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
