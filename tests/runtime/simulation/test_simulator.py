"""The simulated world keeps its books, and nobody does better in it than the oracle who knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from flexiast.spec import PatchSize
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.types import Option, Policy
from flexiast_runtime.simulation.comparison import compare
from flexiast_runtime.simulation.scenarios import NAMES, STEP_S, scenarios
from flexiast_runtime.simulation.simulator import Outcome, always, oracle, replay, simulate, wilson
from flexiast_runtime.simulation.world import BatteryModel, Heat, Scenario, World

OPTIONS = tuple(
    Option(PatchSize(size, size), latency_s, metric)
    for size, latency_s, metric in ((48, 0.023, 0.67), (32, 0.045, 0.73), (16, 0.095, 0.80), (8, 0.330, 0.83))
)

MENUS = st.lists(st.tuples(st.floats(1e-3, 0.6), st.floats(0.1, 1)), min_size=1, max_size=4).map(
    lambda pairs: tuple(Option(PatchSize(8, 8 + i), *pair) for i, pair in enumerate(sorted(pairs)))
)
SLOWDOWNS = st.lists(st.tuples(st.integers(1, 60), st.floats(0.3, 30)), min_size=1, max_size=5).map(
    lambda spans: np.repeat([factor for _, factor in spans], [ticks for ticks, _ in spans])
)


def made(slowdown: np.ndarray, seed: int = 0, deadline_s: float = STEP_S) -> Scenario:
    noise = np.random.default_rng(seed).lognormal(0, 0.05, len(slowdown))
    return Scenario("made", slowdown * noise, np.full(len(slowdown), deadline_s), STEP_S)


def outcomes(scenario: Scenario, options: tuple[Option, ...] = OPTIONS) -> list[Outcome]:
    """All that there is: the governor, the oracle, each size kept."""
    world = World(scenario, options)
    return [simulate(Policy(), world), oracle(world), *(always(index, world) for index in range(len(options)))]


# ----- the oracle


@given(MENUS, SLOWDOWNS, st.integers(0, 9), st.floats(0.1, 1), st.sampled_from(sorted(POLICIES)))
def test_nobody_scores_higher_than_the_oracle(
    options: tuple[Option, ...], slowdown: np.ndarray, seed: int, deadline_s: float, policy: str
) -> None:
    failing = np.random.default_rng(seed).random((len(slowdown), len(options))) < 0.1
    world = World(replace(made(slowdown, seed, deadline_s), failing=failing), options)
    one = compare(POLICIES[policy], world)
    assert one.ideal.score >= one.governed.score - 1e-12  # a mean in floating point
    assert all(one.ideal.score >= static.score - 1e-12 for static in one.statics)
    assert one.score_regret >= -1e-12


@given(st.floats(0.05, 0.95), st.floats(0.1, 0.5))
def test_the_oracle_ends_where_the_charge_is_to_be_and_no_lower_if_it_can(share: float, keep: float) -> None:
    calm = made(np.ones(240))
    cheapest, dearest = (calm.idle_w + calm.busy_w * o.latency_s / STEP_S for o in (OPTIONS[0], OPTIONS[-1]))
    capacity_j = (cheapest + share * (dearest - cheapest)) * calm.seconds / (1 - keep)
    world = World(replace(calm, cell=BatteryModel(capacity_j), goal_s=calm.seconds, keep=keep), OPTIONS)
    if always(0, world).charges[-1] < keep:
        return  # jitter: the cheapest itself does not last
    ideal, a_tick = oracle(world), dearest * STEP_S / capacity_j
    assert ideal.charges[-1] >= keep
    # one more window of the dearest would not fit, but for ties of jitter at one price
    assert ideal.charges[-1] <= max(keep + 3 * a_tick, float(always(len(OPTIONS) - 1, world).charges[-1]))


# ----- the books


@given(SLOWDOWNS, st.floats(10, 5_000), st.floats(0.1, 1), st.floats(0, 1))
def test_charge_lost_is_energy_drawn(slowdown: np.ndarray, capacity_j: float, charge: float, plugs_at: float) -> None:
    scenario = made(slowdown)
    cell = BatteryModel(capacity_j, charge, plugged=lambda time_s: time_s > plugs_at * scenario.seconds)
    for outcome in outcomes(replace(scenario, cell=cell)):
        drawn_j = np.cumsum(outcome.watts * STEP_S * (scenario.times_s <= plugs_at * scenario.seconds))
        np.testing.assert_allclose(outcome.charges, np.maximum(charge - drawn_j / capacity_j, 0), atol=1e-9)
        dead = outcome.charges == 0
        assert not outcome.on_time[dead].any()
        assert outcome.joules == pytest.approx(outcome.watts.mean() * scenario.seconds)


@given(SLOWDOWNS, st.integers(0, 3))
def test_audio_that_waits_is_work_that_was_not_done(slowdown: np.ndarray, index: int) -> None:
    """Lindley's recursion against its closed form, the reflected sum."""
    outcome = always(index, World(made(slowdown), OPTIONS))
    sums = np.concatenate(([0.0], np.cumsum(outcome.latencies_s - STEP_S)))
    waits = (sums - np.minimum.accumulate(sums))[1:]
    np.testing.assert_allclose(outcome.ages_s, outcome.latencies_s + waits, atol=1e-9)


