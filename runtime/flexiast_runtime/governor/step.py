"""Which patch size runs next: a pure function of observations. No clock and no files, so every run can be replayed.

Down. The governor downshifts immediately when a window missed the deadline and the predicted 95th percentile of the
current option misses it, too, or when misses accumulate. While few misses are left in the budget the prediction alone
is enough.

Up. It upshifts when a costlier option would have fitted for a whole dwell and the budget of switches allows it. An
upshift that must soon be reversed doubles the dwell.

How far up, and whether a load is waited out instead of left, is what would have scored most here, see `strategies`.

Energy, heat and power-saving modes are limits of their own, see `limits`. An engine that fails is left at once and
tried again after a cooldown, which doubles each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flexiast_runtime.governor.battery_filter import update_estimate
from flexiast_runtime.governor.budgets import MAX_STEP_S, init_budgets, update_budgets
from flexiast_runtime.governor.drain import update_drain
from flexiast_runtime.governor.heat import update_heat
from flexiast_runtime.governor.limits import limit
from flexiast_runtime.governor.slowdown import MANY_MISSES, predict_p95, update_slowdown
from flexiast_runtime.governor.state import Cooldown, State
from flexiast_runtime.governor.strategies import update_contest
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy
from flexiast_runtime.governor.worth import describe_gain, weigh_options

MAX_COOLDOWN_S = 3_600.0
"""Of an engine that keeps failing: it is tried at least once an hour."""
WEIGH_S = 2.0
"""Between two looks at what options are worth here: the noise of a place does not change in two seconds, and a small
board should not interpolate it for every window."""
PROOF = 240
"""Windows that the leader must have been played along before an option without headroom is taken for it: so many show a
rate of 1 % as two or three."""
MIN_GAIN = 0.001
"""Of the metric: a tenth of a point is less than any validation set resolves, and no reason to switch."""


def init_state(policy: Policy, options: Sequence[Option], observation: Observation) -> State:
    """The state before the first window: the best option that fits the deadline and the limits."""
    start = State(0, budgets=init_budgets(policy, observation))
    state = _update_estimates(policy, options, start, observation)
    fitting = _best_fitting(policy, options, state, observation)
    return state._replace(index=min(fitting, limit(policy.goal, options, state, observation).option))


def step(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> tuple[State, Decision]:
    """One observation → the new state, and the option to run next."""
    before = state.index
    state, decision = _decide(policy, options, _forget_sleep(state, observation), observation)
    if decision.reason is None:
        return state, decision
    budgets = state.budgets._replace(switches=state.budgets.switches - 1)
    gain = describe_gain(options, before, decision.index, observation.snr_db)
    notes = "; ".join(filter(None, (decision.reason, gain, state.heat.ignored)))
    state = state._replace(budgets=budgets, heat=state.heat._replace(ignored=""))
    return state, Decision(decision.index, notes)


def _decide(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[State, Decision]:
    state = _update_estimates(policy, options, _back_off(policy, state, observation), observation)
    if observation.failed or state.degraded:
        return _fail_over(policy, options, state, observation)
    state = update_slowdown(options, state, observation, cheapest=_is_cheapest(state))
    state = _update_contest(policy, options, state, observation)
    allowed = limit(policy.goal, options, state, observation)
    if state.index > allowed.option:
        state = state._replace(raised_at_s=None)  # the limit, not the last upshift, is to blame
        most = min(allowed.option, _best_fitting(policy, options, state, observation))  # which may be lower still
        return _downshift(policy, state, observation, most, allowed.reason)
    reason = _describe_slowness(policy, options, state, observation)
    state = state._replace(backlog_steps=observation.backlog_steps)
    if reason and state.index > 0:
        most = min(_best_fitting(policy, options, state, observation), state.index - 1)
        return _downshift(policy, state, observation, most, reason)
    return _maybe_switch(policy, options, state, observation)


def _update_contest(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> State:
    """Play the strategies along, unless heat slows the machine: the thermal model answers for that."""
    if not 0 <= observation.time_s - state.weighed_at_s < WEIGH_S:
        worths = tuple(weigh_options(options, observation.snr_db))
        state = state._replace(worths=worths, weighed_at_s=observation.time_s)
    latency_s = observation.latency_s
    if observation.throttled or latency_s is None or not 0 <= latency_s < math.inf:
        return state
    return state._replace(contest=update_contest(policy, options, state, observation))


def _is_waiting(state: State) -> bool:
    """Whether late windows are waited out: the leading strategy does, and misses are left."""
    return state.contest.waits and state.budgets.misses > 0


def _forget_sleep(state: State, observation: Observation) -> State:
    """After a gap, as of a suspended machine, a dwell begins anew: nobody has watched whether anything fitted."""
    asleep = observation.time_s - state.budgets.at_s > MAX_STEP_S
    return state._replace(fits_since_s=None) if asleep and state.fits_since_s is not None else state


def _sustainable_option(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> int:
    """The costliest option still allowed with a little less charge, so that an upshift is not reversed at once."""
    battery = state.battery.battery
    less = battery and replace(battery, fraction=max(battery.fraction - policy.charge_margin, 0.0))
    return limit(policy.goal, options, state._replace(battery=state.battery._replace(battery=less)), observation).option


def _update_estimates(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> State:
    """Update what is known of the budgets, the battery and heat."""
    latency_s = observation.latency_s
    # A miss that the cheapest option would not have spared is nobody's choice.
    spared = options[0].latency_s / options[state.index].latency_s
    missed = latency_s is not None and latency_s > observation.budget_s >= latency_s * spared
    budgets = update_budgets(policy, state.budgets, observation, missed=missed, ran=latency_s is not None)
    battery = update_estimate(policy, state.battery, observation)
    follows = battery.battery is not None and battery.reading == battery.battery.fraction
    read = battery.battery if follows and observation.battery is not None else None
    drain = update_drain(state.drain, observation.time_s, read, options[state.index].watts)
    return update_heat(policy, options, state._replace(budgets=budgets, battery=battery, drain=drain), observation)


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


def _is_cheapest(state: State) -> bool:
    """Whether no cheaper engine works."""
    return _list_cooling_down(state).issuperset(range(state.index))


def _describe_slowness(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> str | None:
    option = options[state.index]
    deadline = f"the deadline of {1000 * observation.deadline_s:.1f} ms"
    most_s = policy.limit * observation.budget_s
    missed = observation.latency_s is not None and observation.latency_s > observation.budget_s
    # A backlog that shrinks is being caught up.
    if observation.backlog_steps > 1 and observation.backlog_steps >= state.backlog_steps:
        return f"{observation.backlog_steps:.1f} steps of audio are waiting"
    if _is_waiting(state) or _is_stalled_outside(policy, options, state, observation):
        return None
    predicted_s = predict_p95(option, state)
    if predicted_s > most_s and (missed or not state.budgets.spares_a_miss(policy)):
        return f"predicted p95 of {1000 * predicted_s:.1f} ms does not fit {deadline}"
    if state.misses > MANY_MISSES:
        return f"{deadline} was missed repeatedly"
    return None


def _is_stalled_outside(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> bool:
    """Whether a lone stall outside the engine took so much of the deadline that no cheaper size would have met it."""
    predicted_s = predict_p95(options[state.index], state)
    fits = predicted_s <= policy.limit * observation.deadline_s and state.misses <= MANY_MISSES
    return fits and predict_p95(options[0], state) > observation.budget_s


def _downshift(
    policy: Policy, state: State, observation: Observation, most: int, reason: str
) -> tuple[State, Decision]:
    """Switch to the best of the options up to ``most``, which fit now; stay if all cool down."""
    resting = _list_cooling_down(state)
    healthy = [index for index in range(state.index) if index not in resting and index <= most]
    if not healthy:
        return state, Decision(state.index)
    target = max(healthy, key=lambda index: (state.worths[index], index))
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


def _maybe_switch(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[State, Decision]:
    """Switch to the best option up to the leader's ceiling, once there has been a better one for a whole dwell."""
    target, better = _find_better(policy, options, state, observation)
    if target is None:
        return state._replace(fits_since_s=None), Decision(state.index)
    since = observation.time_s if state.fits_since_s is None else state.fits_since_s
    dwell = state.dwell_s or policy.dwell_s
    climbs = target > state.index
    is_allowed = not climbs or _is_affordable(policy, options, state, observation, better)
    if observation.time_s - since < dwell or not is_allowed:
        return state._replace(fits_since_s=since), Decision(state.index)
    next_dwell_s = None if _is_settled(policy, state, observation) else state.dwell_s
    reason = _describe_switch(policy, options, state, observation, target)
    raised_at_s = observation.time_s if climbs else None
    state = state._replace(index=target, fits_since_s=None, raised_at_s=raised_at_s, dwell_s=next_dwell_s)
    return state, Decision(target, reason)


