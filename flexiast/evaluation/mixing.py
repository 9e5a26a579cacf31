"""Clips mixed at random into backgrounds: streams whose events are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import numpy as np

from flexiast.arrays import Float
from flexiast.evaluation.events import Sound

LEVEL_DBFS = -26.0
"""Root mean square of what can be heard of a clip; that of speech in telephone tests (ITU-T P.56)."""
AUDIBLE_DB = 40
"""What is further below a clip's loudest moment does not belong to its event."""
STREAM_S = 60.0
"""Length of a stream, less what is left over."""
FADE_S = 0.01
"""So that no click stands where two recordings meet."""

QUIET = float("inf")
"""In the place of an SNR: a quiet room, pink noise ``QUIET_SNR_DB`` below the clips."""
QUIET_SNR_DB = 40.0
QUIET_KIND = "quiet room"

T = TypeVar("T")


@dataclass(frozen=True)
class MixedStream:
    """Audio [samples], its events, and the clips without a label in it."""

    kind: str
    """Of its background"""
    snr_db: float
    waveform: Float
    events: tuple[Sound, ...]
    others: tuple[Sound, ...]


def trim_to_audible(waveform: Float, rate_hz: int) -> Float:
    """From the first to the last 10 ms that are within ``AUDIBLE_DB`` of the loudest; nothing of silence."""
    size = rate_hz // 100
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    power = (frames.astype(np.float64) ** 2).mean(axis=1)
    if not power.any():
        return waveform[:0]
    audible = np.flatnonzero(power > power.max() * 10 ** (-AUDIBLE_DB / 10))
    return waveform[audible[0] * size : (audible[-1] + 1) * size]


def make_pink_noise(samples: int, rng: np.random.Generator) -> Float:
    """Noise of equal power in each octave, of root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.sqrt((noise**2).mean())).astype(np.float32)


def scale_to(waveform: Float, level_dbfs: float) -> Float:
    """At that root mean square; silence stays."""
    rms = float(np.sqrt((waveform.astype(np.float64) ** 2).mean())) if len(waveform) else 0.0
    return waveform * np.float32(10 ** (level_dbfs / 20) / rms) if rms > 0 else waveform


def choose_clips(labels: Sequence[str], most: int, seed: int) -> list[int]:
    """At most so many places, as many of each label as there are, in random order."""
    rng = np.random.default_rng(seed)
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for place in rng.permutation(len(labels)):
        by_label[labels[place]].append(int(place))
    turns = [place for turn in range(len(labels)) for own in by_label.values() for place in own[turn : turn + 1]]
    return [turns[number] for number in rng.permutation(min(most, len(turns)))]


def mix_streams(
    clips: Sequence[tuple[str, Float]],
    backgrounds: Mapping[str, Sequence[Float]],
    snr_db: float,
    *,
    rate_hz: int,
    gap_s: float,
    seed: int,
    level_dbfs: float = LEVEL_DBFS,
) -> Iterator[MixedStream]:
    """Every clip (label and waveform; "" for no label) once, at ``snr_db`` above the background.

    Clips stand ``gap_s`` apart and, by chance, more. Kinds of background take turns. The same seed gives the same
    clips at the same places of the same backgrounds at every SNR. Silent clips are left out.
    """
    rng, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    orders = {
        kind: _endless(backgrounds[kind], np.random.default_rng((seed, number)))
        for number, kind in enumerate(sorted(backgrounds))
    }
    kinds = cycle(sorted(backgrounds) if snr_db != QUIET else [QUIET_KIND])
    waiting = [(label, sound) for label, waveform in clips if len(sound := trim_to_audible(waveform, rate_hz))]
    while waiting:
        kind = next(kinds)
        placed, sounds = 0, []
        while waiting and placed < STREAM_S * rate_hz:
            label, sound = waiting.pop(0)
            start = placed + round((gap_s + rng.exponential(gap_s / 2)) * rate_hz)
            placed = start + len(sound)
            sounds.append((label, start, sound))
        samples = placed + round(gap_s * rate_hz)
        if kind == QUIET_KIND:
            bed = scale_to(make_pink_noise(samples, noise), level_dbfs - QUIET_SNR_DB)
        else:
            bed = _join(orders[kind], samples, rate_hz, level_dbfs - snr_db)
        for _, start, sound in sounds:
            bed[start : start + len(sound)] += scale_to(sound, level_dbfs)
        spans = [
            (label, Sound(label, start / rate_hz, (start + len(sound)) / rate_hz)) for label, start, sound in sounds
        ]
        yield MixedStream(
            kind,
            snr_db,
            np.clip(bed, -1, 1),
            tuple(span for label, span in spans if label),
            tuple(span for label, span in spans if not label),
        )


def _endless(items: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """All items in random order, and so again for ever."""
    while True:
        yield from (items[int(place)] for place in rng.permutation(len(items)))


def _join(pieces: Iterator[Float], samples: int, rate_hz: int, level_dbfs: float) -> Float:
    """Recordings one after the other, each at the level, faded where they meet."""
    fade = np.linspace(0, 1, round(FADE_S * rate_hz), dtype=np.float32)
    joined, length = [], 0
    while length < samples:
        piece = scale_to(next(pieces), level_dbfs)[: samples - length].copy()
        if len(piece) >= 2 * len(fade):
            piece[: len(fade)] *= fade
            piece[-len(fade) :] *= fade[::-1]
        joined.append(piece)
        length += len(piece)
    return np.concatenate(joined)
