"""Which patch size to run next: a pure function of what was seen. No clock, no files, so every run can be replayed.

Latency. One slow-down factor, shared by all variants, tracks measured latency over the profile's: when the machine
gets slower for one variant, it has become slower for all (ALERT, arXiv 1911.00119). Its mean and variance predict each
variant's 95th percentile. Down at once, when that misses the deadline or misses pile up; up one variant at a time, and
only after a larger one would have fitted, with room to spare, during a whole dwell. A step up that must be taken back
soon doubles the dwell.

Battery. While discharging below `full_power_above`, the cost allowed per window falls geometrically from that of the
dearest variant to that of the cheapest at `reserve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flexiast.spec import PatchSize
from flexiast_runtime.power import Battery

P95 = 1.645
"""Standard deviations from mean to 95th percentile."""


@dataclass(frozen=True)
class Option:
    """A variant as the governor sees it."""

    patch: PatchSize
    latency_s: float
    """Profiled on this device, unloaded"""
    metric: float | None = None
    """Measured accuracy, where known"""


@dataclass(frozen=True)
class Policy:
    """How readily to switch."""

    dwell_s: float = 20.0
    max_dwell_s: float = 60.0
    relapse_s: float = 10.0
    """A step up that is taken back within this time was a mistake."""
    headroom: float = 0.8
    """Share of the deadline that a variant may be predicted to take before it is chosen."""
    limit: float = 0.97
    """Share of the deadline above which the running variant is left."""
    full_power_above: float = 0.5
    reserve: float = 0.2


@dataclass(frozen=True)
class Observation:
    """What is known when a window has been classified; what is missing is None and ignored."""

    time_s: float
    deadline_s: float
    latency_s: float | None = None
    """Of the engine that classified the window, the variant in the state"""
    overhead_s: float = 0.0
    """What the window took besides: features and smoothing, the same whatever the variant"""
    backlog_steps: float = 0.0
    """Audio that waits, in steps."""
    battery: Battery | None = None

    @property
    def budget_s(self) -> float:
        """What the deadline leaves for the engine."""
        return self.deadline_s - self.overhead_s


@dataclass(frozen=True)
class State:
    """Everything remembered between two decisions; options are ordered from cheap to dear."""

    index: int
    """The option running"""
    slowdown: float = 1.0
    variance: float = 0.02
    misses: float = 0.0
    """Leaky count of missed deadlines"""
    fits_since_s: float | None = None
    """Since when a dearer option would have fitted"""
    raised_at_s: float | None = None
    """When the last step up was taken"""
    dwell_s: float | None = None
    """Current dwell; None is the policy's own"""


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
    """Begin with the best option that fits the deadline and the battery as they are."""
    fitting = _best_fitting(policy, options, State(0), observation)
    return State(min(fitting, _battery_cap(policy, options, observation.battery)))