def _find_better(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation
) -> tuple[int | None, int | None]:
    """The best option that fits, up to the leader's ceiling, if it is better than the current one or that is above.

    Then one that is even better and does not fit yet, if there is any: a climb to less than that is a detour.
    """
    worths, resting, ceiling = state.worths, _list_cooling_down(state), state.contest.find_ceiling(options)
    best = better = None
    best_worth = better_worth = -1.0 if state.index > ceiling else worths[state.index] + MIN_GAIN
    if max(worths[: ceiling + 1]) <= best_worth:
        return None, None
    highest = min(ceiling, _sustainable_option(policy, options, state, observation))
    for index, worth in enumerate(worths[: max(highest, min(state.index, ceiling)) + 1]):
        if index in resting or worth <= best_worth or index == state.index:
            continue
        if index > state.index and not _fits(policy, options, state, observation, index):
            if worth > better_worth:
                better, better_worth = index, worth
            continue
        best, best_worth = index, worth
    return best, better if better_worth > best_worth else None


def _is_affordable(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation, better: int | None
) -> bool:
    """Whether the budgets allow a climb; a detour needs twice as much, and a better option that is not about to fit."""
    if better is None:
        return state.budgets.allows_climb()
    about_to_fit = state.latest * options[better].latency_s <= policy.headroom * observation.budget_s
    return state.budgets.allows_detour() and not about_to_fit


