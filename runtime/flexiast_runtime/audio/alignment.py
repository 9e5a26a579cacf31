"""How a microphone's blocks are laid so that a window is complete when a block is.

Sound waits for the end of its block. If a window ended just after a block did, it would wait for one more. So a step is
a whole number of blocks, and a stream begins a little late: by as much as makes windows end where blocks do, once the
resampler has let go of what it holds back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_BLOCK_S, SHORTEST_BLOCK_S = 0.1, 0.05
"""Each block wakes the processor, and sound waits for it."""
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
        """The longest block of which a step is a whole number; of short steps as many as it holds.

        Of whole frames, if there is one: else windows would slowly move against the blocks.
        """
        if self.step_s > LONGEST_BLOCK_S:
            fewest, most = self.step_s / LONGEST_BLOCK_S, self.step_s / SHORTEST_BLOCK_S
            counts = range(math.ceil(fewest - ROUNDING), math.floor(most + ROUNDING) + 1)
            lengths_s = [self.step_s / count for count in counts]
        else:
            lengths_s = [self.step_s * math.floor(LONGEST_BLOCK_S / self.step_s + ROUNDING)]
        whole = (length_s for length_s in lengths_s if is_whole(length_s * source_hz))
        return next(whole, lengths_s[0])

    def find_start_s(self, source_hz: int, held_s: float) -> float:
        """Seconds to leave out at the beginning, less than a block, if resampling holds back ``held_s`` at most."""
        return -(self.window_s + held_s + MARGIN_S) % self.choose_block_s(source_hz)


def is_whole(value: float) -> bool:
    return abs(value - round(value)) < ROUNDING * max(1.0, value)
