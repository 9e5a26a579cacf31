"""Which strategy would have scored most here: the governor follows it ("prediction with expert advice").

A strategy has a *ceiling*, the costliest option that it uses, and one of two ways to meet a load: it leaves for a
cheaper option, or waits while misses are left in its budget. One slowdown is shared by all options, so each window
shows what every strategy would have done: all are played along, each with budgets of its own. A size kept for ever, as
far as its misses are allowed, is one of them; so none stays ahead of the governor for long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flexiast_runtime.governor.budgets import MAX_STEP_S, init_budgets, update_budgets
from flexiast_runtime.governor.state import Contest, State, Strategy
from flexiast_runtime.governor.types import Observation, Option, Policy

MEMORY_S = 1_800.0
"""Time after which what was scored counts a third. Ten switches an hour need a decision each six minutes, so the memory
must span several of those; a co-tenant that has left should be forgotten within the hour."""
LEAD_S = 3.0
"""Seconds of a perfect size by which another strategy must be ahead before it is followed: what two late windows and a
dwell cost, so that chance seldom changes the leader."""
SETTLE_S = 10.0
"""After a load the prediction takes about so long to come down, before a dwell begins."""


def update_contest(policy: Policy, options: Sequence[Option], state: State, observation: Observation) -> Contest:
    """The contest after one more window, whose latency the slowdown in the state has learnt."""
    contest = state.contest
    if not contest.strategies:
        return _open(policy, options, observation)
    elapsed_s = min(max(observation.time_s - contest.at_s, 0.0), MAX_STEP_S)
    window = _Window(policy, options, state, observation, elapsed_s)
    strategies = tuple(map(window.advance, contest.strategies))
    best = max(range(len(strategies)), key=lambda index: strategies[index].gained)
    is_ahead = strategies[best].gained > strategies[contest.leader].gained + LEAD_S
    return Contest(strategies, best if is_ahead else contest.leader, observation.time_s, contest.windows + 1)


def _open(policy: Policy, options: Sequence[Option], observation: Observation) -> Contest:
    """All start at their ceilings; until something is known, the costliest one leads that leaves when it is late."""
    budgets = init_budgets(policy, observation)
    strategies = [Strategy(index, waits, index, budgets) for waits in (True, False) for index in range(len(options))]
    return Contest(tuple(strategies), len(strategies) - 1, observation.time_s)


class _Window:
    """What one window shows of every option."""

    def __init__(
        self, policy: Policy, options: Sequence[Option], state: State, observation: Observation, elapsed_s: float
    ) -> None:
        self.policy, self.worths, self.observation, self.elapsed_s = policy, state.worths, observation, elapsed_s
        self.keep = math.exp(-elapsed_s / MEMORY_S)
        latencies_s = [state.latest * option.latency_s for option in options]
        self.late = [each > observation.budget_s for each in latencies_s]
        self.roomy = [each <= policy.headroom * observation.budget_s for each in latencies_s]
        self.refuge = max((index for index, roomy in enumerate(self.roomy) if roomy), default=0)

    def advance(self, strategy: Strategy) -> Strategy:
        """A strategy after this window."""
        policy, option, ceiling = self.policy, strategy.option, strategy.ceiling
        late = self.late[option]
        missed = late and not self.late[0]  # a window that the cheapest option misses, too, is nobody's choice
        budgets = update_budgets(policy, strategy.budgets, self.observation, missed=missed, ran=True)
        worth = self.worths[option] * (1 - policy.miss_cost if late else 1.0)
        fits = not self.late[ceiling] if strategy.waits else self.roomy[ceiling]
        fits_s = strategy.fits_s + self.elapsed_s if fits else 0.0
        if late and not (strategy.waits and budgets.misses > 0):
            option = self.refuge
        elif option != ceiling and fits_s >= policy.dwell_s + SETTLE_S and budgets.allows_climb():
            option = ceiling
        if option != strategy.option:
            budgets = budgets._replace(switches=budgets.switches - 1)
        gained = self.keep * strategy.gained + self.elapsed_s * worth
        return Strategy(ceiling, strategy.waits, option, budgets, fits_s, gained)
