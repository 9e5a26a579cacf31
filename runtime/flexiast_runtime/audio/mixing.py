"""Channels → mono. The mean, unless it would lose what a channel holds: then the loudest channel alone.

The mean is right where all channels carry the same sound. It loses 3 dB where two channels carry unrelated sound, 6 dB
where one of the two is silent, and everything where they are of opposite phase, as from a balanced microphone on a
stereo input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

ALONE_DB, TOGETHER_DB = -4.5, -3.75
"""Loss of the mean against the loudest channel at which that channel is used alone, and the mean again.
Both lie between the 3 dB of two unrelated channels and the 6 dB of one silent channel in two."""
CANCELS_DB = -3.0
"""Power of the mean, against that of unrelated channels, below which the channels are of opposite phase"""
SILENT_DB = -20.0
"""Power against the loudest channel below which a channel is silent"""
MEMORY_S = 1.0
"""Time constant of the powers that are compared; loud sound counts most."""
PRIOR_S = 0.05
"""Seconds of equal channels assumed before the first block: a few milliseconds are no evidence."""
LOUDER_DB = 3.0
"""By this much another channel must exceed the one in use: two of opposite phase are often equally loud."""
QUIET_POWER = 10 ** (-80 / 10)
"""Power of a block, of full scale, below which it is ignored"""


class Powers(NamedTuple):
    """Without the mean of each block: an offset is no sound."""

    channels: NDArray[np.float64]
    """[channels]"""
    mean: float
    """Of their mean"""

    @property
    def loudest(self) -> int:
        return int(self.channels.argmax())

    @property
    def loss_db(self) -> float:
        """What the mean has against the loudest channel; 0 where nothing sounds."""
        loudest = float(self.channels.max())
        return 10 * math.log10(max(self.mean / loudest, 1e-12)) if loudest else 0.0

    def is_louder(self, channel: int, than: int) -> bool:
        return bool(self.channels[channel] > self.channels[than] * 10 ** (LOUDER_DB / 10))

    @property
    def cancels(self) -> bool:
        """Whether the mean holds less than that of channels that have nothing in common would."""
        apart = float(self.channels.sum()) / len(self.channels) ** 2
        return self.loss_db < ALONE_DB and self.mean < apart * 10 ** (CANCELS_DB / 10)

    @property
    def silent(self) -> tuple[int, ...]:
        """Channels that are silent while the loudest one is not."""
        limit = float(self.channels.max()) * 10 ** (SILENT_DB / 10)
        return tuple(int(place) for place in np.flatnonzero(self.channels < limit))

    def fault(self, used: int) -> str | None:
        """What is wrong with the channels if channel ``used`` is used alone, in a few words; None if nothing is."""
        alone = f"only channel {used + 1} is used"
        if self.cancels:
            return f"its channels are of opposite phase and cancel in their mix; {alone}"
        if self.silent:
            names = " and ".join(str(place + 1) for place in self.silent)
            return f"channel {names} is silent; {alone}"
        return None


def measure_powers(samples: Float) -> Powers:
    """Of samples [frames, channels]."""
    channels = np.ascontiguousarray(samples.T)  # NumPy takes ten times as long where channels alternate
    return Powers(np.array([measure_power(channel) for channel in channels]), measure_power(channels.mean(axis=0)))


def measure_power(samples: Float) -> float:
    """Of samples [frames], without their mean."""
    mean = np.float32(samples.mean(dtype=np.float64))  # a constant must leave nothing
    return float(np.square(samples - mean).mean())


class Mixer:
    """Mixes the blocks of one stream, which may differ in length."""

    def __init__(self, rate_hz: int) -> None:
        self.powers = Powers(np.zeros(1), 0.0)
        """Over the last second of sound"""
        self.alone: int | None = None
        """The only channel in use, from 0; None for the mean of all"""
        self._rate_hz = rate_hz
        self._weights: Float | None = None

    def mix(self, samples: Float) -> Float:
        """Samples [frames, channels] → mono [frames, 1]; where the mix changes, it does so along the block."""
        frames, channels = samples.shape
        if channels != len(self.powers.channels):  # another device, or the first block
            self.powers, self.alone, self._weights = Powers(np.zeros(channels), 0.0), None, None
        if channels == 1 or not frames:
            return samples[:, :1]
        self._measure(samples)
        wanted = (
            np.full(channels, 1 / channels, np.float32) if self.alone is None else _single_channel(self.alone, channels)
        )
        before, self._weights = wanted if self._weights is None else self._weights, wanted
        if np.array_equal(before, wanted):
            return samples @ wanted[:, None]
        share = np.linspace(0, 1, frames, dtype=np.float32)[:, None]
        return (samples * (before + share * (wanted - before))).sum(axis=1, keepdims=True)

    @property
    def fault(self) -> str | None:
        """What is wrong with the channels; None if nothing is, or if all are used."""
        return None if self.alone is None else self.powers.fault(self.alone)

    def _measure(self, samples: Float) -> None:
        now = measure_powers(samples)
        if now.channels.max() < QUIET_POWER:
            return
        seconds = len(samples) / self._rate_hz
        decay = math.exp(-seconds / MEMORY_S)
        before = self.powers
        if not before.mean:
            before = Powers(PRIOR_S * now.channels, PRIOR_S * float(now.channels.max()))
        self.powers = Powers(decay * before.channels + seconds * now.channels, decay * before.mean + seconds * now.mean)
        loudest = self.powers.loudest
        if self.powers.loss_db < ALONE_DB:
            if self.alone is None or self.powers.is_louder(loudest, self.alone):
                self.alone = loudest
        elif self.powers.loss_db > TOGETHER_DB:
            self.alone = None


def _single_channel(channel: int, channels: int) -> Float:
    return np.eye(channels, dtype=np.float32)[channel]
