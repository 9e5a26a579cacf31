"""Whether a source delivers sound: level, clipping, silence, its channels, what is missing or no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.audio.mixing import Mixer, measure_power
from flexiast_runtime.audio.source import Block, Notice, Source

Float = NDArray[np.float32]

NO_SIGNAL_S = 5.0
"""Seconds of digital silence after which a source has no signal: a muted or dead microphone; a live one has noise."""
CLIPPED = 1 - 2**-15
"""From here on a sample counts as clipped: the largest value that 16 bits hold."""
INVALID_SHARE = 0.01
"""Of a block; with more samples that are no numbers it is lost, with fewer they become silence."""
PIECE_S = 0.1
"""Seconds of a block that are lost together"""
FLOOR_DBFS = -120.0
DC_S = 1.0
"""Time constant of the mean: slow enough that no audible sound looks like a DC offset"""
OFFSET = 0.01
"""Mean, of full scale, that is reported as a fault; most converters have a smaller one."""
CHANNELS_S = 2.0
"""Seconds after which a fault of the channels is reported: a single sound may come from one side only."""


@dataclass(frozen=True)
class Signal:
    """What is known of a source now; counts since it was opened."""

    level_dbfs: float = FLOOR_DBFS
    """Of the last block as it is mixed, a step of a microphone, without its mean: 0 is a square wave of full scale"""
    peak_dbfs: float = FLOOR_DBFS
    """Of any channel"""
    dc_offset: float = 0.0
    """Mean, smoothed over a second; full scale is 1"""
    silent_s: float = 0.0
    """How long every sample has been the same"""
    clipped: int = 0
    """Samples at full scale"""
    invalid: int = 0
    """Samples that were no numbers"""
    gaps: int = 0
    """Times that audio was missing"""
    lost_s: float = 0.0
    drift_ppm: float | None = None
    """How much slower the device's clock is than the machine's; None where it is not known"""
    channel: int | None = None
    """The only channel in use, from 1, where the mean of all would lose its sound; None for the mean"""

    def faults(self) -> tuple[str, ...]:
        """What is wrong, in a few words each, the worst first; none for a sound source."""
        checks = (
            (self.gaps, f"{self.gaps:,} {'gap' if self.gaps == 1 else 'gaps'}"),
            (self.invalid, f"{self.invalid:,} invalid"),
            (self.clipped, f"{self.clipped:,} clipped"),
            (abs(self.dc_offset) >= OFFSET, f"DC offset {self.dc_offset:+.1%}"),
            (self.channel, f"channel {self.channel} alone"),
        )
        return tuple(text for wrong, text in checks if wrong)

    def document(self) -> dict[str, Any]:
        return {
            "level_dbfs": round(self.level_dbfs, 1),
            "peak_dbfs": round(self.peak_dbfs, 1),
            "dc_offset": round(self.dc_offset, 5),
            "silent_s": round(self.silent_s, 3),
            "clipped": self.clipped,
            "invalid": self.invalid,
            "gaps": self.gaps,
            "lost_s": round(self.lost_s, 3),
            "drift_ppm": None if self.drift_ppm is None else round(self.drift_ppm),
            "channel": self.channel,
        }


class Monitored:
    """Checks every block of a source and mixes it to mono; NaN and infinity never reach the model."""

    def __init__(self, source: Source) -> None:
        self.name, self.rate_hz = source.name, source.rate_hz
        self.signal = Signal()
        """As of the last block; an immutable value, so any thread may read it."""
        self._source = source
        self._held: Float | None = None  # the value of each channel, while it does not change
        self._mixer = Mixer(source.rate_hz)
        self._fault: tuple[str | None, float] = None, 0.0  # of the channels, and for how many seconds

    def blocks(self) -> Iterator[Block]:
        """The source's blocks, with gaps where samples were no numbers, and notices when the signal goes or comes."""
        lost = 0
        for block in self._source.blocks():
            if not len(block.samples) or np.isfinite(block.samples).all():
                yield from self._check_block(block._replace(lost=block.lost + lost) if lost else block)
                lost = 0
                continue
            for piece in self._cut(block):
                numbers = self._numbers(piece)
                if len(numbers) == len(piece.samples):
                    yield from self._check_block(piece._replace(samples=numbers, lost=piece.lost + lost))
                    lost = 0
                    continue
                lost += piece.lost + len(piece.samples)
                if piece.notice:
                    yield Block(numbers, notice=piece.notice)

    def _cut(self, block: Block) -> Iterator[Block]:
        """A block of which some samples are no numbers, in pieces: few bad ones must not cost a long block."""
        size = max(1, round(PIECE_S * self.rate_hz))
        yield block._replace(samples=block.samples[:size])
        for start in range(size, len(block.samples), size):
            yield Block(block.samples[start : start + size], drift_ppm=block.drift_ppm, arrived_s=block.arrived_s)

    def _numbers(self, block: Block) -> Float:
        """The samples with the few that are no numbers silenced; none of them if these are many."""
        valid = np.isfinite(block.samples)
        if valid.all():
            return block.samples
        invalid = int((~valid).any(axis=1).sum())
        self.signal = replace(self.signal, invalid=self.signal.invalid + invalid)
        if invalid > INVALID_SHARE * len(block.samples):
            return block.samples[:0]
        return np.where(valid, block.samples, np.float32(0))

    def _check_block(self, block: Block) -> Iterator[Block]:
        """The block, and a notice of its own where one is due."""
        if block.lost:
            lost_s = self.signal.lost_s + block.lost / self.rate_hz
            self.signal = replace(self.signal, gaps=self.signal.gaps + 1, lost_s=lost_s)
        if not len(block.samples):
            yield block
            return
        before, mono = self.signal.silent_s, self._mixer.mix(block.samples)
        yield block._replace(samples=mono)
        self.signal = self._measure(block.samples, mono[:, 0], block.drift_ppm)
        if (fault := self._fault_to_report(len(mono) / self.rate_hz)) is not None:
            yield Block(mono[:0], notice=Notice("channels", fault))
        if before < NO_SIGNAL_S <= self.signal.silent_s:
            reason = f"{NO_SIGNAL_S:g} s of digital silence: is the microphone muted, or its volume at zero?"
            yield Block(mono[:0], notice=Notice("no signal", reason))
        elif before >= NO_SIGNAL_S > self.signal.silent_s:
            yield Block(mono[:0], notice=Notice("signal", f"sound again after {before:.0f} s"))

    def _fault_to_report(self, seconds: float) -> str | None:
        """A fault of the channels, once it has lasted; none again before it has been over."""
        (known, before_s), found = self._fault, self._mixer.fault
        lasted_s = seconds + (before_s if found == known else 0.0)
        self._fault = found, lasted_s
        return found if lasted_s >= CHANNELS_S > lasted_s - seconds else None

    def _measure(self, samples: Float, mono: Float, drift_ppm: float | None) -> Signal:
        """The signal after a block [frames, channels] that is mixed to ``mono`` [frames]."""
        before, seconds = self.signal, len(samples) / self.rate_hz
        channels = np.ascontiguousarray(samples.T)  # NumPy takes ten times as long where channels alternate
        highest, lowest = channels.max(axis=1), channels.min(axis=1)
        peak = max(float(highest.max()), -float(lowest.min()))
        clipped = int(np.count_nonzero(np.abs(channels).max(axis=0) >= CLIPPED)) if peak >= CLIPPED else 0
        return Signal(
            level_dbfs=_dbfs(math.sqrt(measure_power(mono))),
            peak_dbfs=_dbfs(peak),
            dc_offset=before.dc_offset
            + -math.expm1(-seconds / DC_S) * (float(mono.mean(dtype=np.float64)) - before.dc_offset),
            silent_s=before.silent_s + seconds if self._is_unchanged(highest, lowest) else 0.0,
            clipped=before.clipped + clipped,
            invalid=before.invalid,
            gaps=before.gaps,
            lost_s=before.lost_s,
            drift_ppm=drift_ppm,
            channel=None if self._mixer.alone is None else self._mixer.alone + 1,
        )

    def _is_unchanged(self, highest: Float, lowest: Float) -> bool:
        """Whether no channel changed, within the block of these extremes [channels] or since the last one."""
        held, self._held = self._held, highest
        return np.array_equal(highest, lowest) and (held is None or np.array_equal(highest, held))


def _dbfs(value: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(value)) if value > 0 else FLOOR_DBFS
