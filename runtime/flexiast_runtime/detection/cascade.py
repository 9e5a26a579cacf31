"""How closely a window is listened to, by what is heard.

While nothing stands out from the background, no engine runs and the last scores hold. When something does, the
cheapest size listens; when it finds that this may be an event, the size that the governor chose says whether it is, and
goes on for as long as it may be. Every few seconds the cheapest size listens anyway: a background may begin to mean
something. What this saves and what it loses stands in docs/governor.md.
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
"""Share of the way from a score that says nothing to a label's threshold, from which on it may be an event."""
STANDS_OUT = 4.0
"""Standard deviations by which a sound must exceed the background in one band."""
RETRY_S = 60.0
"""Seconds that the cheapest size is not asked after its engine failed."""
RECHECK_S = 10.0
"""Seconds of background after which the cheapest size listens to it."""


def candidate_threshold(thresholds: Float, spec: Spec) -> Float:
    """Scores [classes] from which on something may be an event."""
    nothing = np.float32(1 / len(thresholds) if spec.task == "single" and not spec.nothing_class else 0.0)
    return nothing + np.float32(CANDIDATE_SHARE) * (thresholds - nothing)


def is_ineffective(thresholds: Float, spec: Spec) -> bool:
    """Whether anything heard may be an event: scores that sum to 1 are not all below bounds that sum to no more."""
    return spec.task == "single" and not spec.nothing_class and float(candidate_threshold(thresholds, spec).sum()) <= 1


class Cascade:
    """Remembers what the last windows of one stream sounded like; `level` is asked once for each, in order."""

    def __init__(self, cheap: PatchSize, thresholds: Float, spec: Spec, step_s: float) -> None:
        """``thresholds`` [classes] are those at which events begin."""
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
        """The class that may have been an event most often, where therefore no window was skipped."""
        return int(self._candidate_windows.argmax()) if self._candidate_windows.any() and not self.skipped else None

    def reset(self) -> None:
        """The stream breaks off: what follows may be another place."""
        self._background = Background(self._frontend, self._step_s)
        self._has_candidate = False
        self._quiet_steps = self._idle_steps = 0
        self.quiet: Float | None = None
        """Scores [classes] of the last window that an engine ran for, if nothing was in it"""

    def level(self, window: Window) -> Level:
        """What the window is worth."""
        stands_out = self._background.update(window.new, learn=not self._has_candidate) >= STANDS_OUT
        self._quiet_steps = 0 if stands_out else self._quiet_steps + 1  # steps since something last stood out
        self._idle_steps += 1
        self._failed_steps = max(0, self._failed_steps - 1)
        if self._has_candidate or self._failed_steps:
            return "sharp"
        if self.quiet is None or self._quiet_steps < self._window_steps or self._idle_steps > self._recheck_steps:
            return "cheap"
        return "skip"

    def record_failure(self) -> None:
        """The cheapest size gave no answer: for a while the chosen one listens to everything."""
        self._failed_steps = round(RETRY_S / self._step_s)

    def update(self, scores: Float) -> bool:
        """What an engine made of the window [classes]; whether it may be an event."""
        maybe = scores >= self._candidate_at
        self._candidate_windows += maybe
        self._has_candidate = bool(maybe.any())
        self._idle_steps = 0
        self.quiet = None if self._has_candidate else scores
        return self._has_candidate


class Background:
    """Mean and variance of the log-mel in broad bands over the last seconds."""

    FRAMES, BINS = 5, 8
    """Of features that are averaged before they are compared: 50 ms in a band."""
    MEMORY_S = 10.0
    MOST = 4.0
    """Deviations that a sound counts for at most in the background."""
    LEAST_VARIANCE = 0.01
    """In nat squared: digital hum is steadier than any room."""

    def __init__(self, frontend: FrontendSpec, step_s: float) -> None:
        self._share, self._steps = step_s / self.MEMORY_S, 0
        self._edges = np.arange(0, frontend.mel_bins, self.BINS)
        self._scale = 2 * frontend.std / np.diff(self._edges, append=frontend.mel_bins)  # to nat, and from sum to mean
        self._mean, self._variance = np.zeros(len(self._edges)), np.full(len(self._edges), 0.1)

    def update(self, features: Float, *, learn: bool) -> float:
        """New features [frames, mels] → by how many deviations they exceed the background; it may learn from them."""
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
        share = max(self._share, 1 / self._steps) if self._steps <= 20 else self._share  # young ones learn fast
        part = np.clip(above, -self.MOST, self.MOST) * deviation
        self._mean = self._mean + share * part.mean(axis=0)
        self._variance = np.maximum((1 - share) * self._variance + share * (part**2).mean(axis=0), self.LEAST_VARIANCE)

    def _bands(self, features: Float) -> NDArray[np.float64]:
        """[stretches, bands] in nat; frames that fill no stretch are left out, but where there is none."""
        frames = max(1, len(features) // self.FRAMES) * self.FRAMES
        stretches = features[:frames].reshape(max(1, len(features) // self.FRAMES), -1, features.shape[1]).mean(axis=1)
        return self._scale * np.add.reduceat(stretches.astype(np.float64), self._edges, axis=1)