def _fits(policy: Policy, options: Sequence[Option], state: State, observation: Observation, index: int) -> bool:
    """Whether an option fits with headroom; or on average, where that is enough for the leader."""
    if predict_p95(options[index], state) <= policy.headroom * observation.budget_s:
        return True
    fits = options[index].latency_s * state.slowdown <= policy.limit * observation.budget_s
    is_enough = _is_waiting(state) or (state.contest.windows >= PROOF and state.contest.runs(index))
    return fits and is_enough and state.budgets.spares_a_miss(policy)


def _describe_switch(
    policy: Policy, options: Sequence[Option], state: State, observation: Observation, target: int
) -> str:
    if target < state.index:
        return f"{options[target].patch} has been worth more on average"
    predicted, deadline = predict_p95(options[target], state), f"deadline of {1000 * observation.deadline_s:.1f} ms"
    if predicted <= policy.headroom * observation.budget_s:
        dwell = state.dwell_s or policy.dwell_s
        return f"predicted p95 of {1000 * predicted:.1f} ms has fit the {deadline} for {dwell:g} s"
    return f"the {deadline} is missed so seldom that {options[target].patch} has been worth more"


def _is_settled(policy: Policy, state: State, observation: Observation) -> bool:
    """Whether the last upshift has held for so long that the dwell returns to the policy's."""
    return state.raised_at_s is not None and observation.time_s - state.raised_at_s > policy.max_dwell_s


def _best_fitting(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> int:
    """The costliest option that fits, also at the slowdown of the last window, else the cheapest.

    Half of that slowdown may not be learnt yet; to believe it saves a second switch, and costs little if it was a lone
    pause.
    """
    most_s = policy.headroom * observation.budget_s / state.latest if state.latest > 0 else math.inf
    return max(
        (
            index
            for index, option in enumerate(options)
            if option.latency_s <= most_s and _fits(policy, options, state, observation, index)
        ),
        default=0,
    )
