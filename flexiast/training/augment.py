"""Augmentations of log-mel spectrograms: functions of (input, rng), so that a batch is a pure function of its step.

In the log-mel domain a gain and a filter are sums, mixing adds energies, and a clip is transformed once for all
epochs instead of once for each: a batch costs a tenth of what it costs from the waveform.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.frontend import AUDIBLE_DB, Frontend, mel_centres_hz
from flexiast.spec import LOG_FLOOR

SILENCE = np.float32(math.log(LOG_FLOOR))
"""Log-mel of digital silence."""

FLOOR_NAT = 0.02
"""Within so much of digital silence a bin holds nothing: float16 rounds it by up to 0.004."""

NAT_PER_DB = math.log(10) / 10
"""Energies: 10 dB are a factor of ten."""

FILTER_KNOTS = 6

LONG = 1.25
"""Windows that a clip lasts at least to be cut where something sounds: one of a single window is moved as a whole, at
whatever speed it plays."""

DECAY_S = (0.2, 0.6)
"""Seconds in which an echo falls by 60 dB: from a furnished room to a tiled one."""
DIRECT_DB = (0.0, 15.0)
"""Sound above echo: from across the room to near the microphone."""


def place(log_mel: Float, frames: int, shift: float, rng: np.random.Generator) -> tuple[Float, slice]:
    """Log-mel [any, mels] → [frames, mels] at a random place, silence around it; and where the clip's frames are.

    A clip moves by up to ``shift`` of the window past either end; half of it, or of the window, stays inside.
    """
    slack, reach = frames - len(log_mel), min(int(shift * frames), min(len(log_mel), frames) // 2)
    start = int(rng.integers(min(slack, 0) - reach, max(slack, 0) + reach + 1))
    real = slice(max(start, 0), min(start + len(log_mel), frames))
    window = np.full((frames, log_mel.shape[1]), SILENCE, np.float32)
    window[real] = log_mel[real.start - start : real.stop - start]
    return window, real


def place_audible(log_mel: Float, frames: int, rng: np.random.Generator) -> tuple[Float, slice]:
    """Log-mel [any, mels] → [frames, mels] with what is audible of it anywhere inside; and where the clip's frames are.

    What is audible of a longer clip fills the window.
    """
    audible = audible_part(log_mel)
    ends = sorted((-audible.start, frames - audible.stop))
    start = int(rng.integers(ends[0], ends[1] + 1))
    real = slice(max(start, 0), min(start + len(log_mel), frames))
    window = np.full((frames, log_mel.shape[1]), SILENCE, np.float32)
    window[real] = log_mel[real.start - start : real.stop - start]
    return window, real


def audible_part(log_mel: Float) -> slice:
    """Frames [frames, mels] from the first to the last that is within 30 dB of the loudest."""
    loudness = np.logaddexp.reduce(log_mel, axis=1)
    loud = np.flatnonzero(loudness >= loudness.max() - AUDIBLE_DB * NAT_PER_DB)
    return slice(int(loud[0]), int(loud[-1]) + 1)


def find_audible(log_mel: Float) -> NDArray[np.intp]:
    """Numbers of the frames [frames, mels] of which the loudest bin is within 30 dB of the loudest of all."""
    peaks = log_mel.max(axis=1)
    return np.flatnonzero(peaks >= peaks.max() - AUDIBLE_DB * NAT_PER_DB)


def cut_audible(log_mel: Float, frames: int, rng: np.random.Generator) -> Float:
    """A long clip [any, mels] → [frames, mels] around any frame within 30 dB of the loudest; a shorter one as it is.

    The sound that a recording of minutes is labelled by may last a second of it.
    """
    if len(log_mel) <= LONG * frames:
        return log_mel
    sounding = int(rng.choice(find_audible(log_mel)))
    start = int(np.clip(sounding - rng.integers(frames), 0, len(log_mel) - frames))
    return log_mel[start : start + frames]


def half(log_mel: Float, rng: np.random.Generator) -> Float:
    """The first or the last 35 to 50 % of what is audible of a clip [frames, mels], as if the rest were not heard."""
    audible = audible_part(log_mel)
    length = max(1, round((audible.stop - audible.start) * rng.uniform(0.35, 0.5)))
    return log_mel[: audible.start + length] if rng.random() < 0.5 else log_mel[audible.stop - length :]


def echo(log_mel: Float, hop_s: float, rng: np.random.Generator) -> Float:
    """A window [frames, mels] as in a small room: energies decay by 60 dB in 0.2 to 0.6 s, sound above echo 0 to 15 dB.

    Late reverberation is noise of decaying energy, so that energies add; high bins decay twice as fast as low ones.
    """
    frames, mels = log_mel.shape
    decay_s = rng.uniform(*DECAY_S) * np.linspace(1, 0.5, mels)
    remaining = 10.0 ** (-6 * hop_s / decay_s)  # of the energy, from frame to frame
    reach = min(frames, round(DECAY_S[1] / 2 / hop_s))  # 30 dB down and more
    direct = np.exp(log_mel.astype(np.float64))
    energy = np.maximum(direct - LOG_FLOOR, 0)  # silence has no echo
    tail, power, shift = energy, remaining, 1
    while shift < reach:  # the sum over all frames before, by doubling
        tail = np.concatenate((tail[:shift], tail[shift:] + power * tail[:-shift]))
        power, shift = power**2, 2 * shift
    wet = (1 - remaining) * (tail - energy) * 10 ** (-rng.uniform(*DIRECT_DB) / 10)
    return np.maximum(np.log(direct + wet), SILENCE).astype(np.float32)


def gain(log_mel: Float, limit_db: float, rng: np.random.Generator) -> Float:
    """Louder or softer by up to the limit; nothing sinks below silence."""
    return shift_level(log_mel, np.float32(rng.uniform(-limit_db, limit_db) * NAT_PER_DB))


def shift_level(log_mel: Float, nat: Float | np.float32) -> Float:
    """Add a level in nat, one number or one for each bin. Digital silence stays, and nothing falls below it."""
    return np.where(log_mel > SILENCE + FLOOR_NAT, np.maximum(log_mel + nat, SILENCE), SILENCE)


def equalise(log_mel: Float, limit_db: float, rng: np.random.Generator) -> Float:
    """A filter that is a random polygon over the mel bins, within the limit everywhere."""
    mels = log_mel.shape[1]
    knots = np.sort(np.concatenate(([0, mels - 1], rng.uniform(0, mels - 1, FILTER_KNOTS - 2))))
    response = np.interp(np.arange(mels), knots, rng.uniform(-limit_db, limit_db, FILTER_KNOTS))
    return shift_level(log_mel, (response * NAT_PER_DB).astype(np.float32))


def mix_log_mel(log_mel: Float, other: Float) -> Float:
    """The log-mel of two unrelated sounds at once [frames, mels], one of which may be −∞; as ``np.logaddexp``.

    That one takes nine times as long, half of what a batch took: numpy has vector code for exp and log alone.
    """
    louder = np.maximum(log_mel, other)
    return louder + np.log(1 + np.exp(np.minimum(log_mel, other) - louder))


def mix(log_mel: Float, other: Float, share: float) -> Float:
    """The log-mel of ``share`` · one waveform + (1 − ``share``) · the other [frames, mels], if they are unrelated.

    Energies add: the cross terms of unrelated sounds vanish on average. Nothing sinks below silence.
    """
    quiet = np.float32(2 * math.log(max(1 - share, 1e-6)))
    return np.maximum(mix_log_mel(log_mel + np.float32(2 * math.log(share)), other + quiet), SILENCE)


def mask(features: Float, masks: int, widest: float, fill: float, rng: np.random.Generator) -> Float:
    """SpecAugment (arXiv 1904.08779) on [frames, mels]: so many masks along each axis, filled with ``fill``.

    Widths are uniform from 0 to the share ``widest`` of the axis.
    """
    masked = features.copy()
    for axis in (masked, masked.T) * masks:  # views: rows of the one are frames, of the other mel bins
        width = int(rng.integers(0, int(widest * len(axis)) + 1))
        start = int(rng.integers(0, len(axis) - width + 1))
        axis[start : start + width] = fill
    return masked


NOISE_S = 60.0
TILTS_DB = (-9.0, 3.0)
"""Per octave: from darker than brown noise (-6), as wind and engines are, over pink (-3) to brighter than white (0)."""


class Noise:
    """Log-mels of steady noise that is different each time: a stretch of white noise, tilted and filtered.

    A filter that changes little within a mel bin adds its gain to the log-mel, so nothing is transformed again.
    """

    def __init__(self, frontend: Frontend, seed: int) -> None:
        spec = frontend.spec
        samples = max(round(NOISE_S * spec.sample_rate_hz), 2 * spec.window_samples)
        white = 0.1 * np.random.default_rng(seed).standard_normal(samples)
        self._white = frontend.log_mel(white.astype(np.float32))
        self._empty = self._white[0] <= SILENCE  # filters narrower than a bin of the FFT, which nothing fills
        octaves = np.log2(np.maximum(mel_centres_hz(spec), spec.low_hz) / 1_000)
        self._octaves = (octaves * NAT_PER_DB).astype(np.float32)

    def __call__(self, frames: int, filter_db: float, rng: np.random.Generator) -> Float:
        """Log-mel [frames, mels] at no particular level, −∞ where a filter is empty."""
        start = int(rng.integers(0, len(self._white) - frames + 1))
        tilted = self._white[start : start + frames] + np.float32(rng.uniform(*TILTS_DB)) * self._octaves
        noise = equalise(tilted, filter_db, rng)
        noise[:, self._empty] = -np.inf
        return noise


class Loudness:
    """Levels of log-mels in dBFS, that is of the waveform's mean square, as far as its mel bins tell."""

    def __init__(self, frontend: Frontend) -> None:
        spec = frontend.spec
        taper = np.hanning(spec.taper_samples)
        omega = 2 * np.pi * mel_centres_hz(spec) / spec.sample_rate_hz
        emphasis = 1 + spec.preemphasis**2 - 2 * spec.preemphasis * np.cos(omega)
        # Parseval: energies of the positive frequencies, which neighbouring triangles share, are half of all.
        self._weights = 2 / (emphasis * spec.fft_samples * (taper**2).sum())

    def dbfs(self, log_mel: Float) -> float:
        """Mean level of frames [frames, mels]."""
        square = float((np.exp(log_mel.astype(np.float64)) @ self._weights).mean())
        return 10 * math.log10(max(square, 1e-20))

    def set(self, log_mel: Float, dbfs: float) -> Float:
        """The same at another mean level."""
        return shift_level(log_mel, np.float32((dbfs - self.dbfs(log_mel)) * NAT_PER_DB))


def level(log_mel: Float) -> float:
    """Natural log of the mean energy of a frame [frames, mels]."""
    peak = float(log_mel.max())
    return peak + math.log(float(np.exp(log_mel - np.float32(peak)).sum(axis=1).mean()))


def scale_to_snr(noise: Float, snr_db: float, sound: Float) -> Float:
    """Noise [frames, mels] so far below the mean level of a sound [any frames, mels]; it may sink below silence."""
    return noise + np.float32(level(sound) - level(noise) - snr_db * NAT_PER_DB)
