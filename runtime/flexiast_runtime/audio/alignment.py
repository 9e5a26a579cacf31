"""How a microphone's blocks are laid so that a window is complete when a block is.

Sound waits for the end of its block, and each block wakes the processor. If a window ended just after a block did, it
would wait for one more. So a step is a whole number of blocks, and a stream begins a little late: by as much as makes
windows end where blocks do, once the resampler has let go of what it holds back. Then a long block delays no window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BLOCK_S = 0.1
"""For readers without windows, and where windows cannot end where blocks do: sound waits for so long at most."""
LONGEST_BLOCK_S, SHORTEST_BLOCK_S = 0.25, 0.05
"""A device that delivers nothing shows after a block and a bit, so a block must be shorter than that may take."""
MARGIN_S = 0.001
"""By so much a window is complete before its block: a sample that is rounded away must not cost a block."""
ROUNDING = 1e-9
"""0.7 / 0.1 is not quite 7."""


@dataclass(frozen=True)
class WindowTiming:
    """What a reader classifies: the last ``window_s`` seconds every ``step_s``, at ``rate_hz``."""

    rate_hz: int
    window_s: float
    step_s: float

    def choose_block_s(self, source_hz: int) -> float:
        """The longest block of which a step is a whole number, and that is whole frames; of short steps several.

        Where there is none, windows slowly move against the blocks, which are then no longer than `BLOCK_S`.
        """
        if self.step_s < SHORTEST_BLOCK_S:
            return self.step_s * math.floor(BLOCK_S / self.step_s + ROUNDING)
        fewest = math.ceil(self.step_s / LONGEST_BLOCK_S - ROUNDING)
        most = math.floor(self.step_s / SHORTEST_BLOCK_S + ROUNDING)
        lengths_s = [self.step_s / count for count in range(fewest, most + 1)]
        whole = (length_s for length_s in lengths_s if is_whole(length_s * source_hz))
        return next(whole, next((length_s for length_s in lengths_s if length_s <= BLOCK_S), lengths_s[-1]))

    def find_start_s(self, source_hz: int, held_s: float) -> float:
        """Seconds to leave out at the beginning, less than a block, if resampling holds back ``held_s`` at most."""
        return -(self.window_s + held_s + MARGIN_S) % self.choose_block_s(source_hz)


def is_whole(value: float) -> bool:
    return abs(value - round(value)) < ROUNDING * max(1.0, value)
