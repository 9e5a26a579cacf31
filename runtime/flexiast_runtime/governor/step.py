"""Which patch size runs next: a pure function of observations. No clock and no files, so every run can be replayed.

Latency. One slowdown factor, shared by all variants, tracks measured ÷ profiled latency: what slows one variant slows
all (ALERT, arXiv 1911.00119). Its mean and variance predict each variant's 95th percentile. The governor downshifts
immediately when that misses the deadline or misses accumulate. It upshifts when a costlier option would have fitted,
with headroom, for a whole dwell, and then straight to the costliest that fits. An upshift that must soon be reversed
doubles the dwell.

Energy, heat and power-saving modes are limits of their own, see `limits`. An engine that fails is left at once and
tried again after a cooldown, which doubles each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flexiast_runtime.governor.battery_filter import update_estimate
from flexiast_runtime.governor.limits import limit
from flexiast_runtime.governor.types import Cooldown, Decision, Observation, Option, Policy, State

P95 = 1.645
"""Standard deviations from the mean to the 95th percentile of a normal distribution"""

MISS_DECAY = 0.8
"""Per window, of the count of misses: one miss is forgotten (below FEW_MISSES) after eleven windows."""
MANY_MISSES, FEW_MISSES = 1.5, 0.1
"""Of that count. Two misses in a row make 1.8, two with two windows between them 1.51. One alone is never enough."""

WEIGHT_SLOWER, WEIGHT_FASTER = 0.5, 0.2
"""Weight of a new latency in the mean slowdown. Slower counts more: a missed deadline costs a result, a late upshift
only some accuracy. A lasting slowdown is half learned in one window, a lasting speed-up in three. What another weight
for missed windows would have given stands in docs/governor.md."""
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

MAX_COOLDOWN_S = 3_600.0
"""Of an engine that keeps failing: it is tried at least once an hour."""


def frontier(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options ordered by cost, without those that are no better than a cheaper one.

    The metric of an unmeasured option is interpolated between its neighbours in cost, since a flexible model loses
    nothing between trained sizes. An option costlier than all measured ones counts as no better, a cheaper one as worse
    than all. If none was measured, costlier counts as better.
    """
    ordered = sorted(options, key=lambda option: option.latency_s)
    measured = [option for option in ordered if option.metric is not None]
    if not measured:
        return tuple(ordered)
    costs = np.log([option.latency_s for option in measured])
    metrics = [option.metric or 0.0 for option in measured]
    best_options: list[Option] = []
    best = -1.0
    for option in ordered:
        known = option.metric
        metric = float(np.interp(math.log(option.latency_s), costs, metrics, left=0.0)) if known is None else known
        if metric > best:
            best_options.append(option)
            best = metric
    return tuple(best_options)


def init_state(policy: Policy, options: Sequence[Option], observation: Observation) -> State:
    """The state before the first window: the best option that fits the deadline and the limits."""
    state = _update_estimates(policy, State(0), observation)
    fitting = _best_fitting(policy, options, state, observation)
    return state._replace(index=min(fitting, limit(policy.goal, options, state, observation).option))


