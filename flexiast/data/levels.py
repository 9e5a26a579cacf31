"""What a recording's levels say of it: integers stored as floats, channels that cancel, a channel without sound."""

from __future__ import annotations

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import DataError

LOUDEST = 1e6
"""Of samples that belong into −1 … 1; integers that were stored as floats are borne, what no recorder wrote is not."""
IMPLAUSIBLE = 16.0
"""24 dB above full scale: a mix in floats or an MP3 stays below, 8-bit integers as floats do not."""
CANCELLED = 0.01
"""Of the channels' mean power that their mix holds, −20 dB: independent channels leave a half of it, equal ones all."""
STRETCH_FRAMES = 100_000
"""Whose channels are compared by themselves: seconds. A cable that comes loose does so in the middle of a recording."""
AUDIBLE = 1e-6
"""Power from which a stretch counts, −60 dBFS: the noise of two converters may cancel"""
SILENT = 1e-4
"""Of the loudest channel's power, −40 dB: less than two microphones differ that hear one room."""


class Levels:
    """Peak and power of a recording, block by block."""

    def __init__(self, channels: int) -> None:
        self._peak = 0.0
        self._powers = np.zeros(channels)
        self._mix_power = 0.0
        self._stretch = np.zeros(3)
        """Frames, power of the channels' mean and of their mix, since the last stretch ended"""
        self._frames = self._cancelled_frames = 0

    def push(self, samples: Float) -> None:
        """[frames, channels]; raises DataError for samples that are not numbers, or that no recorder wrote."""
        if not len(samples):
            return
        peak = float(np.abs(samples).max())
        if not np.isfinite(peak):
            raise DataError("holds samples that are not numbers (NaN or infinite); export it again")
        if peak > LOUDEST:
            raise DataError(f"holds samples up to {peak:.3g}, expected -1 … 1; export it again")
        self._peak = max(self._peak, peak)
        if samples.shape[1] > 1:
            powers = np.einsum("fc,fc->c", samples, samples)
            mix = samples.mean(axis=1, dtype=np.float32)
            self._powers += powers
            self._mix_power += float(mix @ mix)
            self._stretch += (len(samples), powers.mean(), float(mix @ mix))
            if self._stretch[0] >= STRETCH_FRAMES:
                self._end_stretch()

    def _end_stretch(self) -> None:
        frames, mean, mix = self._stretch
        self._frames += int(frames)
        if mean > AUDIBLE * frames and mix < CANCELLED * mean:
            self._cancelled_frames += int(frames)
        self._stretch[:] = 0

    def warnings(self) -> list[str]:
        """What its listener should know, in words that go on from the file's name."""
        found = []
        if self._peak > IMPLAUSIBLE:
            found.append(
                f"has samples up to {self._peak:,.6g}, expected -1 … 1: integers stored as floats? Export it again"
            )
        self._end_stretch()
        loudest, mean = float(self._powers.max(initial=0.0)), float(self._powers.mean())
        if len(self._powers) < 2 or not loudest:
            return found
        best = int(self._powers.argmax()) + 1
        if self._mix_power < CANCELLED * mean:
            fall_db = 10 * np.log10(max(self._mix_power / mean, 1e-12))
            found.append(
                f"has channels that cancel each other: their mix is {-fall_db:.0f} dB quieter; hear one with --channel "
                f"{best}"
            )
        elif self._cancelled_frames:
            found.append(
                f"has channels that cancel each other in {self._cancelled_frames / self._frames:.0%} of its time, "
                f"which their mix loses; hear one with --channel {best}"
            )
        elif self._powers.sum() - loudest < SILENT * loudest:
            fall_db = 20 * np.log10(len(self._powers))
            found.append(
                f"has sound in channel {best} alone: the mix is {fall_db:.0f} dB quieter; hear it with --channel {best}"
            )
        return found
