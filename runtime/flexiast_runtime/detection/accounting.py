"""Counts of one stream: windows, latencies, events, lost audio. They become the summary."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from flexiast.spec import PatchSize, Spec
from flexiast_runtime.detection.records import Summary, VariantUse
from flexiast_runtime.percentiles import percentile

MAX_LATENCIES = 10_000
"""Latencies per variant for the percentiles: 80 kB each, so memory stays flat over weeks."""


class Timing(NamedTuple):
    """What one window took, from its last audio to its smoothed scores."""

    latency_s: float
    cpu_s: float


@dataclass
class VariantStats:
    """What one variant did: windows, missed deadlines, latencies."""

    windows: int = 0
    misses: int = 0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def add(self, timing: Timing, deadline_s: float) -> None:
        self.windows += 1
        self.misses += timing.latency_s > deadline_s
        self.cpu_s += timing.cpu_s
        self.latencies_s.append(timing.latency_s)
        del self.latencies_s[:-MAX_LATENCIES]

    def report(self, patch: PatchSize) -> VariantUse:
        p50_s, p95_s = (percentile(sorted(self.latencies_s), percent) for percent in (50, 95))
        return VariantUse(patch, self.windows, self.misses, self.cpu_s, p50_s, p95_s)


class Accounting:
    """What one stream has done so far."""

    def __init__(self) -> None:
        self.skipped = self.events = self.switches = self.overloads = self.discontinuities = 0
        self.lost_samples = 0
        self._variants: dict[PatchSize, VariantStats] = defaultdict(VariantStats)
        self._started_cpu_s = time.process_time()

    def add_window(self, patch: PatchSize, timing: Timing, deadline_s: float) -> None:
        """Count a window that an engine classified."""
        self._variants[patch].add(timing, deadline_s)

    def add_discontinuity(self, missing_samples: int) -> None:
        """Count a break in the audio. Without missing samples none is counted: the late audio has arrived after all."""
        self.discontinuities += missing_samples != 0
        self.lost_samples += missing_samples

    def summarise(self, source: str, end_sample: int, spec: Spec) -> Summary:
        """The summary of a stream that ended at a sample; variants are sorted from most to fewest tokens."""
        rate_hz = spec.frontend.sample_rate_hz
        variants = sorted(self._variants.items(), key=lambda item: -spec.tokens(item[0]))
        return Summary(
            source=source,
            audio_s=(end_sample - self.lost_samples) / rate_hz,
            windows=self.skipped + sum(stats.windows for _, stats in variants),
            skipped=self.skipped,
            events=self.events,
            switches=self.switches,
            overloads=self.overloads,
            discontinuities=self.discontinuities,
            dropped_s=self.lost_samples / rate_hz,
            cpu_s=time.process_time() - self._started_cpu_s,
            variants=tuple(stats.report(patch) for patch, stats in variants),
        )
