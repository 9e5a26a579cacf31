"""Chooses how much work each window gets.

While nothing stands out from the background, no engine runs and the last scores hold. When something does, the cheapest
size classifies the window. If that makes it a candidate, the size that the governor chose classifies it and the windows
after it, until they are no candidates any more. Every few seconds the cheapest size runs anyway, because a background
may become an event. docs/benchmarks/governor.md has the savings and the losses.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast_runtime.detection.framer import Window

Float = NDArray[np.float32]

Level = Literal["skip", "cheap", "sharp"]

CANDIDATE_SHARE = 0.25
"""Share of the way from an uninformative score to a label's threshold at which a window is a candidate.
docs/governor.md has what this saves and loses."""
STANDS_OUT = 4.0
"""Standard deviations by which a sound must exceed the background in one band.
Steady noise exceeds 4 once in 30,000 values."""
RETRY_S = 60.0
"""Seconds without the cheapest size after its engine failed"""
RECHECK_S = 10.0
"""Seconds of background after which the cheapest size runs on it"""


def candidate_threshold(thresholds: Float, spec: Spec) -> Float:
    """Scores [classes] at which a window becomes a candidate for an event."""
    nothing = np.float32(1 / len(thresholds) if spec.task == "single" and not spec.nothing_class else 0.0)
    return nothing + np.float32(CANDIDATE_SHARE) * (thresholds - nothing)


def is_ineffective(thresholds: Float, spec: Spec) -> bool:
    """Whether every window is a candidate: scores that sum to 1 cannot all be below bounds that sum to 1 or less."""
    return spec.task == "single" and not spec.nothing_class and float(candidate_threshold(thresholds, spec).sum()) <= 1


class Cascade:
    """The state of one stream. Call `level` once for each window, in order, and `update` with its scores."""

    def __init__(self, cheap: PatchSize, thresholds: Float, spec: Spec, step_s: float) -> None:
        """``thresholds`` [classes]: scores at which events begin."""
        self.cheap = cheap
        self._candidate_at = candidate_threshold(thresholds, spec)
        self._frontend, self._step_s = spec.frontend, step_s
        self._window_steps = math.ceil(spec.frontend.window_s / step_s)
        self._recheck_steps = round(RECHECK_S / step_s)
        self._failed_steps = 0
        self.skipped = 0
        """Windows that the chosen size did not run for"""
        self._candidate_windows = np.zeros(len(thresholds), np.int64)
        self.reset()

    @property
    def busiest_label(self) -> int | None:
        """The class that was a candidate most often, if no window was skipped."""
        return int(self._candidate_windows.argmax()) if self._candidate_windows.any() and not self.skipped else None

    def reset(self) -> None:
        """Forget the stream after a discontinuity: another place may follow."""
        self._background = Background(self._frontend, self._step_s)
        self._has_candidate = False
        self._quiet_steps = self._idle_steps = 0
        self.quiet: Float | None = None
        """Scores [classes] of the last window that an engine ran for, if it was no candidate"""

    def level(self, window: Window) -> Level:
        """Which engine the window needs: none, the cheapest or the chosen one."""
        stands_out = self._background.update(window.new, learn=not self._has_candidate) >= STANDS_OUT
        self._quiet_steps = 0 if stands_out else self._quiet_steps + 1  # since something last stood out
        self._idle_steps += 1
        self._failed_steps = max(0, self._failed_steps - 1)
        if self._has_candidate or self._failed_steps:
            return "sharp"
        if self.quiet is None or self._quiet_steps < self._window_steps or self._idle_steps > self._recheck_steps:
            return "cheap"
        return "skip"

    def record_failure(self) -> None:
        """The cheapest engine failed: the chosen one runs on every window for a while."""
        self._failed_steps = round(RETRY_S / self._step_s)

    def update(self, scores: Float) -> bool:
        """Take the scores of a window [classes]; returns whether it is a candidate."""
        candidates = scores >= self._candidate_at
        self._candidate_windows += candidates
        self._has_candidate = bool(candidates.any())
        self._idle_steps = 0
        self.quiet = None if self._has_candidate else scores
        return self._has_candidate


class Background:
    """Mean and variance of the log-mel in broad bands over the last seconds."""

    FRAMES, BINS = 5, 8
    """Frames and mel bins that are averaged before the comparison: 50 ms in one band"""
    MEMORY_S = 10.0
    """Time constant: a fan becomes background within half a minute, three of them."""
    MAX_DEVIATIONS = 4.0
    """Limit of a sound's influence on the background"""
    MIN_VARIANCE = 0.01
    """In nat squared: an electronic hum is steadier than any room, and nothing could pass its variance."""

    def __init__(self, frontend: FrontendSpec, step_s: float) -> None:
        self._share, self._steps = step_s / self.MEMORY_S, 0
        self._edges = np.arange(0, frontend.mel_bins, self.BINS)
        self._scale = 2 * frontend.std / np.diff(self._edges, append=frontend.mel_bins)  # to nat, and from sum to mean
        self._mean, self._variance = np.zeros(len(self._edges)), np.full(len(self._edges), 0.1)

    def update(self, features: Float, *, learn: bool) -> float:
        """New features [frames, mels] → deviations above the background. With ``learn`` they become part of it."""
        bands = self._bands(features)
        if not self._steps:
            self._mean = bands.mean(axis=0)
        deviation = np.sqrt(self._variance)
        above = (bands - self._mean) / deviation
        if learn:
            self._learn(above, deviation)
        return float(above.max())

    def _learn(self, above: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
        self._steps += 1
        share = max(self._share, 1 / self._steps) if self._steps <= 20 else self._share  # a new background learns fast
        part = np.clip(above, -self.MAX_DEVIATIONS, self.MAX_DEVIATIONS) * deviation
        self._mean = self._mean + share * part.mean(axis=0)
        self._variance = np.maximum((1 - share) * self._variance + share * (part**2).mean(axis=0), self.MIN_VARIANCE)

    def _bands(self, features: Float) -> NDArray[np.float64]:
        """[stretches, bands] in nat. Frames beyond the last full stretch are ignored, unless there is no full one."""
        frames = max(1, len(features) // self.FRAMES) * self.FRAMES
        stretches = features[:frames].reshape(max(1, len(features) // self.FRAMES), -1, features.shape[1]).mean(axis=1)
        return self._scale * np.add.reduceat(stretches.astype(np.float64), self._edges, axis=1)
