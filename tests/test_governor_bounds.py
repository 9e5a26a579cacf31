"""The best causal rule of the proof, against what is known of it without a linear program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.governor_bounds import AGES, solve_causal
from flexiast.spec import PatchSize
from flexiast_runtime.governor.types import Option
from flexiast_runtime.simulation.simulator import always, oracle
from flexiast_runtime.simulation.world import Scenario, World

OPTIONS = tuple(
    Option(PatchSize(size, size), latency_s, metric)
    for size, latency_s, metric in ((48, 0.02, 0.6), (16, 0.1, 0.8), (8, 0.3, 0.9))
)
LOADS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1.0, 3.0, 20.0])), min_size=2, max_size=30)
ANY = 1e6
"""Switches an hour: no limit"""


def make_world(loads: list[tuple[int, float]]) -> World:
    slowdown = np.repeat([factor for _, factor in loads], [ticks for ticks, _ in loads])
    return World(Scenario("made", slowdown, np.full(len(slowdown), 0.5)), OPTIONS)


@settings(deadline=None, max_examples=30)
@given(LOADS)
def test_where_switches_are_free_it_takes_what_gains_most_after_each_load(loads: list[tuple[int, float]]) -> None:
    world = make_world(loads)
    gains = np.array([o.metric for o in OPTIONS]) * (world.latencies_s[0] <= 0.5)
    fitting, seen, age = (gains > 0).sum(axis=1), {}, 0
    for tick, now in enumerate(fitting):
        age = 0 if tick == 0 or now != fitting[tick - 1] else min(age + 1, AGES - 1)
        seen.setdefault((now, age), []).append(gains[(tick + 1) % len(gains)])
    best = sum(np.sum(each, axis=0).max() for each in seen.values()) / len(gains)
    assert solve_causal(world, ANY, 1.0).score == pytest.approx(best)


@settings(deadline=None, max_examples=30)
@given(LOADS, st.floats(0, 1))
def test_without_a_switch_it_is_the_best_size_or_a_mixture(loads: list[tuple[int, float]], misses: float) -> None:
    world = make_world(loads)
    statics = [always(index, world) for index in range(len(OPTIONS))]
    bound = solve_causal(world, 0.0, misses)
    assert bound.miss_rate <= misses + 1e-9  # the solver's tolerance
    assert bound.score >= max(s.score for s in statics if s.miss_rate <= misses) - 1e-9
    assert bound.score <= max(s.score for s in statics) + 1e-9


@settings(deadline=None, max_examples=30)
@given(LOADS, st.floats(0, 3_600), st.floats(0, 1))
def test_nobody_without_the_future_is_better_than_the_oracle(
    loads: list[tuple[int, float]], switches: float, misses: float
) -> None:
    world = make_world(loads)
    bound = solve_causal(world, switches, misses)
    assert bound.score <= oracle(world).score + 1e-9
    assert bound.switches_per_hour <= switches + 1e-6
