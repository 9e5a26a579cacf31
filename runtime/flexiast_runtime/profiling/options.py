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


def measure_options(
    engines: Engines,
    profiled_s: Mapping[PatchSize, float] | None = None,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Option, ...]:
    """The option of each engine, with its median latency: as profiled, or from a few runs on silence now.

    Every engine is warmed up, so the first window after a switch is as fast as the next.
    """
    profiled_s = profiled_s or {}
    spec = engines.spec
    shape = (1, spec.frontend.window_frames, spec.frontend.mel_bins)
    features = np.full(shape, Frontend(spec.frontend).floor, np.float32)
    options = []
    for patch in engines.patches:
        engine = engines[patch]
        engine.run(features)
        latency_s = profiled_s[patch] if patch in profiled_s else measure_paced_s(engine, features, repeats, clock)
        options.append(Option(patch, latency_s, engine.variant.metric))
    return tuple(options)
