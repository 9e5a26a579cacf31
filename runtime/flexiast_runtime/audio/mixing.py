"""Channels → mono. The mean, unless it would lose what a channel holds: then the loudest channel alone.

A mean is right where channels hear the same thing, and loses 3 dB of what they hear apart. It loses 6 dB where only
one of two hears anything, and everything where the two are of opposite phase, as a balanced microphone on a stereo
input is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

ALONE_DB, TOGETHER_DB = -4.5, -3.75
"""Loss of a mean, against the loudest channel, from which on that one is heard alone, and the mean again: between the
3 dB of channels that have nothing in common and the 6 dB of a channel beside a silent one."""
CANCELS_DB = -3.0
"""Power of a mean, against that of channels that have nothing in common, that says that they are of opposite phase."""
SILENT_DB = -20.0
"""Of a channel, against the loudest one: it hears nothing of what that one hears."""
MEMORY_S = 1.0
"""Time constant of the powers that are compared; what is loud counts most."""
PRIOR_S = 0.05
"""Seconds of alike channels that stand before the first ones: a few milliseconds tell nothing."""
LOUDER_DB = 3.0
"""By which another channel must exceed the one that is heard alone: two of opposite phase are often equally loud."""
QUIET_POWER = 10 ** (-80 / 10)
"""Power of a block, of full scale, below which it tells nothing."""


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
        """Channels that hear nothing of what the loudest one hears."""
        heard = float(self.channels.max()) * 10 ** (SILENT_DB / 10)
        return tuple(int(place) for place in np.flatnonzero(self.channels < heard))

    def fault(self, heard: int) -> str | None:
        """What is wrong with the channels, in a few words, where one is heard alone; None where nothing is."""
        alone = f"channel {heard + 1} alone is heard"
        if self.cancels:
            return f"its channels are of opposite phase and cancel in their mix; {alone}"
        if self.silent:
            names = " and ".join(str(place + 1) for place in self.silent)
            return f"channel {names} hears nothing of it; {alone}"
        return None


def measure_powers(samples: Float) -> Powers:
    """Of samples [frames, channels]."""
    return Powers(samples.var(axis=0, dtype=np.float64), float(samples.mean(axis=1, dtype=np.float32).var()))


class Mixer:
    """Mixes the blocks of one stream, which may differ in length."""

    def __init__(self, rate_hz: int) -> None:
        self.powers = Powers(np.zeros(1), 0.0)
        """Over the last second of sound"""
        self.alone: int | None = None
        """The channel that is heard alone, from 0; None for the mean of all"""
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
        """What is wrong with the channels; None where nothing is, or all are heard."""
        return None if self.alone is None else self.powers.fault(self.alone)

    def _measure(self, samples: Float) -> None:
        now = measure_powers(samples)
        if now.channels.max() < QUIET_POWER:
            return
        seconds = len(samples) / self._rate_hz
        kept = math.exp(-seconds / MEMORY_S)
        before = self.powers
        if not before.mean:
            before = Powers(PRIOR_S * now.channels, PRIOR_S * float(now.channels.max()))
        self.powers = Powers(kept * before.channels + seconds * now.channels, kept * before.mean + seconds * now.mean)
        loudest = self.powers.loudest
        if self.powers.loss_db < ALONE_DB:
            if self.alone is None or self.powers.is_louder(loudest, self.alone):
                self.alone = loudest
        elif self.powers.loss_db > TOGETHER_DB:
            self.alone = None


def _single_channel(channel: int, channels: int) -> Float:
    return np.eye(channels, dtype=np.float32)[channel]
