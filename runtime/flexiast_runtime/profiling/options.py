"""The governor's options, from a profile or measured now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from flexiast.frontend import Frontend
from flexiast.spec import PatchSize
from flexiast_runtime.governor.types import Option
from flexiast_runtime.inference.engine import Engine, Engines
from flexiast_runtime.profiling.measure import measure_paced_s

HELD_UP = 3.0
"""Times a first run at which a run after a pause was held up by something else: cold caches alone cost less."""


def measure_options(
    engines: Engines,
    profiled_s: Mapping[PatchSize, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Option, ...]:
    """The option of each engine, with its latency: as profiled, or from two runs on silence now.

    Every engine is warmed up by them, so the first window after a switch is as fast as the next.
    """
    profiled_s = profiled_s or {}
    spec = engines.spec
    shape = (1, spec.frontend.window_frames, spec.frontend.mel_bins)
    features = np.full(shape, Frontend(spec.frontend).floor, np.float32)
    options = []
    for patch in engines.patches:
        engine = engines[patch]
        started_s = clock()
        engine.run(features)
        first_s = clock() - started_s
        latency_s = profiled_s[patch] if patch in profiled_s else _measure_s(engine, features, first_s, clock)
        options.append(Option(patch, latency_s, engine.variant.metric))
    return tuple(options)


def _measure_s(engine: Engine, features: NDArray[np.float32], first_s: float, clock: Callable[[], float]) -> float:
    """Seconds of a run after a pause, or of the first run where that one was held up."""
    paced_s = measure_paced_s(engine, features, 1, clock)
    return paced_s if paced_s < HELD_UP * first_s else first_s
