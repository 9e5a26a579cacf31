"""The costliest option that heat allows.

Heat is no reason of its own: an option that meets the deadline throttled, too, is never taken away for it. Of the
others the best one that can be sustained is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.thermal import measure_throttling, update_model
from flexiast_runtime.governor.types import Observation, Option, Policy

STEADY_C = 1.0
"""Headroom that a machine must keep when it has settled, for an option that comes near the limit to be sustainable: one
step of a sensor in degrees"""


HARMLESS = 0.88
"""Share of the deadline below which the mean latency of a throttled option must stay: the 95th percentile of the jitter
of a quiet machine, 5 %, is 8 % above its mean, and 3 % cover the timer's noise."""


def update_heat(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> State:
    """Learn from the sensor; lower the limit by one option every ``heat_s`` while hot; raise it while it would last."""
    state = _learn(options, state, observation)
    headroom_c = state.heat.believed_c
    throttled = bool(observation.throttled)
    harmless = _find_harmless(options, state, observation)
    if state.heat_limit is not None and state.heat_limit < harmless:
        state = state._replace(heat_limit=None if harmless == len(options) - 1 else harmless)
    if headroom_c is None and not throttled:  # nothing is known of heat any more
        return _raise(policy, options, state, observation, None)
    since_s = observation.time_s - state.heat_at_s
    if throttled or (headroom_c is not None and headroom_c < policy.hot_headroom_c and not _settles(options, state)):
        lower = max(state.index - 1, harmless, 0)
        if since_s >= policy.heat_s and lower < state.index:
            return state._replace(heat_limit=lower, heat_at_s=observation.time_s)
        return state
    return _raise(policy, options, state, observation, headroom_c)


def _raise(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation, headroom_c: float | None
) -> State:
    limit, since_s = state.heat_limit, observation.time_s - state.heat_at_s
    if limit is None or since_s < policy.max_dwell_s:
        return state
    if limit + 1 >= len(options):
        return state._replace(heat_limit=None)
    if headroom_c is not None:
        lasts_s = state.heat.lasts_s(_work(options, state, limit + 1), policy.hot_headroom_c)
        if headroom_c <= policy.cool_headroom_c if lasts_s is None else lasts_s < policy.max_dwell_s:
            return state
    return state._replace(heat_limit=limit + 1, heat_at_s=observation.time_s)


def _learn(options: Sequence[Option], state: State, observation: Observation) -> State:
    heat = update_model(
        state.heat, observation.time_s, observation.thermal_headroom_c, _work(options, state, state.index)
    )
    if not observation.throttled:
        return state._replace(heat=heat, unthrottled=state.level)
    if observation.latency_s is not None and 0 < observation.latency_s < math.inf:
        option = options[state.index if observation.option is None else observation.option]
        heat = measure_throttling(heat, observation.latency_s / option.latency_s, state.unthrottled)
    return state._replace(heat=heat)


def _work(options: Sequence[Option], state: State, index: int) -> float:
    """Of an option, as a share of the costliest's on an idle machine."""
    return options[index].latency_s / options[-1].latency_s


def _settles(options: Sequence[Option], state: State) -> bool:
    """Whether the current option can be run for ever without being throttled."""
    steady_c = state.heat.steady_c(_work(options, state, state.index))
    return steady_c is not None and steady_c >= STEADY_C


def _find_harmless(options: Sequence[Option], state: State, observation: Observation) -> int:
    """The costliest option that meets the deadline throttled, too; −1: none does."""
    budget_s = HARMLESS * observation.budget_s / (state.unthrottled * state.heat.throttling)
    return max((index for index, option in enumerate(options) if option.latency_s <= budget_s), default=-1)
