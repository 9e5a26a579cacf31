"""How slow the machine is: measured ÷ profiled latency, one factor for all options, with what it predicts.

What slows one variant slows all (ALERT, arXiv 1911.00119). Its mean and variance predict each variant's 95th
percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.types import Observation, Option

P95 = 1.645
"""Standard deviations from the mean to the 95th percentile of a normal distribution"""

MISS_DECAY = 0.8
"""Per window, of the count of misses: one miss is forgotten (below FEW_MISSES) after eleven windows."""
MANY_MISSES, FEW_MISSES = 1.5, 0.1
"""Of that count. Two misses in a row make 1.8, two with two windows between them 1.51. One alone is never enough."""

WEIGHT_SLOWER, WEIGHT_FASTER = 0.5, 0.2
"""Weight of a new latency in the mean slowdown. Slower counts more: a missed deadline costs a result, a late upshift
only some accuracy. A lasting slowdown is half learned in one window, a lasting speed-up in three."""
WEIGHT_LEVEL = 0.1
"""Weight in the level, which follows slower and faster windows alike: about ten windows, as for the variance"""
WEIGHT_VARIANCE = 0.1
"""Weight in the variance: about ten windows, so that one outlier does not widen the prediction for long"""
OUTLIER_SIGMAS = 4.0
"""A lone slow window counts as at most so many standard deviations: beyond them the cause is an
interruption (a page fault, another process), not the machine's speed."""
FAST_SIGMAS = 3.0
"""A fast window counts as at most so many: beyond them its square would raise the predicted percentile."""
MAX_DEVIATION = 2.0
"""Of a slow window, in profiled latencies: a pause of seconds must not widen the predictions for minutes."""
MIN_SLOWDOWN, MIN_VARIANCE = 0.05, 1e-4
"""Bounds that keep predictions positive; the variance's is a jitter of 1 %, the timer's own on a quiet machine."""


def predict_p95(option: Option, state: State) -> float:
    """Seconds that 95 of 100 windows stay below, at the current slowdown."""
    return option.latency_s * (state.slowdown + P95 * math.sqrt(state.variance))


def update_slowdown(options: Sequence[Option], state: State, observation: Observation, *, cheapest: bool) -> State:
    """Slowdown and misses after one more latency; ``cheapest``: no cheaper engine works."""
    if observation.latency_s is None or not 0 <= observation.latency_s < math.inf:
        return state
    option = options[state.index if observation.option is None else observation.option]
    ratio = observation.latency_s / option.latency_s
    surprise = ratio - state.slowdown
    sigma = math.sqrt(state.variance)
    missed = observation.latency_s > observation.budget_s
    if surprise > OUTLIER_SIGMAS * sigma and not missed and state.misses < FEW_MISSES:
        surprise = OUTLIER_SIGMAS * sigma
    weight = WEIGHT_SLOWER if surprise > 0 else WEIGHT_FASTER
    deviation = max(-FAST_SIGMAS * sigma, min(surprise, MAX_DEVIATION))
    misses = MISS_DECAY * state.misses + missed
    return state._replace(
        latest=ratio,
        slowdown=max(state.slowdown + weight * surprise, MIN_SLOWDOWN),
        level=max(state.level + WEIGHT_LEVEL * min(ratio - state.level, MAX_DEVIATION), MIN_SLOWDOWN),
        variance=max((1 - WEIGHT_VARIANCE) * state.variance + WEIGHT_VARIANCE * deviation**2, MIN_VARIANCE),
        misses=misses,
        overloaded=misses > FEW_MISSES if state.overloaded else misses > MANY_MISSES and cheapest,
    )