def test_it_grows_as_warm_as_its_power_makes_it_and_is_held_back_above_the_limit() -> None:
    heat = Heat(kelvin_per_watt=10.0, joules_per_kelvin=2.0)
    scenario = replace(made(np.ones(1_000)), heat=heat)
    cool, hot = (always(index, World(scenario, OPTIONS)) for index in (0, 3))
    assert cool.temperatures_c[-1] == pytest.approx(heat.ambient_c + 10 * cool.watts[-100:].mean(), abs=1)
    free = made(np.ones(1_000)).slowdown * OPTIONS[3].latency_s
    held_back = np.concatenate(([heat.ambient_c], hot.temperatures_c[:-1])) >= heat.limit_c
    assert held_back.any()
    np.testing.assert_allclose(hot.latencies_s, free * np.where(held_back, heat.throttled_slowdown, 1), rtol=1e-12)


@given(st.integers(1, 20_000), st.floats(0, 1))
def test_the_interval_is_wilsons(count: int, share: float) -> None:
    misses = round(share * count)
    expected = binomtest(misses, count).proportion_ci(method="wilson")
    assert wilson(misses, count) == pytest.approx((expected.low, expected.high), abs=1e-5)  # 1.96 for 1.959964


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_the_longest_run_of_misses_is_found(late: list[bool]) -> None:
    outcome = always(0, World(made(np.where(late, 100.0, 1.0)), OPTIONS))
    assert outcome.longest_run_of_misses == max((len([*run]) for missed, run in groupby(late) if missed), default=0)
    assert outcome.misses == sum(late)


# ----- every scenario


def test_the_names_are_those_of_all_scenarios() -> None:
    assert tuple(scenarios(OPTIONS, 0.01, 0)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_gives_numbers_and_the_same_ones_again(name: str) -> None:
    def play(policy: Policy) -> Outcome:
        return simulate(policy, World(scenarios(OPTIONS, 0.1, 7)[name], OPTIONS))

    for policy in POLICIES.values():
        outcome, again = play(policy), play(policy)
        for values in (outcome.latencies_s, outcome.ages_s, outcome.watts, outcome.charges, outcome.temperatures_c):
            assert np.isfinite(values).all()
        np.testing.assert_array_equal(outcome.chosen, again.chosen)
        assert outcome.reasons == again.reasons
        followed = replay(World(scenarios(OPTIONS, 0.1, 7)[name], OPTIONS), outcome.chosen.tolist())
        np.testing.assert_array_equal(followed.charges, outcome.charges)


@pytest.mark.parametrize("step_s", [0.1, 0.25, 1.0])
def test_a_scenario_is_as_long_as_asked_whatever_the_step(step_s: float) -> None:
    found = scenarios(OPTIONS, 0.1, 0, step_s)
    assert {scenario.seconds for scenario in found.values()} == {360.0}
    assert all((scenario.deadline_s == step_s).all() for scenario in found.values())


@pytest.mark.parametrize("spread", [1.1, 1.9, 14.0])
def test_whatever_happens_some_size_survives_it(spread: float) -> None:
    """Also on a machine so fast that the sizes hardly differ."""
    options = (Option(PatchSize(32, 32), 0.0012, 0.7), Option(PatchSize(8, 8), 0.0012 * spread, 0.9))
    for scenario in scenarios(options, 0.5, 0).values():
        assert oracle(World(scenario, options)).misses == 0


# ----- presets


def test_presets_lie_on_a_line_from_few_switches_to_little_regret() -> None:
    world = World(scenarios(OPTIONS, 1.0, 3)["flurry"], OPTIONS)
    steady, balanced, greedy = (compare(POLICIES[name], world) for name in ("steady", "balanced", "greedy"))
    measures: tuple[Callable[..., float], ...] = (
        lambda one: one.governed.switches_per_hour,
        lambda one: one.governed.miss_rate,
        lambda one: -one.score_regret,
    )
    for measure in measures:
        assert measure(steady) < measure(balanced) < measure(greedy)
