"""Which patch size to run next: a pure function of what was seen. No clock, no files, so every run can be replayed.

Latency. One slow-down factor, shared by all variants, tracks measured latency over the profile's: when the machine
gets slower for one variant, it has become slower for all (ALERT, arXiv 1911.00119). Its mean and variance predict each
variant's 95th percentile. Down at once, when that misses the deadline or misses pile up; up only after a dearer one
would have fitted, with room to spare, during a whole dwell, and then straight to the dearest that fits. A climb that
must be taken back soon doubles the dwell.

Energy, heat and a wish to save power are limits of their own, see `limits`. An engine that fails is left at once and
tried again later, each time after twice the wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flexiast.spec import Patch
from flexiast_runtime.governor.battery_filter import BatteryEstimate, update_estimate
from flexiast_runtime.governor.limits import Goal, limit
from flexiast_runtime.hardware.battery import Battery

P95 = 1.645
"""Standard deviations from mean to 95th percentile."""
MANY_MISSES, FEW_MISSES = 1.5, 0.1
"""Of the leaky count: two in a row; the last one long ago"""
LONGEST_REST_S = 3_600.0
"""Of an engine that fails again and again."""


@dataclass(frozen=True)
class Option:
    """A variant as the governor sees it."""

    patch: Patch
    latency_s: float
    """Profiled on this device, unloaded"""
    metric: float | None = None
    """Measured accuracy, where known"""
    watts: float | None = None
    """What the machine draws while it listens with this variant, where that was profiled"""


@dataclass(frozen=True)
class Policy:
    """How readily to switch."""

    dwell_s: float = 20.0
    max_dwell_s: float = 60.0
    relapse_s: float = 10.0
    """A climb that is taken back within this time was a mistake."""
    headroom: float = 0.8
    """Share of the deadline that a variant may be predicted to take before it is chosen."""
    limit: float = 0.97
    """Share of the deadline above which the running variant is left."""
    goal: Goal = Goal()
    hot_k: float = 3.0
    """Kelvins to throttling below which it gets cheaper, step by step."""
    cool_k: float = 8.0
    """Kelvins to throttling above which it may get dearer again."""
    heat_s: float = 10.0
    """A step takes so long to be felt in the temperature."""
    fastest_change: float = 0.05
    """Of a battery's charge in a minute"""
    remembered_s: float = 60.0
    """A battery that cannot be read is taken to be as it was for so long."""
    charge_margin: float = 0.02
    """Charge by which a dearer option must be allowed before it is taken."""
    retry_s: float = 30.0
    """An engine that failed rests so long, twice as long each time, up to an hour."""


@dataclass(frozen=True)
class Observation:
    """What is known when a window has been classified; what is missing is None and ignored."""

    time_s: float
    deadline_s: float
    latency_s: float | None = None
    """Of the engine that classified the window"""
    overhead_s: float = 0.0
    """What the window took besides: features and smoothing, the same whatever the variant"""
    backlog_steps: float = 0.0
    """Audio that waits, in steps."""
    battery: Battery | None = None
    thermal_headroom_c: float | None = None
    """Kelvins from the hottest part to where the kernel holds it back"""
    throttled: bool | None = None
    power_saver: bool | None = None
    """The user asked the system to save power"""
    failed: bool = False
    """The engine gave an error instead of an answer"""
    option: int | None = None
    """Whose latency it is, where it is not that of the variant in the state"""

    @property
    def budget_s(self) -> float:
        """What the deadline leaves for the engine."""
        return self.deadline_s - self.overhead_s


class Cooldown(NamedTuple):
    """An engine that failed."""

    option: int
    until_s: float
    seconds: float
    """How long it rests this time"""
    holds: bool = True
    """Whether it still rests; afterwards only the length of its next rest is remembered"""


class State(NamedTuple):
    """Everything remembered between two decisions; options are ordered from cheap to dear."""

    index: int  # type: ignore[assignment]  # it hides tuple.index, which nobody asks of a state
    """The option running"""
    slowdown: float = 1.0
    variance: float = 0.02
    misses: float = 0.0
    """Leaky count of missed deadlines"""
    overloaded: bool = False
    """Even the cheapest option that can run misses the deadline again and again"""
    backlog_steps: float = 0.0
    """As it was at the last window"""
    fits_since_s: float | None = None
    """Since when a dearer option would have fitted"""
    raised_at_s: float | None = None
    """When it last climbed"""
    dwell_s: float | None = None
    """Current dwell; None is the policy's own"""
    belief: BatteryEstimate = BatteryEstimate()
    """Of the battery"""
    heat_limit: int | None = None
    heat_at_s: float = -math.inf
    """When heat last changed its limit"""
    resting: tuple[Cooldown, ...] = ()
    """Engines that failed"""

    @property
    def degraded(self) -> bool:
        """The option named is one that failed, for there is no other."""
        return any(rest.option == self.index and rest.holds for rest in self.resting)


