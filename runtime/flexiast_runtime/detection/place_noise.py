"""How far the sounds of a place stand above its background: the measured signal-to-noise ratio of its events.

The level of windows in which an event is open, against that of the quiet ones between them. The governor weighs patch
sizes by it, since a large patch loses more in noise than on clean sounds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from flexiast_runtime.detection.records import Record, Status

MEMORY = 1_200
"""Windows of each kind: ten minutes at two a second, as long as the noise of a place stays the same"""
FEW_EVENTS, FEW_QUIET = 20, 120
"""Windows of each kind before the ratio is known: a few events, and a minute of background"""
BACKGROUND_PERCENT = 20.0
"""Of the quiet levels, for the background: a window may hold a sound that is no label's"""
EVERY = 10
"""Windows between two looks: the ratio of ten minutes does not change in five seconds."""
RANGE_DB = 40.0
"""The ratio lies within so many decibels of 0; nobody measures recall beyond."""


class PlaceNoise:
    """Follows the records of live streams; recordings have no level and teach nothing."""

    def __init__(self) -> None:
        self.snr_db: float | None = None
        """None: not known yet"""
        self._events: deque[float] = deque(maxlen=MEMORY)
        self._quiet: deque[float] = deque(maxlen=MEMORY)
        self._seen = 0

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        """Pass the records on, and learn from each status."""
        for record in records:
            if isinstance(record, Status) and record.signal is not None:
                self.add(record.signal.level_dbfs, is_event=bool(record.active))
            yield record

    def add(self, level_dbfs: float, *, is_event: bool) -> None:
        """Take the level of one window."""
        if not math.isfinite(level_dbfs):
            return
        (self._events if is_event else self._quiet).append(level_dbfs)
        self._seen += 1
        if self._seen % EVERY == 0 and len(self._events) >= FEW_EVENTS and len(self._quiet) >= FEW_QUIET:
            self.snr_db = self._measure()

    def _measure(self) -> float:
        """The background is part of what an event's window holds, so its power is taken off."""
        noise = 10 ** (float(np.percentile(self._quiet, BACKGROUND_PERCENT)) / 10)
        sound = 10 ** (float(np.median(self._events)) / 10) - noise
        if noise <= 0 or sound <= noise * 10 ** (-RANGE_DB / 10):
            return -RANGE_DB
        return min(10 * math.log10(sound / noise), RANGE_DB)
