"""Waveform → log-mel features, Kaldi-compatible, in numpy; streaming and offline are the same code.

A frame depends on its own 400 samples only: Kaldi removes the mean, pre-emphasises and tapers each frame by itself.
So features never need the clip as a whole, and subtracting the waveform's mean first, as AST does, changes nothing.
Reference: ``torchaudio.compliance.kaldi.fbank`` with ``htk_compat``, ``hanning``, ``dither=0``, 128 bins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.spec import LOG_FLOOR, FrontendSpec

AUDIBLE_DB = 30.0
"""Down to so far under the loudest 10 ms of a clip: a word's last consonant is there, a room's noise seldom."""

CHUNK_FRAMES = 64
"""Frames transformed at once: 64 × 512 float32 stay in a second-level cache."""


class Frontend:
    """Features of one spec; holds constants only, so one object serves any number of streams.

    ``floor`` is the normalised value of silence: what clips and grids are padded with. Each frame is multiplied with
    ``taper`` [taper_samples].
    """

    def __init__(self, spec: FrontendSpec) -> None:
        self.spec = spec
        self.floor = float(self.normalise(np.log(np.float32(LOG_FLOOR))))
        self.taper: Double = np.hanning(spec.taper_samples)
        self._filters = mel_filters(spec)

    def __call__(self, waveform: Float) -> Float:
        """Waveform [samples] in [-1, 1] → normalised features [frames, mels]; whole frames only."""
        return self.normalise(self.log_mel(waveform))

    def window(self, waveform: Float) -> Float:
        """Waveform [samples] → features of one window [window_frames, mels].

        A shorter waveform is padded with the floor at its end; of a longer one the first window is taken.
        """
        return self.pad(self(waveform[: self.spec.window_samples]))

    def pad(self, features: Float) -> Float:
        """Features [1 … window_frames, mels] → one window [window_frames, mels], padded with the floor at the end.

        Bin means, where the spec removes them, are those of the frames given.
        """
        missing = self.spec.window_frames - len(features)
        features = self.finish(features, slice(0, len(features)))
        return np.pad(features, ((0, missing), (0, 0)), constant_values=self.floor) if missing else features

    def finish(self, features: Float, real: slice) -> Float:
        """A window [frames, mels] of which the frames ``real`` hold sound → the same without its bin means.

        Only where the spec removes them; frames that hold no sound stay at the floor.
        """
        if not self.spec.remove_bin_means or real.start == real.stop:
            return features
        finished = np.full_like(features, self.floor)
        finished[real] = features[real] - features[real].mean(axis=0)
        return finished

    def log_mel(self, waveform: Float) -> Float:
        """Waveform [samples] → natural log of mel energies [frames, mels]."""
        frames = self.spec.frames_in(len(waveform))
        log_mel = np.empty((frames, self.spec.mel_bins), np.float32)
        for start in range(0, frames, CHUNK_FRAMES):
            chunk = log_mel[start : start + CHUNK_FRAMES]
            first = start * self.spec.hop_samples
            end = first + (len(chunk) - 1) * self.spec.hop_samples + self.spec.taper_samples
            self._log_mel_of_frames(waveform[first:end], chunk)
        return log_mel

    def normalise(self, log_mel: Float) -> Float:
        """Log-mel → features, (log-mel − mean) / (2 · std), as in AST."""
        return (log_mel - np.float32(self.spec.mean)) / np.float32(2 * self.spec.std)

    def _log_mel_of_frames(self, waveform: Float, out: Float) -> None:
        """Samples of exactly as many frames as ``out`` [frames, mels] holds → their log-mel, written there."""
        # In float32 the mean and the FFT leave errors of 2e-3 nat in quiet bins beside loud ones; float64 costs 10 %.
        samples = np.asarray(waveform, np.float64)
        emphasised = samples.copy()  # of each frame the first sample is 0 under the taper
        emphasised[1:] -= self.spec.preemphasis * samples[:-1]
        # Frames overlap, so the samples are emphasised once; then each frame's mean is taken from what became of it.
        means = self._view_frames(samples, len(out)).mean(axis=1, keepdims=True)
        framed = self._view_frames(emphasised, len(out)) - (1 - self.spec.preemphasis) * means
        framed *= self.taper
        spectrum = np.fft.rfft(framed, n=self.spec.fft_samples)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        np.matmul(power, self._filters, out=out)
        np.maximum(out, np.float32(LOG_FLOOR), out=out)
        np.log(out, out=out)

    def _view_frames(self, samples: Double, frames: int) -> Double:
        """A view [frames, taper samples] of contiguous samples; numpy's own views take longer to make than to use."""
        size = samples.itemsize
        shape = frames, self.spec.taper_samples
        return np.ndarray(shape, samples.dtype, samples, strides=(size * self.spec.hop_samples, size))


class FeatureStream:
    """Features of a waveform that arrives in blocks; holds the samples of the frame not yet whole."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._pending = np.empty(0, np.float32)

    def push(self, block: Float) -> Float:
        """Block [samples] → the features [new frames, mels] that it completes."""
        samples = np.concatenate((self._pending, block))
        features = self._frontend(samples)
        self._pending = samples[len(features) * self._frontend.spec.hop_samples :]
        return features

    def renormalise(self, frontend: Frontend) -> None:
        """Go on with a front end that differs in mean and std only; the samples that are pending stay."""
        self._frontend = frontend

    def reset(self) -> None:
        """Forget what is pending: the next block follows a gap."""
        self._pending = np.empty(0, np.float32)


@lru_cache(maxsize=8)
def mel_filters(spec: FrontendSpec) -> Float:
    """Triangular filters [fft_samples // 2 + 1, mels] on Kaldi's mel scale, 1127 · ln(1 + f / 700).

    Some of AST's 128 low filters are narrower than a bin of the 512-point FFT and stay empty; their energy is the
    floor. Checkpoints expect that, so it stays.
    """
    bins = np.arange(spec.fft_samples // 2) * spec.sample_rate_hz / spec.fft_samples
    edges = _mel_edges(spec).astype(np.float32)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(bins).astype(np.float32)[:, None]  # float32 as in Kaldi: narrow filters feel its last digit
    triangles = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    filters = np.zeros((len(bins) + 1, spec.mel_bins), np.float32)  # Kaldi leaves the Nyquist bin out
    filters[:-1] = np.maximum(triangles, 0)
    filters.setflags(write=False)
    return filters


def mel_centres_hz(spec: FrontendSpec) -> Double:
    """Where each filter peaks [mels]."""
    return 700.0 * np.expm1(_mel_edges(spec)[1:-1] / 1127.0)


def _mel_edges(spec: FrontendSpec) -> Double:
    """Where the filters begin, peak and end, in mel [mels + 2]."""
    return np.linspace(_mel(spec.low_hz), _mel(spec.high_hz), spec.mel_bins + 2)


def _mel(hz: float | Double) -> Double:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)