@dataclass(frozen=True)
class Decision:
    """The option to run next, and why it changed; no reason, no change."""

    index: int
    reason: str | None = None


def frontier(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options from cheap to dear, without those that cost more and are no better than a cheaper one.

    An option that was not measured counts as its neighbours in cost do, for between trained sizes a flexible model
    loses nothing; beyond the dearest measured one it counts as no better, beyond the cheapest as worse than all. Where
    none was measured, dearer counts as better.
    """
    ordered = sorted(options, key=lambda option: option.latency_s)
    measured = [option for option in ordered if option.metric is not None]
    if not measured:
        return tuple(ordered)
    costs = np.log([option.latency_s for option in measured])
    metrics = [option.metric or 0.0 for option in measured]
    kept: list[Option] = []
    best = -1.0
    for option in ordered:
        known = option.metric
        metric = float(np.interp(math.log(option.latency_s), costs, metrics, left=0.0)) if known is None else known
        if metric > best:
            kept.append(option)
            best = metric
    return tuple(kept)


def start(policy: Policy, options: Sequence[Option], observation: Observation) -> State:
    """Begin with the best option that fits the deadline and the limits as they are."""
    state = _update_estimates(policy, State(0), observation)
    fitting = _best_fitting(policy, options, state, observation)
    return state._replace(index=min(fitting, limit(policy.goal, options, state, observation).option))


def step(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> tuple[State, Decision]:
    """One observation → the new state and what to run next."""
    state = _update_estimates(policy, _back_off(policy, state, seen), seen)
    if seen.failed or state.degraded:
        return _fail_over(policy, options, state, seen)
    state = _learn(options, state, seen)
    allowed = limit(policy.goal, options, state, seen)
    if state.index > allowed.option:
        state = state._replace(raised_at_s=None)  # a limit that falls does not make the last climb a mistake
        target = min(allowed.option, _best_fitting(policy, options, state, seen))  # it may be too slow as well
        return _lower(policy, state, seen, target, allowed.reason)
    reason = _too_slow(policy, options, state, seen)
    state = state._replace(backlog_steps=seen.backlog_steps)
    if reason and state.index > 0:
        target = min(_best_fitting(policy, options, state, seen), state.index - 1)
        return _lower(policy, state, seen, target, reason)
    return _maybe_upshift(policy, options, state, seen)


def _sustainable_option(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> int:
    """The dearest option that would still be allowed with a little less charge: what goes up must stay."""
    battery = state.belief.battery
    less = battery and replace(battery, fraction=max(battery.fraction - policy.charge_margin, 0.0))
    return limit(policy.goal, options, state._replace(belief=state.belief._replace(battery=less)), seen).option


def predict_p95(option: Option, state: State) -> float:
    """Seconds that 95 of 100 windows stay under, at the present slow-down."""
    return option.latency_s * (state.slowdown + P95 * math.sqrt(state.variance))


def _update_estimates(policy: Policy, state: State, seen: Observation) -> State:
    """Battery and heat, as far as they can be believed."""
    return _heat(policy, state._replace(belief=update_estimate(policy, state.belief, seen)), seen)


def _heat(policy: Policy, state: State, seen: Observation) -> State:
    """One step down for each while that it stays hot, one step up for each dwell that it stays cool."""
    room = (
        math.inf if seen.thermal_headroom_c is None or math.isnan(seen.thermal_headroom_c) else seen.thermal_headroom_c
    )
    hot = bool(seen.throttled) or room < policy.hot_k
    since_s = seen.time_s - state.heat_at_s
    if hot and since_s >= policy.heat_s:
        return state._replace(heat_limit=max(state.index - 1, 0), heat_at_s=seen.time_s)
    if state.heat_limit is not None and not hot and room > policy.cool_k and since_s >= policy.max_dwell_s:
        return state._replace(heat_limit=state.heat_limit + 1, heat_at_s=seen.time_s)
    return state


def _back_off(policy: Policy, state: State, seen: Observation) -> State:
    """Engines that failed rest, and are tried again after a time that doubles with each failure."""
    if not state.resting and not seen.failed:
        return state
    resting = {rest.option: rest._replace(holds=rest.until_s > seen.time_s) for rest in state.resting}
    if seen.failed:
        before = resting.get(state.index)
        seconds = policy.retry_s if before is None else min(2 * before.seconds, LONGEST_REST_S)
        resting[state.index] = Cooldown(state.index, seen.time_s + seconds, seconds)
    return state._replace(resting=tuple(resting.values()))


def _fail_over(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> tuple[State, Decision]:
    """Away from an engine that failed: to the best cheaper one, else to any; nowhere while all rest."""
    healthy = [index for index in range(len(options)) if index not in _list_cooling_down(state)]
    if not healthy:
        return state, Decision(state.index)
    best = min(_best_fitting(policy, options, state, seen), limit(policy.goal, options, state, seen).option)
    target = max((index for index in healthy if index <= min(best, state.index)), default=healthy[0])
    reason = f"the engine of {options[state.index].patch} failed"
    if target == state.index:  # it has rested
        return state, Decision(target)
    return state._replace(index=target, misses=0.0, fits_since_s=None, raised_at_s=None), Decision(target, reason)


def _list_cooling_down(state: State) -> set[int]:
    return {rest.option for rest in state.resting if rest.holds}


def _learn(options: Sequence[Option], state: State, seen: Observation) -> State:
    """Slow-down and misses after one more latency: fast up, slower down; one lone outlier counts as 4 sigma."""
    if seen.latency_s is None or not math.isfinite(seen.latency_s):
        return state
    ratio = seen.latency_s / options[state.index if seen.option is None else seen.option].latency_s
    surprise = ratio - state.slowdown
    sigma = math.sqrt(state.variance)
    missed = seen.latency_s > seen.budget_s
    if surprise > 4 * sigma and not missed and state.misses < FEW_MISSES:
        surprise = 4 * sigma
    weight = 0.5 if surprise > 0 else 0.2
    deviation = max(-3 * sigma, min(surprise, 2.0))  # beyond -3 sigma a window that was fast would raise the p95
    misses = 0.8 * state.misses + missed
    return state._replace(
        slowdown=max(state.slowdown + weight * surprise, 0.05),
        variance=max(0.9 * state.variance + 0.1 * deviation**2, 1e-4),
        misses=misses,
        overloaded=misses > FEW_MISSES if state.overloaded else misses > MANY_MISSES and _is_cheapest(state),
    )


def _is_cheapest(state: State) -> bool:
    """Whether no cheaper engine can run."""
    return _list_cooling_down(state).issuperset(range(state.index))


def _too_slow(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> str | None:
    predicted = predict_p95(options[state.index], state)
    if predicted > policy.limit * seen.budget_s:
        return f"p95 {1000 * predicted:.1f} ms, deadline {1000 * seen.deadline_s:.1f} ms"
    if state.misses > MANY_MISSES:
        return f"deadline {1000 * seen.deadline_s:.1f} ms missed repeatedly"
    if seen.backlog_steps > 1 and seen.backlog_steps >= state.backlog_steps:  # one that falls is being caught up
        return f"{seen.backlog_steps:.1f} steps of audio wait"
    return None


def _lower(policy: Policy, state: State, seen: Observation, target: int, reason: str) -> tuple[State, Decision]:
    """Down to the target, or below it where that rests; it stays where all cheaper ones do."""
    healthy = [index for index in range(target + 1) if index not in _list_cooling_down(state)]
    if not healthy:
        return state, Decision(state.index)
    target = healthy[-1]
    relapse = state.raised_at_s is not None and seen.time_s - state.raised_at_s < policy.relapse_s
    dwell = policy.dwell_s if _is_settled(policy, state, seen) else state.dwell_s or policy.dwell_s
    state = state._replace(
        index=target,
        misses=0.0,
        fits_since_s=None,
        raised_at_s=None,
        dwell_s=min(2 * dwell, policy.max_dwell_s) if relapse else dwell,
    )
    return state, Decision(target, reason)


def _maybe_upshift(
    policy: Policy, options: Sequence[Option], state: State, seen: Observation
) -> tuple[State, Decision]:
    """Straight to the dearest that fits and is allowed, once any dearer one has been that for a dwell."""
    best = min(_best_fitting(policy, options, state, seen), _sustainable_option(policy, options, state, seen))
    target = max(
        (index for index in range(state.index + 1, best + 1) if index not in _list_cooling_down(state)), default=None
    )
    if target is None:
        return state._replace(fits_since_s=None), Decision(state.index)
    since = seen.time_s if state.fits_since_s is None else state.fits_since_s
    dwell = state.dwell_s or policy.dwell_s
    if seen.time_s - since < dwell:
        return state._replace(fits_since_s=since), Decision(state.index)
    forgiven = None if _is_settled(policy, state, seen) else state.dwell_s
    state = state._replace(index=target, fits_since_s=None, raised_at_s=seen.time_s, dwell_s=forgiven)
    predicted = predict_p95(options[target], state)
    return state, Decision(
        target, f"p95 {1000 * predicted:.1f} ms fits deadline {1000 * seen.deadline_s:.1f} ms after {dwell:g} s"
    )


def _is_settled(policy: Policy, state: State, seen: Observation) -> bool:
    """The last climb has lasted: what went wrong before it is forgiven."""
    return state.raised_at_s is not None and seen.time_s - state.raised_at_s > policy.max_dwell_s


def _best_fitting(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> int:
    """The dearest option with room to spare, else the cheapest."""
    fitting = [
        index for index, option in enumerate(options) if predict_p95(option, state) <= policy.headroom * seen.budget_s
    ]
    return max(fitting, default=0)
