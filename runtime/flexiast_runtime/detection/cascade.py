"""Chooses how much work each window gets.

While nothing stands out from the background, no engine runs and the last scores hold. When something does, the cheapest
size classifies the window. If that makes it a candidate, the size that the governor chose classifies it and the windows
after it, until they are no candidates any more. Steady rain may be a candidate for hours: while nothing at all has
changed for a whole window, louder or quieter, its last scores hold too. Every few seconds an engine runs anyway,
because a background may become an event, and a slow change may stay below what counts as one.
docs/benchmarks/governor.md has the savings and the losses.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast_runtime.detection.framer import Window

Float = NDArray[np.float32]
Float64 = NDArray[np.float64]

Level = Literal["skip", "cheap", "sharp"]

CANDIDATE_SHARE = 0.25
"""Share of the way from an uninformative score to a label's threshold at which a window is a candidate.
docs/benchmarks/governor.md has what this saves and loses."""
STANDS_OUT = 4.0
"""Standard deviations by which a sound must exceed the background in one band.
Steady noise exceeds 4 once in 30,000 values."""
CHANGES = 5.0
"""Deviations, up or down, at which steady sound has changed. Silent moments are deeper than loud ones are high: of half
seconds of white noise 4 % reach −4, none in five minutes −5."""
RETRY_S = 60.0
"""Seconds without the cheapest size after its engine failed"""
RECHECK_S = 10.0
"""Seconds after which an engine runs on what has not changed: no score is older"""
RECENT_S = 10.0
"""Seconds of sound that are compared with each other: twenty steps of half a second know their spread within a tenth"""
SETTLED_VARIANCE = 0.25
"""In nat squared. Right after a change the spread is wide, and hides the next one; steady noise has a tenth of this."""
MIN_VARIANCE = 0.01
"""In nat squared: an electronic hum is steadier than any room, and nothing could pass its variance."""
REVIEW_S = 120.0
"""Seconds after which a cascade is asked whether it saves anything"""
PAUSE_S = 600.0
"""Seconds without a cascade that saved nothing"""


def candidate_threshold(thresholds: Float, spec: Spec) -> Float:
    """Scores [classes] at which a window becomes a candidate for an event."""
    nothing = np.float32(1 / len(thresholds) if spec.task == "single" and not spec.nothing_class else 0.0)
    return nothing + np.float32(CANDIDATE_SHARE) * (thresholds - nothing)


class Cascade:
    """The state of one stream. Call `level` once for each window, in order, and `update` with its scores."""

    def __init__(self, cheap: PatchSize, thresholds: Float, spec: Spec, step_s: float) -> None:
        """``thresholds`` [classes]: scores at which events begin. ``cheap`` may be the only size there is."""
        self.cheap = cheap
        self._candidate_at = candidate_threshold(thresholds, spec)
        self._frontend, self._step_s, self._bands = spec.frontend, step_s, Bands(spec.frontend)
        self._window_steps = math.ceil(spec.frontend.window_s / step_s)
        self._recheck_steps = round(RECHECK_S / step_s)
        self._failed_steps = 0
        self.skipped = 0
        """Windows that the chosen size did not run for"""
        self.is_paused = False
        """Whether it has saved nothing lately, and every window runs"""
        self.wasted = 0
        """Times that the cheapest size ran and the chosen one after it"""
        self._windows = self._reviewed = 0
        self._saved_before = 0
        self._candidate_windows = np.zeros(len(thresholds), np.int64)
        self.reset()

    @property
    def busiest_label(self) -> int | None:
        """The class that was a candidate most often, if no window was skipped from the first review on."""
        found = self._candidate_windows.any() and not self.skipped and self._reviewed
        return int(self._candidate_windows.argmax()) if found else None

    def reset(self) -> None:
        """Forget the stream after a discontinuity: another place may follow."""
        self._background = Background(self._frontend, self._step_s)  # what no candidate is part of
        self._recent = RecentSound(self._frontend, self._step_s)  # whatever it was
        self._has_candidate = False
        self._quiet_steps = self._idle_steps = 0
        self.last: tuple[PatchSize, Float] | None = None
        """Scores [classes] of the last window that an engine ran for, and the size that gave them"""

    def level(self, window: Window) -> Level:
        """Which engine the window needs: none, the cheapest or the chosen one."""
        if self._review():
            return "sharp"
        bands = self._bands(window.new)
        stands_out = self._background.update(bands, learn=not self._has_candidate) >= STANDS_OUT
        self._recent.update(bands)
        is_quiet = not stands_out and self._background.is_settled
        self._quiet_steps = self._quiet_steps + 1 if is_quiet else 0  # since something last stood out, or may have
        self._idle_steps += 1
        self._failed_steps = max(0, self._failed_steps - 1)
        is_quiet = self._quiet_steps >= self._window_steps
        may_hold = self.last is not None and (self._recent.is_steady if self._has_candidate else is_quiet)
        if self._failed_steps or (self._has_candidate and not may_hold):
            return "sharp"
        if may_hold and self._idle_steps <= self._recheck_steps:
            return "skip"
        return "sharp" if self._has_candidate else "cheap"

    def _review(self) -> bool:
        """Whether it is paused, because since the last review it has cost more windows than it has saved, or none."""
        self._windows += 1
        if (self._windows - self._reviewed) * self._step_s >= (PAUSE_S if self.is_paused else REVIEW_S):
            was_paused, saved = self.is_paused, self.skipped - self.wasted
            self.is_paused = not was_paused and saved <= self._saved_before
            self._reviewed, self._saved_before = self._windows, saved
            if self.is_paused != was_paused:
                self.reset()
        return self.is_paused

    def record_failure(self) -> None:
        """The cheapest engine failed: the chosen one runs on every window for a while."""
        self._failed_steps = round(RETRY_S / self._step_s)

    def update(self, scores: Float, patch: PatchSize) -> bool:
        """Take the scores of a window [classes] from an engine; returns whether it is a candidate."""
        candidates = scores >= self._candidate_at
        self._candidate_windows += candidates
        self._has_candidate = bool(candidates.any())
        self._idle_steps = 0
        self.last = patch, scores
        return self._has_candidate


class Bands:
    """Features → the log-mel in broad bands, in nat."""

    FRAMES, BINS = 5, 8
    """Frames and mel bins that are averaged: 50 ms in one band"""

    def __init__(self, frontend: FrontendSpec) -> None:
        self._edges = np.arange(0, frontend.mel_bins, self.BINS)
        self._scale = 2 * frontend.std / np.diff(self._edges, append=frontend.mel_bins)  # to nat, and from sum to mean

    def __len__(self) -> int:
        return len(self._edges)

    def __call__(self, features: Float) -> Float64:
        """[frames, mels] → [stretches, bands]. Frames beyond the last full stretch are ignored, unless none is full."""
        count = max(1, len(features) // self.FRAMES)
        parts = features[: count * self.FRAMES].reshape(count, -1, features.shape[1])
        sums = np.add.reduceat(np.add.reduce(parts, axis=1, dtype=np.float64), self._edges, axis=1)
        scaled: Float64 = sums * (self._scale / parts.shape[1])
        return scaled


class Background:
    """Mean and variance of each band of what is background, over the last seconds; older sound is forgotten slowly."""

    MEMORY_S = 10.0
    """Time constant: a fan becomes background within half a minute, three of them."""
    NEW_STEPS = 20
    """Steps in which a new background learns fast"""
    MAX_DEVIATIONS = 4.0
    """Limit of a sound's influence on the background"""

    def __init__(self, frontend: FrontendSpec, step_s: float) -> None:
        self._share, self._steps = step_s / self.MEMORY_S, 0
        bands = len(Bands(frontend))
        self._mean, self._variance = np.zeros(bands), np.full(bands, 0.1)

    @property
    def is_settled(self) -> bool:
        """Whether the spread is known, and that of steady sound, so that a change would show."""
        return self._steps > self.NEW_STEPS and float(self._variance.max()) <= SETTLED_VARIANCE

    def update(self, bands: Float64, *, learn: bool) -> float:
        """New sound [stretches, bands] → deviations above the background. With ``learn`` it becomes part of it."""
        if not self._steps:
            self._mean = _mean(bands)
        deviation = np.sqrt(self._variance)
        above = (bands - self._mean) / deviation
        if learn:
            self._learn(above, deviation)
        return float(above.max())

    def _learn(self, above: Float64, deviation: Float64) -> None:
        self._steps += 1
        share = max(self._share, 1 / self._steps) if self._steps <= self.NEW_STEPS else self._share
        part = np.clip(above, -self.MAX_DEVIATIONS, self.MAX_DEVIATIONS) * deviation
        self._mean = self._mean + share * _mean(part)
        self._variance = np.maximum((1 - share) * self._variance + share * _mean(part * part), MIN_VARIANCE)


