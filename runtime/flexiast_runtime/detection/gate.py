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


class Gate:
    """Remembers the last loud samples of a stream; the result does not depend on the block size."""

    def __init__(self, level_dbfs: float) -> None:
        """``level_dbfs`` is that of a peak, 0 for full scale; with −inf only samples that stand still are silent."""
        self._level = 10 ** (level_dbfs / 20)
        self._loud = np.array([-1])
        """Numbers of loud samples: the last one before the newest block, then those in it."""
        self._last = np.empty(0, np.float32)
        """The sample before the newest block, where there is one"""

    def update(self, start: int, samples: Float) -> None:
        """Take a block whose first sample has the number ``start``."""
        if not len(samples):
            return
        moves = np.empty(len(samples), np.bool_)
        before = self._last[0] if len(self._last) else samples[0]
        moves[0] = not abs(samples[0] - before) <= STILL  # NaN is not silence
        np.logical_not(np.abs(samples[1:] - samples[:-1]) <= STILL, out=moves[1:])
        moves &= ~(np.abs(samples) < self._level)
        self._loud = np.concatenate((self._loud[-1:], start + np.flatnonzero(moves)))
        self._last = samples[-1:].copy()

    def silent(self, start: int, end: int) -> bool:
        """Whether samples ``start`` … ``end`` are all silent; call it when the newest block holds ``end``."""
        return bool(self._loud[np.searchsorted(self._loud, end) - 1] < start)