def step(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> tuple[State, Decision]:
    """One observation → the new state and what to run next."""
    state = _learn(policy, options, state, seen)
    cap = _battery_cap(policy, options, seen.battery)
    if state.index > cap:
        assert seen.battery is not None  # only a battery lowers the cap
        state = replace(state, raised_at_s=None)  # a battery that drains does not make the last step up a mistake
        target = min(cap, _best_fitting(policy, options, state, seen))  # it may be too slow as well
        return _lower(policy, state, seen, target, f"battery {seen.battery.fraction:.0%} and discharging")
    reason = _too_slow(policy, options, state, seen)
    if reason and state.index > 0:
        target = min(_best_fitting(policy, options, state, seen), state.index - 1)
        return _lower(policy, state, seen, target, reason)
    return _perhaps_raise(policy, options, state, seen, cap)


def predicted_p95(option: Option, state: State) -> float:
    """Seconds that 95 of 100 windows stay under, at the present slow-down."""
    return option.latency_s * (state.slowdown + P95 * math.sqrt(state.variance))


def _learn(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> State:
    """Slow-down and misses after one more latency: fast up, slower down; one lone outlier counts as 4 sigma."""
    if seen.latency_s is None or not math.isfinite(seen.latency_s):
        return state
    ratio = seen.latency_s / options[state.index].latency_s
    surprise = ratio - state.slowdown
    sigma = math.sqrt(state.variance)
    missed = seen.latency_s > seen.budget_s
    if surprise > 4 * sigma and not missed and state.misses < 0.1:
        surprise = 4 * sigma
    weight = 0.5 if surprise > 0 else 0.2
    deviation = max(-3 * sigma, min(surprise, 2.0))  # beyond -3 sigma a window that was fast would raise the p95
    return replace(
        state,
        slowdown=max(state.slowdown + weight * surprise, 0.05),
        variance=max(0.9 * state.variance + 0.1 * deviation**2, 1e-4),
        misses=0.8 * state.misses + missed,
    )


def _too_slow(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> str | None:
    predicted = predicted_p95(options[state.index], state)
    if predicted > policy.limit * seen.budget_s:
        return f"p95 {1000 * predicted:.1f} ms, deadline {1000 * seen.deadline_s:.1f} ms"
    if state.misses > 1.5:
        return f"deadline {1000 * seen.deadline_s:.1f} ms missed repeatedly"
    if seen.backlog_steps > 1:
        return f"{seen.backlog_steps:.1f} steps of audio wait"
    return None


def _lower(policy: Policy, state: State, seen: Observation, target: int, reason: str) -> tuple[State, Decision]:
    relapse = state.raised_at_s is not None and seen.time_s - state.raised_at_s < policy.relapse_s
    dwell = policy.dwell_s if _quiet(policy, state, seen) else state.dwell_s or policy.dwell_s
    state = replace(
        state,
        index=target,
        misses=0.0,
        fits_since_s=None,
        raised_at_s=None,
        dwell_s=min(2 * dwell, policy.max_dwell_s) if relapse else dwell,
    )
    return state, Decision(target, reason)


def _perhaps_raise(
    policy: Policy, options: Sequence[Option], state: State, seen: Observation, cap: int
) -> tuple[State, Decision]:
    above = state.index + 1
    if above > cap or above >= len(options) or predicted_p95(options[above], state) > policy.headroom * seen.budget_s:
        return replace(state, fits_since_s=None), Decision(state.index)
    since = seen.time_s if state.fits_since_s is None else state.fits_since_s
    dwell = state.dwell_s or policy.dwell_s
    if seen.time_s - since < dwell:
        return replace(state, fits_since_s=since), Decision(state.index)
    forgiven = None if _quiet(policy, state, seen) else state.dwell_s
    state = replace(state, index=above, fits_since_s=None, raised_at_s=seen.time_s, dwell_s=forgiven)
    predicted = predicted_p95(options[above], state)
    return state, Decision(
        above, f"p95 {1000 * predicted:.1f} ms fits deadline {1000 * seen.deadline_s:.1f} ms for {dwell:g} s"
    )


def _quiet(policy: Policy, state: State, seen: Observation) -> bool:
    """The last step up has lasted: what went wrong before it is forgiven."""
    return state.raised_at_s is not None and seen.time_s - state.raised_at_s > policy.max_dwell_s


def _best_fitting(policy: Policy, options: Sequence[Option], state: State, seen: Observation) -> int:
    """The dearest option with room to spare, else the cheapest."""
    fitting = [
        index for index, option in enumerate(options) if predicted_p95(option, state) <= policy.headroom * seen.budget_s
    ]
    return max(fitting, default=0)


def _battery_cap(policy: Policy, options: Sequence[Option], battery: Battery | None) -> int:
    """The dearest option that the charge allows; all of them while charging, full or unknown."""
    last = len(options) - 1
    if battery is None or not battery.discharging or battery.fraction >= policy.full_power_above:
        return last
    share = (battery.fraction - policy.reserve) / (policy.full_power_above - policy.reserve)
    cheapest, dearest = options[0].latency_s, options[last].latency_s
    allowed = cheapest * (dearest / cheapest) ** max(share, 0.0)
    return max((index for index, option in enumerate(options) if option.latency_s <= allowed), default=0)
