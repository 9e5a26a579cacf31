"""The energy gate: a window in which nothing sounds is answered without an engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

DIGITAL_SILENCE_DBFS = -80.0
"""Three steps of a 16-bit converter: dither stays below, every microphone that is not muted is above."""


class Gate:
    """Remembers where a stream was last loud; exact whatever the blocks that it comes in."""

    def __init__(self, level_dbfs: float) -> None:
        """``level_dbfs`` is that of a peak, 0 for full scale; −inf finds everything loud."""
        self._level = 10 ** (level_dbfs / 20)
        self._loud = np.array([-1])
        """Numbers of loud samples: the last one before the newest block, then those in it."""

    def hear(self, start: int, samples: Float) -> None:
        """A block whose first sample has the number ``start``."""
        loud = np.flatnonzero(~(np.abs(samples) < self._level))  # NaN is not silence
        self._loud = np.concatenate((self._loud[-1:], start + loud))

    def silent(self, start: int, end: int) -> bool:
        """Whether samples ``start`` … ``end`` are all below the level; asked when the newest block brings ``end``."""
        return bool(self._loud[np.searchsorted(self._loud, end) - 1] < start)