class RecentSound:
    """All that sounded in the last ten seconds, and nothing older: a sound that is over leaves no trace."""

    def __init__(self, frontend: FrontendSpec, step_s: float) -> None:
        self._steps = 0
        self._window_steps = math.ceil(frontend.window_s / step_s)
        self._last = np.zeros((max(math.ceil(RECENT_S / step_s), self._window_steps), 4, len(Bands(frontend))))
        """Of each step and band the mean, the mean square, the least and the most"""

    def update(self, bands: Float64) -> None:
        """Take a step of sound [stretches, bands]."""
        self._last[self._steps % len(self._last)] = (
            _mean(bands),
            _mean(bands * bands),
            np.minimum.reduce(bands),
            np.maximum.reduce(bands),
        )
        self._steps += 1

    @property
    def is_steady(self) -> bool:
        """Whether in the last window nothing changed, louder or quieter. It is not known for the first ten seconds."""
        if self._steps < len(self._last):
            return False
        means, square = self._last[:, 0], _mean(self._last[:, 1])
        mean = _mean(means)
        if float((square - mean**2).max()) > SETTLED_VARIANCE:
            return False
        # The spread within steps: that between them is what is looked for.
        reach = CHANGES * np.sqrt(np.maximum(square - _mean(means * means), MIN_VARIANCE))
        window = self._last[np.arange(self._steps - self._window_steps, self._steps) % len(self._last)]
        return bool((window[:, 2] > mean - reach).all() and (window[:, 3] < mean + reach).all())


def _mean(values: Float64) -> Float64:
    """Of the rows. NumPy's own takes three times as long on so few."""
    mean: Float64 = np.add.reduce(values) / len(values)
    return mean
