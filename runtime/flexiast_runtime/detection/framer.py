"""Samples → windows of features. Every step gives the last window of audio; only its new frames are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.frontend import FeatureStream, Frontend

Float = NDArray[np.float32]

BUFFERED_WINDOWS = 4
"""Windows that a buffer of frames has room for: most steps then copy their new frames only."""


@dataclass(frozen=True)
class Window:
    """Audio classified at once; sample numbers count from the start of the stream."""

    start: int
    end: int
    """One past its last real sample; before start + window when the audio ended earlier."""
    features: Float
    """[window_frames, mels]"""
    first: bool
    """Whether it is the first one since the stream started or broke off"""
    new: Float
    """[new frames, mels], those that no earlier window held; bin means are in them"""


class Framer:
    """Cuts an unbroken stream into windows; no window spans a discontinuity."""

    def __init__(self, frontend: Frontend, step_samples: int) -> None:
        spec = frontend.spec
        longest = spec.window_frames * spec.hop_samples  # a longer step would leave frames between two windows
        if not 0 < step_samples <= longest or step_samples % spec.hop_samples:
            raise UsageError(
                f"a step of {step_samples / spec.sample_rate_hz:g} s cannot be used; give a multiple of "
                f"{spec.hop_samples / spec.sample_rate_hz:g} s, at most {longest / spec.sample_rate_hz:g} s"
            )
        self._frontend = frontend
        self._step = step_samples
        self._step_frames = step_samples // spec.hop_samples
        self._stream = FeatureStream(frontend)
        self.restart(0)

    def restart(self, start: int) -> None:
        """Begin at a sample number: of the stream, or of what follows a discontinuity."""
        self.end = start
        """One past the last sample pushed."""
        self._start, self._first = start, True
        self._buffer: Float = np.empty((0, self._frontend.spec.mel_bins), np.float32)
        self._held = slice(0, 0)  # frames of the buffer that a window may still need
        self._waiting: list[Float] = []
        self._stream.reset()

    @property
    def next_window(self) -> tuple[int, bool]:
        """Where the next window starts, and whether it is the first one since the stream started or broke off."""
        return self._start, self._first

    def renormalise(self, frontend: Frontend) -> None:
        """Go on with a front end that differs in mean and std only; the frames held are converted.

        Their rounding differs from that of frames computed anew, by 1e-6 of a deviation.
        """
        before, after = self._frontend.spec, frontend.spec
        self._compute()
        self._stream.renormalise(frontend)
        self._frontend = frontend
        if (before.mean, before.std) != (after.mean, after.std):  # a new buffer: windows are views of the old one
            log_mel = self._buffer[self._held] * np.float32(2 * before.std) + np.float32(before.mean)
            self._buffer = frontend.normalise(log_mel)
            self._held = slice(0, len(self._buffer))

    def push(self, samples: Float) -> Iterator[Window]:
        """The next samples → the windows they complete. The array must not change until then."""
        spec = self._frontend.spec
        self.end += len(samples)
        self._waiting.append(samples)
        if self.end - self._start >= spec.window_samples:
            self._compute()
        while self.end - self._start >= spec.window_samples:
            yield self._cut(self._start + spec.window_samples)

    def flush(self) -> Iterator[Window]:
        """Audio that no window held yet, padded with the floor; at most one window."""
        self._compute()
        if len(self._buffer[self._held]) > self._known_frames:
            yield self._cut(self.end)

    def _compute(self) -> None:
        """Features of the blocks that wait, at once: a file's are short, and a call costs dozens of frames."""
        if not self._waiting:
            return
        new = self._stream.push(np.concatenate(self._waiting))
        self._waiting.clear()
        end = self._held.stop + len(new)
        if end > len(self._buffer):
            held = self._buffer[self._held]
            end = len(held) + len(new)
            # Windows are views of the buffer, which is never written twice: a full one makes room for a new one.
            room = max(end, BUFFERED_WINDOWS * self._frontend.spec.window_frames)
            self._buffer = np.empty((room, self._frontend.spec.mel_bins), np.float32)
            self._buffer[: len(held)] = held
            self._held = slice(0, len(held))
        self._buffer[self._held.stop : end] = new
        self._held = slice(self._held.start, end)

    @property
    def _known_frames(self) -> int:
        """Frames held that the last window held as well."""
        return 0 if self._first else self._frontend.spec.window_frames - self._step_frames

    def _cut(self, end: int) -> Window:
        frames = self._buffer[self._held][: self._frontend.spec.window_frames]
        new = frames[self._known_frames :].copy()  # a view would keep the whole window in memory
        window = Window(self._start, end, self._frontend.pad(frames), self._first, new)
        self._held = slice(min(self._held.start + self._step_frames, self._held.stop), self._held.stop)
        self._start, self._first = self._start + self._step, False
        return window
