"""The patch size for a deadline: the finest one whose measured rate finishes an archive in time.

Pure arithmetic over what tasks report. A size that has not run yet is expected to take what the sizes that have run
took, scaled by its operations; the share that does not depend on the size (decoding, features) is learned with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from flexiast.spec import PatchSize
from flexiast_runtime.batch.archive import Worker

MARGIN = 0.95
"""Share of the time left that is planned for: the last tasks do not end together."""
RUNS = 5
"""Windows of each size that are measured at the start."""
MEMORY_S = 3600.0
"""Seconds of work that a measurement is remembered for, about: machines and recordings change on the way."""


def measure_sizes(worker: Worker) -> dict[PatchSize, float]:
    """Seconds that the engine of each size takes for a second of audio, on this machine."""
    frontend, step_s = worker.engines.spec.frontend, worker.job.settings.step_s
    features = np.zeros((1, frontend.window_frames, frontend.mel_bins), np.float32)
    found = {}
    for size in worker.sizes:
        times = []
        for _ in range(1 + RUNS):  # the first one allocates
            started_s = time.perf_counter()
            worker.engines.scores(features, size)
            times.append(time.perf_counter() - started_s)
        found[size] = sorted(times[1:])[RUNS // 2] / step_s
    return found


class Measured(NamedTuple):
    """What tasks of one size took so far."""

    audio_s: float = 0.0
    busy_s: float = 0.0


@dataclass
class Pace:
    """Chooses sizes until a deadline. ``windows_s`` are seconds of each size's engine for a second of audio."""

    windows_s: Mapping[PatchSize, float]
    """From a few windows at the start; corrected by the tasks"""
    seconds: float
    """From the start to the deadline"""
    workers: int
    """That work at once"""
    total_bytes: float
    """Of all recordings that have no result yet"""
    done_bytes: float = 0.0
    measured: dict[PatchSize, Measured] = field(default_factory=dict)
    current: PatchSize | None = None

    @property
    def finest(self) -> PatchSize:
        return max(self.windows_s, key=lambda size: self.windows_s[size])

    def add(self, size: PatchSize, audio_s: float, busy_s: float, size_bytes: float) -> None:
        """Take what a task took."""
        self.done_bytes += size_bytes
        before = self.measured.get(size, Measured())
        keep = MEMORY_S / (MEMORY_S + busy_s) if before.busy_s > MEMORY_S else 1.0
        self.measured[size] = Measured(keep * before.audio_s + audio_s, keep * before.busy_s + busy_s)

    def choose(self, elapsed_s: float) -> PatchSize:
        """The size of the next task: the finest that finishes in time, or the fastest of all."""
        left_s = MARGIN * (self.seconds - elapsed_s)
        fastest = min(self.windows_s, key=lambda size: self.windows_s[size])
        fitting = [size for size in self.windows_s if self.estimate_s(size) <= left_s]
        self.current = max(fitting, key=lambda size: self.windows_s[size], default=fastest)
        return self.current

    def estimate_s(self, size: PatchSize) -> float:
        """Seconds that the rest would take at a size; 0 while nothing has been measured."""
        return self._audio_left_s * self.cost(size) / self.workers

    def cost(self, size: PatchSize) -> float:
        """Seconds of one worker for a second of audio: as measured, or by what the others took beyond their engines."""
        own = self.measured.get(size)
        if own is not None and own.audio_s:
            return own.busy_s / own.audio_s
        ran = [(each.busy_s, each.audio_s, self.windows_s[other]) for other, each in self.measured.items()]
        audio_s = sum(audio for _, audio, _ in ran)
        if not audio_s:
            return self.windows_s[size]
        beyond = sum(busy - audio * window for busy, audio, window in ran) / audio_s
        return max(0.0, beyond) + self.windows_s[size]

    @property
    def _audio_left_s(self) -> float:
        """Of the recordings left, if a byte of them holds as much as one of those done."""
        audio_s = sum(each.audio_s for each in self.measured.values())
        if not self.done_bytes:
            return 0.0
        return max(0.0, self.total_bytes - self.done_bytes) * audio_s / self.done_bytes
