"""Audio that is missing although nobody said so: frames received against a clock that also runs in suspend.

Frames may come late, and a device's clock is never quite the machine's; neither is a loss. A loss is the lateness that
even the most punctual frames of a second have, above what is usual. What is usual follows the device's clock, no
faster than clocks differ, so that weeks of drift never add up to one.
"""

from __future__ import annotations

import math
import time

WINDOW_S = 1.0
"""Audio, and time, in which some frames come on time."""
TOLERATED_S = 0.25
"""Lateness above the usual that is no loss: bursts of a busy machine."""
DRIFT_KNOWN_S = 60.0
"""Seconds of audio after which the drift is worth telling: lateness of a few milliseconds is then below 100 ppm."""
MAX_DRIFT = 500e-6
"""Of a device's clock against the machine's; crystals stay within 100 ppm."""


def uptime_s() -> float:
    """Seconds of a clock that nobody sets and that counts suspend, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Timeline:
    """Where the audio of one source should be by now."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._origin_s: float | None = None
        self._frames = 0  # received, and said to be lost
        self._usual_s: float | None = None  # lateness; unknown in the first window
        self._first: tuple[float, int] | None = None  # the usual lateness at first, and frames then
        self._window_begun_s = 0.0
        self._window_frames = 0
        self._punctual_s = math.inf  # least lateness in the window

    @property
    def drift_ppm(self) -> float | None:
        """How much slower the device's clock is than the machine's, in millionths; None while that is not known."""
        if self._first is None or self._usual_s is None:
            return None
        usual_s, frames = self._first
        seconds = (self._frames - frames) / self._rate_hz
        return None if seconds < DRIFT_KNOWN_S else 1e6 * (self._usual_s - usual_s) / seconds

    def push(self, now_s: float, frames: int, *, broken: bool = False) -> int:
        """Count ``frames`` that have come by ``now_s``; how many are missing before them.

        ``broken``: it is known that some are (the device said so, or was gone), so they are counted at once, and are no
        fewer than came; otherwise a hole shows within two windows.
        """
        if self._origin_s is None:
            self._origin_s = now_s - frames / self._rate_hz
            self._window_begun_s = now_s
        self._frames += frames
        late_s = now_s - self._origin_s - self._frames / self._rate_hz
        self._window_frames += frames
        self._punctual_s = min(self._punctual_s, late_s)
        if broken and self._frames > frames:  # before the first ones nothing is missing
            return self._lose(max(frames, self._count_missing(late_s)), now_s)
        window_s = self._window_frames / self._rate_hz
        if min(window_s, now_s - self._window_begun_s) < WINDOW_S:
            return 0
        missing = self._count_missing(self._punctual_s)
        if missing > TOLERATED_S * self._rate_hz:
            return self._lose(missing, now_s)
        self._follow(window_s)
        self._open_window(now_s)
        return 0

    def _count_missing(self, late_s: float) -> int:
        return round((late_s - (self._usual_s or 0.0)) * self._rate_hz)

    def _lose(self, frames: int, now_s: float) -> int:
        self._frames += frames
        self._open_window(now_s)
        return frames

    def _follow(self, window_s: float) -> None:
        if self._usual_s is None:
            self._usual_s = self._punctual_s
            self._first = self._usual_s, self._frames
        most_s = MAX_DRIFT * window_s
        self._usual_s += max(-most_s, min(most_s, self._punctual_s - self._usual_s))

    def _open_window(self, now_s: float) -> None:
        self._window_begun_s, self._window_frames, self._punctual_s = now_s, 0, math.inf
