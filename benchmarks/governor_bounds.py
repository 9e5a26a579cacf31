"""What a governor could reach at best with a budget of switches: with the future known, and without."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from flexiast_runtime.simulation.simulator import Outcome, metrics, replay
from flexiast_runtime.simulation.world import World

BISECTIONS = 14
"""Of the price of a switch, in windows: to a hundredth"""
AGES = 6
"""Windows for which the age of a load counts: none of those here ends before its fourth"""


def plan_ahead(world: World, switches_per_h: float) -> Outcome:
    """The best sequence of options with so many switches, the future known: Viterbi's, with a price on a switch."""
    low, high = 0.0, 100.0
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        low, high = (price, high) if _plan(world, price).switches_per_hour > switches_per_h else (low, price)
    return _plan(world, high)


def _plan(world: World, price: float) -> Outcome:
    gains = metrics(world.options) * (world.latencies_s[0] <= world.scenario.deadline_s[:, None]) * ~world.failing
    sums, came_from = gains[0].copy(), np.empty(gains.shape, np.int64)
    stay = np.arange(len(world.options))
    for tick in range(1, len(gains)):
        best = int(sums.argmax())
        came_from[tick] = np.where(sums >= sums[best] - price, stay, best)
        sums = np.maximum(sums, sums[best] - price) + gains[tick]
    chosen = [int(sums.argmax())]
    for tick in range(len(gains) - 1, 0, -1):
        chosen.append(int(came_from[tick, chosen[-1]]))
    return replay(world, reversed(chosen))


class CausalBound(NamedTuple):
    """What the best rule reaches that sees the past alone."""

    score: float
    miss_rate: float
    switches_per_hour: float


def solve_causal(world: World, switches_per_h: float, miss_rate: float) -> CausalBound:
    """The best rule from the present load to the next option within both rates: a constrained Markov decision process.

    A load is how many options meet the deadline, and for how long that has been so. The rule knows how often each load
    follows each other one in this very world, but not when. Its frequencies of (load, option, next option) are the
    unknowns of a linear program (E. Altman, Constrained Markov Decision Processes, 1999). It is the best there is where
    loads come and go at random; a rule that knows more of the past, as of a ramp's, can do better.
    """
    on_time = world.latencies_s[0] <= world.scenario.deadline_s[:, None]
    loads, fitting = _list_loads(on_time.sum(axis=1))
    follows = np.zeros((len(fitting), len(fitting)))
    np.add.at(follows, (loads, np.roll(loads, -1)), 1.0)
    follows /= follows.sum(axis=1, keepdims=True)
    count = len(world.options)
    fits = fitting[:, None] > np.arange(count)
    gain, late = follows @ (fits * metrics(world.options)), follows @ ~fits
    # Unknowns [load, option, next option]: what comes out of a state goes into it.
    states = len(fitting) * count
    out = np.repeat(np.eye(states), count, axis=1)
    into = np.einsum("lm,nk->mnlk", follows, np.eye(count))
    into = np.repeat(into[:, :, :, None, :], count, axis=3).reshape(states, -1)
    switched = np.broadcast_to(~np.eye(count, dtype=bool), (len(fitting), count, count)).ravel().astype(float)
    per_tick = world.scenario.step_s / 3_600
    gains, misses = (np.repeat(each[:, None, :], count, axis=1).ravel() for each in (gain, late))
    found = linprog(
        -gains,
        A_ub=np.stack((switched, misses)),
        b_ub=(switches_per_h * per_tick, miss_rate),
        A_eq=np.concatenate((out - into, np.ones((1, out.shape[1])))),
        b_eq=np.append(np.zeros(states), 1.0),
    )
    return CausalBound(float(gains @ found.x), float(misses @ found.x), float(switched @ found.x / per_tick))


def _list_loads(fitting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The load of each tick, numbered, and by number how many options it lets through."""
    ages = np.zeros(len(fitting), np.int64)
    for tick in range(1, len(fitting)):
        ages[tick] = min(ages[tick - 1] + 1, AGES - 1) if fitting[tick] == fitting[tick - 1] else 0
    numbers, loads = np.unique(fitting * AGES + ages, return_inverse=True)
    return loads, numbers // AGES
