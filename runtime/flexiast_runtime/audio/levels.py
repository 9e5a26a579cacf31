"""Whether a recording is worth keeping: too quiet, clipped or silent, said while it can still be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from flexiast_runtime.audio.signal import FLOOR_DBFS, Signal

QUIET_DBFS = -65.0
"""Where the noise of many sound cards lies: a room whose loudest moment is below has its microphone turned down."""
QUIET_S = 60.0
"""In which a room is never so quiet throughout"""
CLIPPED_SHARE = 1e-4
"""Of the samples; a door that slams now and then clips fewer."""


class LevelCheck:
    """The levels of a recording, and what they say of it; each warning comes once until it is over."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._tenths_at: Counter[int] = Counter()
        self._loudest_dbfs, self._since_s = FLOOR_DBFS, 0.0
        self._clipped = 0
        self._warned: set[str] = set()

    def update(self, signal: Signal, seconds: float) -> Iterator[str]:
        """The state of the source after so many seconds more → what is wrong with it."""
        self._tenths_at[round(signal.level_dbfs)] += round(10 * seconds)
        self._loudest_dbfs = max(self._loudest_dbfs, signal.peak_dbfs)
        self._since_s += seconds
        if self._since_s < QUIET_S:
            return
        if self._loudest_dbfs < QUIET_DBFS:
            yield from self._warn(
                "quiet",
                f"the loudest moment of a minute was {self._loudest_dbfs:.0f} dBFS; turn the microphone up, or look "
                "for another with `flexiast devices`",
            )
        else:
            self._warned.discard("quiet")
        clipped = signal.clipped - self._clipped
        if clipped > CLIPPED_SHARE * self._since_s * self._rate_hz:
            yield from self._warn("clipped", f"{clipped:,} samples of a minute are clipped; turn the microphone down")
        else:
            self._warned.discard("clipped")
        self._loudest_dbfs, self._since_s, self._clipped = FLOOR_DBFS, 0.0, signal.clipped

    def _warn(self, name: str, text: str) -> Iterator[str]:
        if name not in self._warned:
            self._warned.add(name)
            yield text

    def __str__(self) -> str:
        if not self._tenths_at:
            return "no level was measured"
        levels = sorted(self._tenths_at.elements())
        return f"median level {levels[len(levels) // 2]} dBFS"
