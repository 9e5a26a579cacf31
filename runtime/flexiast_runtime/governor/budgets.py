"""What the governor may spend: switches and missed windows, each a bucket that fills at the rate allowed.

A switch down is never refused, but it is counted, so that the next switch up waits for it.
"""

from __future__ import annotations

from typing import NamedTuple

from flexiast_runtime.governor.types import Observation, Policy

MAX_STEP_S = 5.0
"""Time that one window stands for, at most: after a suspended hour the machine has not been watched for an hour."""
SWITCHES_AT_ONCE = 0.5
"""Size of the bucket of switches, in hours of its rate: what a quiet half hour saves, a busy one may spend."""
SWITCHES_AT_START = 0.2
"""What is in it at the start, in hours of its rate: four at 20 an hour, two ways up and down to begin with"""
FILL = 0.9
"""Of the rate at which either fills, so that with what was there at the start the rate is kept, too, after two hours"""
ROUND_TRIP = 2.0
"""Switches that must be left for one up: it, and the one down that may follow"""
MISSES_OVER = 1_000.0
"""Windows over which the share of misses is a budget: at 1 % it is ten. Two loads, each noticed after two windows,
and a pause of some windows."""


class Budgets(NamedTuple):
    """What is left in each bucket."""

    switches: float
    misses: float
    at_s: float

    def allows_climb(self) -> bool:
        """Whether a switch up and the one down that may follow are still in the budget, and the misses before that."""
        return self.switches >= ROUND_TRIP and self.misses > 0

    def allows_detour(self) -> bool:
        """Whether two such trips are left: one for a size that fits now, one for a better one that may fit soon."""
        return self.switches >= 2 * ROUND_TRIP

    def spares_a_miss(self, policy: Policy) -> bool:
        """Whether half of the misses are left, so that a load need not be left before it has cost one."""
        return self.misses >= 0.5 * MISSES_OVER * policy.misses_share


def init_budgets(policy: Policy, observation: Observation) -> Budgets:
    """The budgets before the first window."""
    return Budgets(SWITCHES_AT_START * policy.switches_per_h, MISSES_OVER * policy.misses_share, observation.time_s)


def update_budgets(policy: Policy, budgets: Budgets, observation: Observation, *, missed: bool, ran: bool) -> Budgets:
    """The budgets after one more window: time fills one bucket, windows that ran the other."""
    elapsed_s = min(max(observation.time_s - budgets.at_s, 0.0), MAX_STEP_S)  # asleep, nothing is saved up
    most_switches, most_misses = SWITCHES_AT_ONCE * policy.switches_per_h, MISSES_OVER * policy.misses_share
    switches = budgets.switches + FILL * policy.switches_per_h * elapsed_s / 3_600
    misses = budgets.misses + (FILL * policy.misses_share if ran else 0.0) - missed
    return Budgets(min(switches, most_switches), min(max(misses, -most_misses), most_misses), observation.time_s)
