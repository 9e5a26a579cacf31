"""Finds audio that is missing without a report: frames received against a clock that also runs in suspend.

Frames may be late, and a device's clock is never quite the machine's; neither is a loss. A loss is the lateness that
even the most punctual frames of one second have, above the usual. The usual lateness follows the device's clock, no
faster than clocks differ, so weeks of drift never add up to a loss.
"""

from __future__ import annotations

import math
import time

WINDOW_S = 1.0
"""Seconds, of audio and of time, in which some frames arrive on time even on a busy machine"""
TOLERATED_S = 0.25
"""Lateness above the usual that is no loss: a busy machine delivers in bursts."""
DRIFT_KNOWN_S = 60.0
"""Seconds of audio after which the drift is reported: a jitter of a few milliseconds is then below 100 ppm."""
MAX_DRIFT = 500e-6
"""Fastest drift that is followed. Quartz crystals stay within 100 ppm each, so this leaves a factor of two and more."""


def uptime_s() -> float:
    """Seconds of a clock that nobody sets and that counts suspend, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Timeline:
    """Where the audio of one source should be by now."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._origin_s: float | None = None
        self._frames = 0  # received, or known to be lost
        self._usual_s: float | None = None  # lateness; unknown in the first window
        self._first: tuple[float, int] | None = None  # the usual lateness at first, and frames then
        self._window_started_s = 0.0
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
        """Count ``frames`` received by ``now_s``; returns how many are missing before them.

        ``broken``: some are known to be missing, because the device reported it or was gone. They are counted at once,
        at least as many as arrived. Otherwise a gap shows within two windows.
        """
        if self._origin_s is None:
            self._origin_s = now_s - frames / self._rate_hz
            self._window_started_s = now_s
        self._frames += frames
        late_s = now_s - self._origin_s - self._frames / self._rate_hz
        self._window_frames += frames
        self._punctual_s = min(self._punctual_s, late_s)
        if broken and self._frames > frames:  # before the first ones nothing is missing
            return self._lose(max(frames, self._count_missing(late_s)), now_s)
        window_s = self._window_frames / self._rate_hz
        if min(window_s, now_s - self._window_started_s) < WINDOW_S:
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
        self._window_started_s, self._window_frames, self._punctual_s = now_s, 0, math.inf
