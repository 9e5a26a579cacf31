"""Audio as arrays from a caller: checked, and made a source."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexiast.data.decoder import RATES_HZ
from flexiast.errors import UsageError
from flexiast_runtime.audio.source import Block

Float = NDArray[np.float32]

MAX_CHANNELS = 64
"""An array with more columns was given as [channels, frames]."""
MAX_PEAK = 16.0
"""24 dB over full scale: no recorder writes it, integers that were cast to floats reach it at once."""


class PushedSource:
    """A source of blocks that a caller pushes; a block without samples means that none is pending."""

    def __init__(self, name: str, rate_hz: int) -> None:
        self.name, self.rate_hz = name, rate_hz
        self.pending: deque[Block] = deque()
        self.ended = False

    def blocks(self) -> Iterator[Block]:
        while self.pending or not self.ended:
            yield self.pending.popleft() if self.pending else Block(np.empty((0, 1), np.float32))


def check_rate(rate_hz: int) -> int:
    if rate_hz != int(rate_hz) or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise UsageError(f"a rate of {rate_hz} Hz cannot be used; give {RATES_HZ[0]:,} to {RATES_HZ[1]:,}, whole")
    return int(rate_hz)


def as_frames(samples: ArrayLike) -> Float:
    """Samples [frames] or [frames, channels] → float32 [frames, channels]; raises UsageError."""
    array = np.asarray(samples)
    if array.dtype.kind in "iub":
        full = "128" if array.dtype.itemsize == 1 else f"{2.0 ** (8 * array.dtype.itemsize - 1):.0f}"
        raise UsageError(f"samples are {array.dtype}; give floats in −1 … 1: samples / {full}")
    if array.dtype.kind != "f":
        raise UsageError(f"samples are {array.dtype}; give real floats in −1 … 1")
    if array.ndim not in {1, 2} or (array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS):
        raise UsageError(f"samples have the shape {array.shape}; give [frames] or [frames, channels]")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise UsageError("samples hold NaN or infinity; give finite floats in −1 … 1")
    if array.size and (peak := float(np.abs(array).max())) > MAX_PEAK:
        raise UsageError(f"samples reach {peak:g}; give floats in −1 … 1, divided by the full scale of their integers")
    return array[:, None] if array.ndim == 1 else array
