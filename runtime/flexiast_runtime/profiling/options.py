"""The governor's options, from a profile or measured now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from flexiast.frontend import Frontend
from flexiast.spec import PatchSize
from flexiast_runtime.governor.types import Option
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.profiling.measure import measure_paced_s

QUICK_RUNS = 3
"""Timed runs of each engine at the start: their median ignores one that another program held up."""


def measure_options(
    engines: Engines,
    profiled_s: Mapping[PatchSize, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Option, ...]:
    """The option of each engine, with its latency: as profiled, or measured now on silence.

    Every engine runs once to warm up, so that the first window after a switch is as fast as the next. One that was
    not profiled is then timed: its latency is the median of ``QUICK_RUNS`` runs with a pause before each.
    """
    profiled_s = profiled_s or {}
    spec = engines.spec
    shape = (1, spec.frontend.window_frames, spec.frontend.mel_bins)
    features = np.full(shape, Frontend(spec.frontend).floor, np.float32)
    options = []
    for patch in engines.patches:
        engine = engines[patch]
        engine.run(features)
        latency_s = profiled_s.get(patch)
        if latency_s is None:
            latency_s = measure_paced_s(engine, features, QUICK_RUNS, clock)
        options.append(Option(patch, latency_s, engine.variant.metric))
    return tuple(options)
