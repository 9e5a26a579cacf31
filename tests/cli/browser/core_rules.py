"""The rules of the page's governor in Python, over the runtime's own estimates and limits.

The runtime's governor has more of them (budgets of switches and misses, strategies, heat), which a page of 150
lines leaves out. What both share (slowdown, battery filter, limits) is the runtime's; the rest is written again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexiast_runtime.governor.battery_filter import update_estimate
from flexiast_runtime.governor.limits import limit
from flexiast_runtime.governor.slowdown import MANY_MISSES, predict_p95, update_slowdown
from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy


def init_core(policy: Policy, options: Sequence[Option], observation: Observation) -> State:
    """The best option that fits the deadline and the battery."""
    state = State(0, battery=update_estimate(policy, State(0).battery, observation))
    allowed = limit(policy.goal, options, state, observation).option
    return state._replace(index=min(_best_fitting(policy, options, state, observation), allowed))


def step_core(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[State, Decision]:
    """Down at once where the prediction or the battery asks for it, up once a costlier option fitted for a dwell."""
    state = state._replace(battery=update_estimate(policy, state.battery, observation))
    state = update_slowdown(options, state, observation, cheapest=state.index == 0)
    allowed = limit(policy.goal, options, state, observation)
    best = _best_fitting(policy, options, state, observation)
    if state.index > allowed.option:
        state = state._replace(raised_at_s=None)
        return _downshift(policy, state, observation, min(allowed.option, best), allowed.reason)
    reason = _describe_slowness(policy, options, state, observation)
    state = state._replace(backlog_steps=observation.backlog_steps)
    if reason and state.index > 0:
        return _downshift(policy, state, observation, min(best, state.index - 1), reason)
    battery = state.battery.battery
    less = battery and replace(battery, fraction=max(battery.fraction - policy.charge_margin, 0.0))
    careful = state._replace(battery=state.battery._replace(battery=less))
    target = min(best, limit(policy.goal, options, careful, observation).option)
    return _maybe_upshift(policy, options, state, observation, target)


def _describe_slowness(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> str | None:
    predicted_s = predict_p95(options[state.index], state)
    deadline = f"the deadline of {1000 * observation.deadline_s:.1f} ms"
    if predicted_s > policy.limit * observation.budget_s:
        return f"predicted p95 of {1000 * predicted_s:.1f} ms does not fit {deadline}"
    if state.misses > MANY_MISSES:
        return f"{deadline} was missed repeatedly"
    if observation.backlog_steps > 1 and observation.backlog_steps >= state.backlog_steps:
        return f"{observation.backlog_steps:.1f} steps of audio are waiting"
    return None


def _downshift(
    policy: Policy, state: State, observation: Observation, target: int, reason: str
) -> tuple[State, Decision]:
    relapse = state.raised_at_s is not None and observation.time_s - state.raised_at_s < policy.relapse_s
    dwell = policy.dwell_s if _is_settled(policy, state, observation) else state.dwell_s or policy.dwell_s
    dwell_s = min(2 * dwell, policy.max_dwell_s) if relapse else dwell
    state = state._replace(index=target, misses=0.0, fits_since_s=None, raised_at_s=None, dwell_s=dwell_s)
    return state, Decision(target, reason)


def _maybe_upshift(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation, target: int
) -> tuple[State, Decision]:
    if target <= state.index:
        return state._replace(fits_since_s=None), Decision(state.index)
    since_s = observation.time_s if state.fits_since_s is None else state.fits_since_s
    dwell = state.dwell_s or policy.dwell_s
    if observation.time_s - since_s < dwell:
        return state._replace(fits_since_s=since_s), Decision(state.index)
    next_dwell_s = None if _is_settled(policy, state, observation) else state.dwell_s
    state = state._replace(index=target, fits_since_s=None, raised_at_s=observation.time_s, dwell_s=next_dwell_s)
    predicted_s = predict_p95(options[target], state)
    reason = (
        f"predicted p95 of {1000 * predicted_s:.1f} ms has fit the deadline of {1000 * observation.deadline_s:.1f} ms "
        f"for {dwell:g} s"
    )
    return state, Decision(target, reason)


def _is_settled(policy: Policy, state: State, observation: Observation) -> bool:
    return state.raised_at_s is not None and observation.time_s - state.raised_at_s > policy.max_dwell_s


def _best_fitting(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> int:
    most_s = policy.headroom * observation.budget_s
    return max((index for index, option in enumerate(options) if predict_p95(option, state) <= most_s), default=0)
