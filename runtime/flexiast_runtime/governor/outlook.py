"""What each option is expected to be worth from now on, given how often loads come and how long they stay.

An option is run in one of two ways. It is *held* through every load, and loses the windows that it misses. Or it is
left when a load comes and taken again when the load has gone: a cycle, of the time that it fits and the time away.
By the renewal-reward theorem the mean worth of a cycle is the worth gathered in it ÷ its length.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexiast_runtime.governor.budgets import ROUND_TRIP
from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.types import Option, Policy
from flexiast_runtime.governor.worth import weigh_options

MISSES_OF_A_LOAD = 2.0
"""Windows that a load costs before the option is left: one that is late, one that is under way"""
PROVEN_SHARE = 3.0
"""Times the misses that the policy allows: an option that would have missed less is held through its misses, a third of
the time if need be, until the budget of misses is spent."""
FEW_SPELLS = 2.0
"""In the record: from two on their mean length is taken for that of the next"""


def is_held(policy: Policy, state: State, option: int) -> bool:
    """Whether the record of loads shows that the option seldom misses, and misses are left in the budget."""
    return state.budgets.misses > 0 and state.loads.is_proven(option, PROVEN_SHARE * policy.misses_share)


def expect_worths(policy: Policy, options: Sequence[Option], state: State, snr_db: float | None) -> list[float]:
    """The mean worth of each option per window from now on, in units of the metric."""
    worths = weigh_options(options, snr_db)
    if not state.loads.spells:
        return worths
    found, cycled_below, held_below = [], 0.0, 0.0
    for index, worth in enumerate(worths):
        is_feasible = index == 0 or is_held(policy, state, index)
        held = _compute_worth_of_holding(policy, state, index, worth, held_below) if is_feasible else 0.0
        cycle = 0.0 if index == 0 else _cycle_worth(policy, state, index, worth, cycled_below, held_below)
        found.append(max(held, cycle))
        cycled_below, held_below = max(cycled_below, found[-1]), max(held_below, held)
    return found


def is_waited_out(policy: Policy, state: State, option: int) -> bool:
    """Whether the loads that make a held option late are so short that the budget of misses covers another one."""
    loads = state.loads
    if not is_held(policy, state, option) or loads.spells[option] < FEW_SPELLS:
        return False
    return loads.late_s[option] / loads.spells[option] <= state.budgets.misses * loads.window_s


def hold_worth(policy: Policy, state: State, option: int, worth: float) -> float:
    """The worth of an option that is run through every load: each miss costs its worth times the policy's price."""
    return worth * (1 - policy.miss_cost * state.loads.late_share(option))


def _compute_worth_of_holding(policy: Policy, state: State, option: int, worth: float, below: float) -> float:
    """The worth of an option that is held for as much of the time as the budget of misses allows."""
    late = state.loads.late_share(option)
    time = min(policy.misses_share / late, 1.0) if late else 1.0
    return time * hold_worth(policy, state, option, worth) + (1 - time) * below


def _cycle_worth(
    policy: Policy, state: State, option: int, worth: float, cycled_below: float, held_below: float
) -> float:
    """The worth of an option that is left for each load.

    The time away is the load's and a dwell, spent on the best cheaper option. Where the budget of switches asks for a
    longer one, none is left for others: that time is spent on the best one that is held.
    """
    loads = state.loads
    fit_s, away_s = loads.fit_s(option), loads.spell_s(option) + (state.dwell_s or policy.dwell_s)
    wait_s = ROUND_TRIP * 3_600 / policy.switches_per_h - fit_s - away_s
    below = cycled_below if wait_s <= 0 else held_below
    away_s += max(wait_s, 0.0)
    lost = policy.miss_cost * MISSES_OF_A_LOAD * loads.window_s * worth
    return (fit_s * worth + away_s * below - lost) / (fit_s + away_s)