def step(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> tuple[State, Decision]:
    """One observation → the new state, and the option to run next."""
    state = _update_estimates(policy, _back_off(policy, state, observation), observation)
    if observation.failed or state.degraded:
        return _fail_over(policy, options, state, observation)
    state = _update_slowdown(options, state, observation)
    allowed = limit(policy.goal, options, state, observation)
    if state.index > allowed.option:
        state = state._replace(raised_at_s=None)  # the limit, not the last upshift, is to blame
        target = min(allowed.option, _best_fitting(policy, options, state, observation))  # which may be lower still
        return _downshift(policy, state, observation, target, allowed.reason)
    reason = _describe_slowness(policy, options, state, observation)
    state = state._replace(backlog_steps=observation.backlog_steps)
    if reason and state.index > 0:
        target = min(_best_fitting(policy, options, state, observation), state.index - 1)
        return _downshift(policy, state, observation, target, reason)
    return _maybe_upshift(policy, options, state, observation)


def _sustainable_option(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> int:
    """The costliest option still allowed with a little less charge, so that an upshift is not reversed at once."""
    battery = state.battery.battery
    less = battery and replace(battery, fraction=max(battery.fraction - policy.charge_margin, 0.0))
    return limit(policy.goal, options, state._replace(battery=state.battery._replace(battery=less)), observation).option


def predict_p95(option: Option, state: State) -> float:
    """Seconds that 95 of 100 windows stay below, at the current slowdown."""
    return option.latency_s * (state.slowdown + P95 * math.sqrt(state.variance))


def _update_estimates(policy: Policy, state: State, observation: Observation) -> State:
    """Update the battery estimate and the heat limit."""
    return _update_heat_limit(
        policy, state._replace(battery=update_estimate(policy, state.battery, observation)), observation
    )


def _update_heat_limit(policy: Policy, state: State, observation: Observation) -> State:
    """Lower the limit by one option every ``heat_s`` while hot; raise it by one every longest dwell while cool."""
    headroom_c = observation.thermal_headroom_c
    if headroom_c is None or math.isnan(headroom_c):
        headroom_c = math.inf
    hot = bool(observation.throttled) or headroom_c < policy.hot_headroom_c
    since_s = observation.time_s - state.heat_at_s
    if hot and since_s >= policy.heat_s:
        return state._replace(heat_limit=max(state.index - 1, 0), heat_at_s=observation.time_s)
    if (
        state.heat_limit is not None
        and not hot
        and headroom_c > policy.cool_headroom_c
        and since_s >= policy.max_dwell_s
    ):
        return state._replace(heat_limit=state.heat_limit + 1, heat_at_s=observation.time_s)
    return state


def _back_off(policy: Policy, state: State, observation: Observation) -> State:
    """Start a cooldown for an engine that failed, twice as long as its last one, and end those that are over."""
    if not state.cooldowns and not observation.failed:
        return state
    cooldowns = {each.option: each._replace(active=each.until_s > observation.time_s) for each in state.cooldowns}
    if observation.failed:
        before = cooldowns.get(state.index)
        seconds = policy.retry_s if before is None else min(2 * before.seconds, MAX_COOLDOWN_S)
        cooldowns[state.index] = Cooldown(state.index, observation.time_s + seconds, seconds)
    return state._replace(cooldowns=tuple(cooldowns.values()))


def _fail_over(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[State, Decision]:
    """Leave an engine that failed: for the best cheaper one, else for any; stay while all of them cool down."""
    healthy = [index for index in range(len(options)) if index not in _list_cooling_down(state)]
    if not healthy:
        return state, Decision(state.index)
    best = min(
        _best_fitting(policy, options, state, observation), limit(policy.goal, options, state, observation).option
    )
    target = max((index for index in healthy if index <= min(best, state.index)), default=healthy[0])
    reason = f"the engine of {options[state.index].patch} failed"
    if target == state.index:  # its cooldown is over
        return state, Decision(target)
    return state._replace(index=target, misses=0.0, fits_since_s=None, raised_at_s=None), Decision(target, reason)


def _list_cooling_down(state: State) -> set[int]:
    return {cooldown.option for cooldown in state.cooldowns if cooldown.active}


def _update_slowdown(options: Sequence[Option], state: State, observation: Observation) -> State:
    """Slowdown and misses after one more latency."""
    if observation.latency_s is None or not math.isfinite(observation.latency_s):
        return state
    option = options[state.index if observation.option is None else observation.option]
    surprise = observation.latency_s / option.latency_s - state.slowdown
    sigma = math.sqrt(state.variance)
    missed = observation.latency_s > observation.budget_s
    if surprise > OUTLIER_SIGMAS * sigma and not missed and state.misses < FEW_MISSES:
        surprise = OUTLIER_SIGMAS * sigma
    weight = WEIGHT_SLOWER if surprise > 0 else WEIGHT_FASTER
    deviation = max(-FAST_SIGMAS * sigma, min(surprise, MAX_DEVIATION))
    misses = MISS_DECAY * state.misses + missed
    return state._replace(
        slowdown=max(state.slowdown + weight * surprise, MIN_SLOWDOWN),
        variance=max((1 - WEIGHT_VARIANCE) * state.variance + WEIGHT_VARIANCE * deviation**2, MIN_VARIANCE),
        misses=misses,
        overloaded=misses > FEW_MISSES if state.overloaded else misses > MANY_MISSES and _is_cheapest(state),
    )


def _is_cheapest(state: State) -> bool:
    """Whether no cheaper engine works."""
    return _list_cooling_down(state).issuperset(range(state.index))


def _describe_slowness(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> str | None:
    predicted = predict_p95(options[state.index], state)
    deadline = f"the deadline of {1000 * observation.deadline_s:.1f} ms"
    if predicted > policy.limit * observation.budget_s:
        return f"predicted p95 of {1000 * predicted:.1f} ms does not fit {deadline}"
    if state.misses > MANY_MISSES:
        return f"{deadline} was missed repeatedly"
    # A backlog that shrinks is being caught up.
    if observation.backlog_steps > 1 and observation.backlog_steps >= state.backlog_steps:
        return f"{observation.backlog_steps:.1f} steps of audio are waiting"
    return None


def _downshift(
    policy: Policy, state: State, observation: Observation, target: int, reason: str
) -> tuple[State, Decision]:
    """Switch to the target, or below it while that cools down; stay if all of these do."""
    healthy = [index for index in range(target + 1) if index not in _list_cooling_down(state)]
    if not healthy:
        return state, Decision(state.index)
    target = healthy[-1]
    relapse = state.raised_at_s is not None and observation.time_s - state.raised_at_s < policy.relapse_s
    dwell = policy.dwell_s if _is_settled(policy, state, observation) else state.dwell_s or policy.dwell_s
    state = state._replace(
        index=target,
        misses=0.0,
        fits_since_s=None,
        raised_at_s=None,
        dwell_s=min(2 * dwell, policy.max_dwell_s) if relapse else dwell,
    )
    return state, Decision(target, reason)


def _maybe_upshift(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[State, Decision]:
    """Switch to the costliest option that fits and is allowed, once any costlier one has for a whole dwell."""
    best = min(
        _best_fitting(policy, options, state, observation), _sustainable_option(policy, options, state, observation)
    )
    target = max(
        (index for index in range(state.index + 1, best + 1) if index not in _list_cooling_down(state)), default=None
    )
    if target is None:
        return state._replace(fits_since_s=None), Decision(state.index)
    since = observation.time_s if state.fits_since_s is None else state.fits_since_s
    dwell = state.dwell_s or policy.dwell_s
    if observation.time_s - since < dwell:
        return state._replace(fits_since_s=since), Decision(state.index)
    next_dwell_s = None if _is_settled(policy, state, observation) else state.dwell_s
    state = state._replace(index=target, fits_since_s=None, raised_at_s=observation.time_s, dwell_s=next_dwell_s)
    predicted = predict_p95(options[target], state)
    reason = (
        f"predicted p95 of {1000 * predicted:.1f} ms has fit the deadline of {1000 * observation.deadline_s:.1f} ms "
        f"for {dwell:g} s"
    )
    return state, Decision(target, reason)


def _is_settled(policy: Policy, state: State, observation: Observation) -> bool:
    """Whether the last upshift has held for so long that the dwell returns to the policy's."""
    return state.raised_at_s is not None and observation.time_s - state.raised_at_s > policy.max_dwell_s


def _best_fitting(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> int:
    """The costliest option that fits with headroom, else the cheapest."""
    fitting = [
        index
        for index, option in enumerate(options)
        if predict_p95(option, state) <= policy.headroom * observation.budget_s
    ]
    return max(fitting, default=0)
