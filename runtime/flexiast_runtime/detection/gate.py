"""The energy gate: a silent window has no label, whatever a model would answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

DIGITAL_SILENCE_DBFS = -80.0
"""Three steps of a 16-bit converter. Dither stays below; the noise of every microphone that is not muted is above."""


STILL = 1e-6
"""Of full scale. Samples that differ by no more stand still: digital silence, at whatever offset; resampling may leave
a last digit of a constant. A tone of 20 Hz that moves so slowly is itself below the default level."""


GLANCE = 256
"""Samples at the end of a block that are looked at before the rest"""


class Gate:
    """Knows the last loud sample of a stream, wherever it is asked from; the result does not depend on the block size.

    The newest block is looked through when it is asked for, from its end: most end with something loud.
    """

    def __init__(self, level_dbfs: float) -> None:
        """``level_dbfs`` is that of a peak, 0 for full scale; with −inf only samples that stand still are silent."""
        self._level = 10 ** (level_dbfs / 20)
        self._start, self._block = 0, np.empty(0, np.float32)
        self._before: Float = np.empty(0, np.float32)
        """The sample before the newest block, where there is one"""
        self._last_loud = -1
        """Number of the last loud sample before the newest block"""

    def update(self, start: int, samples: Float) -> None:
        """Take a block whose first sample has the number ``start``; it must not change until the next one."""
        if not len(samples):
            return
        self._last_loud = self._find_last_loud(self._start + len(self._block))
        self._before = self._block[-1:].copy()
        self._start, self._block = start, samples

    def silent(self, start: int, end: int) -> bool:
        """Whether samples ``start`` … ``end`` are all silent; call it when the newest block holds ``end``."""
        return self._find_last_loud(end) < start

    def _find_last_loud(self, end: int) -> int:
        """Number of the last loud sample before the number ``end``."""
        stop = min(max(0, end - self._start), len(self._block))
        for first in (max(0, stop - GLANCE), 0):
            if len(loud := np.flatnonzero(self._are_loud(first, stop))):
                return self._start + first + int(loud[-1])
        return self._last_loud

    def _are_loud(self, first: int, stop: int) -> NDArray[np.bool_]:
        """Of each sample in a part of the block, whether it is not silent; NaN is not."""
        samples = self._block[first:stop]
        before = self._block[first - 1 : first] if first else self._before if len(self._before) else samples[:1]
        stands_still = np.abs(samples - np.concatenate((before, samples[:-1]))) <= STILL
        return ~stands_still & ~(np.abs(samples) < self._level)
