"""The governor on recorded and invented traces: a pure function, so time here is a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast_runtime.governor.battery_filter import update_estimate
from flexiast_runtime.governor.limits import BAND, TAPER_FROM, limit
from flexiast_runtime.governor.slowdown import predict_p95
from flexiast_runtime.governor.state import BatteryEstimate, Cooldown, State
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Decision, Goal, Observation, Option, Policy
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.hardware.battery import Battery

POLICY = Policy()
OPTIONS = tuple(
    Option(PatchSize(size, size), latency_s, metric)
    for size, latency_s, metric in ((32, 0.010, 0.7), (16, 0.030, 0.8), (8, 0.090, 0.9))
)
STEP_S, DEADLINE_S = 0.25, 0.25


class Moment(NamedTuple):
    """What a governor saw and did."""

    seen: Observation
    before: int
    decision: Decision
    state: State

    @property
    def rise(self) -> int:
        return self.decision.index - self.before


def play(
    seconds: float,
    slowdown: Callable[[float, int], float] = lambda time_s, index: 1.0,
    *,
    options: Sequence[Option] = OPTIONS,
    battery: Callable[[float], Battery | None] = lambda time_s: None,
    state: State | None = None,
    begin_s: float = 0.0,
    policy: Policy = POLICY,
) -> tuple[State, list[Moment]]:
    """Windows every step on a machine that is slower than its profile by a factor of time and option."""
    state = state or init_state(policy, options, Observation(begin_s, DEADLINE_S, battery=battery(begin_s)))
    moments = []
    for tick in range(1, round(seconds / STEP_S) + 1):
        time_s, index = begin_s + tick * STEP_S, state.index
        latency_s = options[index].latency_s * slowdown(time_s, index)
        seen = Observation(time_s, DEADLINE_S, latency_s, battery=battery(time_s))
        state, decision = step(policy, options, state, seen)
        moments.append(Moment(seen, index, decision, state))
    return state, moments


def rises(moments: Sequence[Moment]) -> list[float]:
    return [moment.seen.time_s for moment in moments if moment.rise > 0]


def switches(moments: Sequence[Moment]) -> int:
    return sum(moment.rise != 0 for moment in moments)


# ----- any trace at all

LATENCIES = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.floats(0, 1e3))
BATTERIES = st.one_of(st.none(), st.builds(Battery, fraction=st.floats(0, 1), discharging=st.booleans()))
SEEN = st.builds(
    Observation,
    time_s=st.floats(0.01, 60),  # since the one before; made absolute in `played`
    deadline_s=st.floats(0.005, 1),
    latency_s=LATENCIES,
    backlog_steps=st.floats(0, 10),
    battery=BATTERIES,
    thermal_headroom_c=st.one_of(st.none(), st.just(math.nan), st.just(math.inf)),
    throttled=st.sampled_from([None, False]),
)
TRACES = st.lists(SEEN, min_size=1, max_size=60)
MENUS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=5, unique=True).map(
    lambda latencies: tuple(Option(PatchSize(8, 8 + i), latency) for i, latency in enumerate(sorted(latencies)))
)


def played(options: Sequence[Option], trace: Sequence[Observation]) -> list[Moment]:
    state, time_s, moments = init_state(POLICY, options, replace(trace[0], time_s=0.0)), 0.0, []
    for seen in trace:
        time_s += seen.time_s
        index, seen = state.index, replace(seen, time_s=time_s)  # noqa: PLW2901 (a trace in absolute time)
        state, decision = step(POLICY, options, state, seen)
        assert state.index == decision.index
        moments.append(Moment(seen, index, decision, state))
    return moments


@given(MENUS, TRACES)
def test_it_never_leaves_the_options_and_says_why_it_moves(options: Sequence[Option], trace: list[Observation]) -> None:
    for moment in played(options, trace):
        assert 0 <= moment.decision.index < len(options)
        assert (moment.decision.reason is None) == (moment.rise == 0)


@given(MENUS, TRACES)
def test_it_goes_up_no_sooner_than_after_a_dwell(options: Sequence[Option], trace: list[Observation]) -> None:
    moments = played(options, trace)
    for before, after in pairwise([moments[0].seen.time_s, *rises(moments)]):
        assert after - before >= POLICY.dwell_s - 1e-9  # differences of floats


@given(MENUS, TRACES)
def test_what_it_goes_up_to_fits_with_room_to_spare(options: Sequence[Option], trace: list[Observation]) -> None:
    for moment in played(options, trace):
        predicted = predict_p95(options[moment.decision.index], moment.state)
        assert moment.rise <= 0 or predicted <= POLICY.headroom * moment.seen.budget_s


@given(MENUS, TRACES)
def test_a_replayed_trace_gives_the_same_decisions(options: Sequence[Option], trace: list[Observation]) -> None:
    assert played(options, trace) == played(options, trace)


@given(MENUS, TRACES)
def test_it_never_runs_what_the_battery_forbids(options: Sequence[Option], trace: list[Observation]) -> None:
    for moment in played(options, trace):
        allowed = init_state(POLICY, options, Observation(0.0, math.inf, battery=moment.state.battery.battery)).index
        assert moment.decision.index <= allowed


# ----- what is missing is ignored


@given(MENUS, TRACES, st.sampled_from([None, math.nan, math.inf]))
def test_a_missing_latency_teaches_nothing(
    options: Sequence[Option], trace: list[Observation], missing: float | None
) -> None:
    state = init_state(POLICY, options, trace[0])
    for seen in trace:
        unlearned, _ = step(POLICY, options, state._replace(misses=0.0), replace(seen, latency_s=missing))
        assert (unlearned.slowdown, unlearned.variance) == (state.slowdown, state.variance)
        assert unlearned.misses == 0.0
        state, _ = step(POLICY, options, state, seen)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
@pytest.mark.parametrize("deadline_s", [0.25, 0.08], ids=["dearest fits", "middle fits"])
def test_hours_without_a_latency_change_nothing(missing: float | None, deadline_s: float) -> None:
    state = init_state(POLICY, OPTIONS, Observation(0.0, deadline_s))
    for tick in range(20_000):
        state, decision = step(POLICY, OPTIONS, state, Observation(tick * STEP_S, deadline_s, missing))
        assert decision.reason is None


@given(st.floats(0, 1))
def test_a_battery_that_vanishes_or_charges_forbids_nothing(fraction: float) -> None:
    for battery in (None, Battery(fraction, discharging=False)):
        assert init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S, battery=battery)).index == 2


# ----- battery


@given(MENUS, st.floats(0, 1), st.floats(0, 1), st.floats(0.005, 2))
def test_less_battery_never_gives_a_dearer_start(
    options: Sequence[Option], one: float, other: float, deadline_s: float
) -> None:
    less, more = (
        init_state(POLICY, options, Observation(0.0, deadline_s, battery=Battery(fraction, discharging=True)))
        for fraction in sorted((one, other))
    )
    assert less.index <= more.index


@given(MENUS, TRACES, st.floats(0, 1), st.floats(0, 1))
def test_less_battery_never_gives_a_dearer_next_step(
    options: Sequence[Option], trace: list[Observation], one: float, other: float
) -> None:
    low, high = (Battery(fraction, discharging=True) for fraction in sorted((one, other)))
    state = init_state(POLICY, options, trace[0])
    for seen in trace:
        less = step(POLICY, options, state, replace(seen, battery=low))[1]
        more = step(POLICY, options, state, replace(seen, battery=high))[1]
        assert less.index <= more.index
        state, _ = step(POLICY, options, state, seen)


def test_a_battery_that_drains_takes_it_from_the_dearest_to_the_cheapest() -> None:
    hours = 3_600.0
    _, moments = play(hours, battery=lambda time_s: Battery(1 - time_s / hours, discharging=True))
    by_fraction = [(moment.seen.battery.fraction, moment.decision.index) for moment in moments]
    assert all(index == 2 for fraction, index in by_fraction if fraction >= TAPER_FROM)
    assert all(index == 0 for fraction, index in by_fraction if fraction <= POLICY.goal.min_battery)
    assert all(moment.rise <= 0 for moment in moments)
    assert {moment.decision.reason.split()[0] for moment in moments if moment.rise} == {"battery"}


def test_a_draining_battery_does_not_hide_that_it_is_too_slow() -> None:
    state = init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S))
    drained = Battery(0.45, discharging=True)  # allows the middle one
    for factor, index in ((1, 1), (20, 0)):
        latency_s = factor * OPTIONS[2].latency_s
        _, decision = step(POLICY, OPTIONS, state, Observation(STEP_S, DEADLINE_S, latency_s, battery=drained))
        assert decision.index == index


def test_a_cable_brings_the_dearest_back() -> None:
    def battery(time_s: float) -> Battery:
        return Battery(0.1, discharging=time_s < 60)

    state, moments = play(200, battery=battery)
    assert [moment.decision.index for moment in moments if moment.rise] == [2]
    assert state.dwell_s is None  # the battery's orders are nobody's mistake


def test_a_cable_that_is_pulled_again_is_no_failed_climb() -> None:
    state, moments = play(120, battery=lambda time_s: Battery(0.1, discharging=not 60 <= time_s < 85))
    assert [moment.rise for moment in moments if moment.rise] == [2, -2]
    assert rises(moments)[0] > 85 - POLICY.relapse_s  # pulled so soon after that it would count as one
    assert state.dwell_s in {None, POLICY.dwell_s}


# ----- down


@given(MENUS, TRACES, st.floats(2, 100))
def test_one_window_of_twice_the_deadline_lowers_at_once(
    options: Sequence[Option], trace: list[Observation], factor: float
) -> None:
    # half of the surprise is believed at once: 2 x the deadline is then predicted to miss it
    state = init_state(POLICY, options, trace[0])
    for seen in trace:
        slow = replace(seen, latency_s=factor * seen.deadline_s, backlog_steps=0.0, battery=None)
        decision = step(POLICY, options, state, slow)[1]
        assert decision.index < state.index or state.index == 0
        state, _ = step(POLICY, options, state, seen)


@given(MENUS, st.floats(0.05, 2), st.floats(1.001, 100))
def test_two_misses_in_a_row_lower(options: Sequence[Option], deadline_s: float, factor: float) -> None:
    state = first = init_state(POLICY, options, Observation(0.0, deadline_s))
    for tick in (1, 2):
        missed = Observation(tick * STEP_S, deadline_s, factor * deadline_s)
        state, _ = step(POLICY, options, state, missed)
    assert state.index < first.index or first.index == 0


def test_two_misses_in_a_row_lower_even_where_the_prediction_would_not() -> None:
    # at a tenth of the deadline by profile, half and three quarters of two misses are believed
    options, deadline_s = OPTIONS[1:], 10 * OPTIONS[2].latency_s
    state, decisions = init_state(POLICY, options, Observation(0.0, deadline_s)), []
    for tick in (1, 2):
        state, decision = step(POLICY, options, state, Observation(tick * STEP_S, deadline_s, 1.01 * deadline_s))
        decisions.append(decision)
    assert [decision.index for decision in decisions] == [1, 0]
    assert "900.0 ms was missed" in decisions[1].reason


def test_a_miss_now_and_then_does_not_lower() -> None:
    options, deadline_s = OPTIONS[1:], 10 * OPTIONS[2].latency_s
    state = init_state(POLICY, options, Observation(0.0, deadline_s))
    for tick in range(1, 400):
        latency_s = 1.01 * deadline_s if tick % 10 == 0 else OPTIONS[2].latency_s
        state, decision = step(POLICY, options, state, Observation(tick * STEP_S, deadline_s, latency_s))
        assert decision.reason is None


def test_waiting_audio_lowers() -> None:
    state = init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S))
    waiting = Observation(STEP_S, DEADLINE_S, OPTIONS[2].latency_s, backlog_steps=1.5)
    _, decision = step(POLICY, OPTIONS, state, waiting)
    assert decision == Decision(1, "1.5 steps of audio are waiting; -10.0 points on clean sounds")


@pytest.mark.parametrize(("waits", "index"), [(1.4, 1), (1.5, 0), (2.0, 0)], ids=["falls", "stays", "grows"])
def test_audio_that_waited_for_a_dearer_size_lowers_once(waits: float, index: int) -> None:
    state = init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S))
    for tick, backlog in ((1, 1.5), (2, waits)):
        latency_s = OPTIONS[state.index].latency_s
        state, _ = step(
            POLICY, OPTIONS, state, Observation(tick * STEP_S, DEADLINE_S, latency_s, backlog_steps=backlog)
        )
    assert state.index == index


@given(MENUS, TRACES, st.floats(0, 1))
def test_a_window_that_was_fast_never_raises_the_prediction(
    options: Sequence[Option], trace: list[Observation], share: float
) -> None:
    state = init_state(POLICY, options, trace[0])
    for seen in trace:
        option = options[state.index]
        fast = Observation(1e6, math.inf, share * option.latency_s * state.slowdown)
        learned, _ = step(POLICY, options, state, fast)
        assert predict_p95(option, learned) <= predict_p95(option, state) * (1 + 1e-9)  # rounding
        state, _ = step(POLICY, options, state, seen)


def test_a_load_that_ends_is_no_reason_to_go_down() -> None:
    # a load that grows slowly to what just fits, 234 of 250 ms; then the machine is free again
    _, moments = play(200, lambda time_s, _: 1 + 1.6 * min(1, time_s / 75) if time_s < 100 else 1.0)
    assert switches(moments) == 0


@given(st.integers(1, 200))
def test_it_is_overloaded_from_two_misses_of_the_cheapest_until_it_is_long_in_time(windows: int) -> None:
    state, moments = play(windows * STEP_S, lambda _, index: 100.0 if index == 0 else 30.0)
    missed = [moment.seen.latency_s > DEADLINE_S for moment in moments if moment.before == 0]  # type: ignore[operator]
    assert [m.state.overloaded for m in moments if m.before == 0] == [n > 0 for n in range(len(missed))]
    assert not any(moment.state.overloaded for moment in moments if moment.before > 0)
    state, moments = play(20 * STEP_S, state=state, begin_s=windows * STEP_S)
    assert not state.overloaded
    assert sum(a.state.overloaded != b.state.overloaded for a, b in pairwise(moments)) <= 1


def test_a_resting_engine_is_no_cheaper_one() -> None:
    state = watched(1)._replace(cooldowns=(Cooldown(0, 1e6, 30.0),))
    for tick in (1, 2):
        state, _ = step(POLICY, OPTIONS, state, Observation(tick * STEP_S, DEADLINE_S, 2 * DEADLINE_S))
    assert (state.index, state.overloaded) == (1, True)


# ----- steady


@given(MENUS, st.floats(0.01, 2))
def test_good_constant_latency_moves_up_once_at_most(options: Sequence[Option], deadline_s: float) -> None:
    begin = state = init_state(POLICY, options, Observation(0.0, deadline_s))
    sure = begin._replace(variance=1e-4)  # what constant latency leaves of the initial doubt
    above = options[begin.index + 1 :][:1]
    if any(predict_p95(option, sure) <= POLICY.headroom * deadline_s for option in above):
        return  # the doubt alone kept the dearer one away; it comes after a dwell
    if predict_p95(options[begin.index], begin) > POLICY.limit * deadline_s:
        return  # nothing fits
    climbs = 0
    for tick in range(1, 1_000):
        before, seen = state.index, Observation(tick * STEP_S, deadline_s, options[state.index].latency_s)
        state, decision = step(POLICY, options, state, seen)
        assert decision.index >= before
        climbs += decision.index > before  # to one without headroom, once two minutes have shown that it fits
    assert climbs <= 1


def test_jitter_does_not_switch() -> None:
    jitter = np.random.default_rng(0).lognormal(sigma=0.1, size=40_001)
    _, moments = play(10_000, lambda time_s, _: float(jitter[round(time_s / STEP_S)]))
    assert switches(moments) == 0


def test_one_lone_outlier_does_not_switch() -> None:
    # 243 of 250 ms: no miss, but believed by half it would predict one
    _, moments = play(60, lambda time_s, _: 2.7 if time_s == 30 else 1.0)
    assert switches(moments) == 0


@pytest.mark.parametrize("period_s", [0.5, 2.0, 10.0, 20.0, 40.0, 120.0])
def test_a_load_that_comes_and_goes_does_not_flap(period_s: float) -> None:
    hour = 3_600.0
    _, moments = play(hour, lambda time_s, _: 8.0 if time_s % period_s < period_s / 2 else 1.0)
    ups = len(rises(moments))
    assert ups <= hour / POLICY.dwell_s
    assert switches(moments) <= ups + (ups + 1) * (len(OPTIONS) - 1)  # each way down has no more steps than sizes


# ----- up again


@given(st.floats(1.5, 50), st.floats(1, 300), st.floats(0, 0.1))
def test_after_a_load_the_best_comes_back_in_bounded_time(factor: float, load_s: float, sigma: float) -> None:
    rng = np.random.default_rng(0)

    def slowdown(time_s: float, _: int) -> float:
        return (factor if time_s <= load_s else 1.0) * float(rng.lognormal(sigma=sigma))

    state, _ = play(load_s, slowdown)
    # 15 s to believe the machine again, then a dwell, the longest if steps up failed before
    bound_s = 15 + POLICY.max_dwell_s
    state, _ = play(bound_s, slowdown, state=state, begin_s=load_s)
    assert state.index == 2


@given(st.floats(2, 50), st.floats(1, 300), st.floats(0, 0.05))
def test_all_sizes_lost_to_one_load_are_back_within_half_a_minute(factor: float, load_s: float, sigma: float) -> None:
    rng = np.random.default_rng(0)
    state, _ = play(load_s, lambda _, __: factor * float(rng.lognormal(sigma=sigma)))
    assert state.dwell_s in {None, POLICY.dwell_s}  # no step up failed
    state, _ = play(30, lambda _, __: float(rng.lognormal(sigma=sigma)), state=state, begin_s=load_s)
    assert state.index == 2


LAVISH = replace(POLICY, switches_per_h=1_000.0)
"""As many switches as it likes"""


def deceptive(_: float, index: int) -> float:
    """The dearest option is slower than its profile says; the others are not."""
    return 3.0 if index == 2 else 1.0


def test_each_failed_climb_waits_twice_as_long_up_to_a_minute() -> None:
    state, moments = play(900, deceptive, policy=LAVISH)
    # a few windows at the cheaper option pass before the dearer one is believed to fit again
    waits = [after - before for before, after in pairwise(rises(moments))]
    assert waits[0] == pytest.approx(2 * POLICY.dwell_s, abs=10)
    assert waits[1:] == pytest.approx([POLICY.max_dwell_s] * len(waits[1:]), abs=10)
    assert min(waits[1:]) >= POLICY.max_dwell_s
    assert state.dwell_s == POLICY.max_dwell_s


def test_what_failed_is_forgiven_after_a_quiet_time() -> None:
    state, _ = play(300, deceptive, policy=LAVISH)
    state, _ = play(300, state=state, begin_s=300, policy=LAVISH)
    assert state.index == 2
    _, moments = play(60, lambda time_s, _: 3.0 if time_s <= 606 else 1.0, state=state, begin_s=600, policy=LAVISH)
    (down,) = (moment.seen.time_s for moment in moments if moment.rise < 0)  # once the budget of misses is spent
    assert rises(moments)[0] - down == pytest.approx(POLICY.dwell_s, abs=10)


# ----- start and frontier


@given(MENUS, st.floats(0.005, 2))
def test_it_starts_with_the_dearest_that_leaves_room(options: Sequence[Option], deadline_s: float) -> None:
    index = init_state(POLICY, options, Observation(0.0, deadline_s)).index
    fits = [predict_p95(option, State(0)) <= POLICY.headroom * deadline_s for option in options]
    assert all(fits[: index + 1]) or index == 0  # the cheapest, where none fits
    assert not any(fits[index + 1 :])


def test_the_prediction_is_the_95th_percentile_of_what_it_learnt_from() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(1.5, 0.1, size=4_001)
    state, moments = play(1_000, lambda time_s, _: float(noise[round(time_s / STEP_S)]))
    expected = OPTIONS[state.index].latency_s * np.quantile(noise, 0.95)
    # mean and variance forget within some ten windows, and rises count more than falls: it errs upwards
    assert expected * 0.95 <= predict_p95(OPTIONS[state.index], state) <= expected * 1.25
    assert switches(moments) == 0


def menu(*pairs: tuple[float, float | None]) -> list[Option]:
    return [Option(PatchSize(8, 8 + index), latency_s, metric) for index, (latency_s, metric) in enumerate(pairs)]


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 1)), max_size=8, unique_by=lambda pair: pair[0]))
def test_the_frontier_drops_what_costs_more_and_is_no_better(pairs: list[tuple[float, float]]) -> None:
    options = menu(*pairs)

    def dominated(option: Option) -> bool:
        return any(other.latency_s < option.latency_s and other.metric >= option.metric for other in options)

    expected = sorted((o for o in options if not dominated(o)), key=lambda option: option.latency_s)
    assert list(frontier(options)) == expected


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ([(1, None), (2, None), (3, None)], [1, 2, 3]),
        ([(1, 0.5), (2, None), (3, 0.9)], [1, 2, 3]),
        ([(1, 0.9), (2, None), (3, 0.5)], [1]),
        ([(1, 0.5), (2, 0.9), (3, None)], [1, 2]),
        ([(1, None), (2, 0.5), (3, 0.9)], [1, 2, 3]),
        ([(3, 0.9), (1, None), (2, 0.5)], [1, 2, 3]),
    ],
    ids=["none measured", "between rising", "between falling", "beyond the dearest", "below the cheapest", "unsorted"],
)
def test_an_option_that_was_not_measured_counts_as_its_neighbours_do(
    pairs: list[tuple[float, float | None]], kept: list[float]
) -> None:
    assert [option.latency_s for option in frontier(menu(*pairs))] == kept


# ----- limits: energy by rate, power, heat, a wish to save


def watched(index: int = 2, **fields: object) -> State:
    """A state at an option, sure of its latency."""
    return State(index)._replace(variance=1e-4, **fields)  # type: ignore[arg-type]


def told(policy: Policy, state: State, seconds: float, begin_s: float = 0.0, **fields: object) -> State:
    """The same observation every step; latencies are as profiled."""
    for tick in range(1, round(seconds / STEP_S) + 1):
        seen = Observation(begin_s + tick * STEP_S, DEADLINE_S, OPTIONS[state.index].latency_s, **fields)  # type: ignore[arg-type]
        state, _ = step(policy, OPTIONS, state, seen)
    return state


POWERED = tuple(replace(option, watts=watts) for option, watts in zip(OPTIONS, (5.0, 7.0, 12.0), strict=True))


@given(st.floats(0.25, 1), st.floats(0.5, 24), st.floats(1e4, 1e6))
def test_the_rate_that_reaches_the_goal_is_kept(fraction: float, hours: float, energy_j: float) -> None:
    policy = Policy(goal=Goal(until_s=3_600 * hours, min_battery=0.2))
    battery = Battery(fraction, discharging=True, energy_j=energy_j * fraction)
    state = init_state(policy, POWERED, Observation(0.0, DEADLINE_S, battery=battery))
    lasts_j = energy_j * (fraction - 0.2)
    dearer = POWERED[state.index + 1 :]
    watts = POWERED[state.index].watts
    assert watts is not None
    assert watts * 3_600 * hours <= 1.021 * lasts_j or state.index == 0
    assert all(option.watts * 3_600 * hours > lasts_j for option in dearer if option.watts is not None)


def test_without_power_figures_the_charge_is_led_along_a_line_to_the_goal() -> None:
    """A battery that drains in proportion to what runs ends near its goal, neither empty nor half full."""
    policy = Policy(goal=Goal(until_s=8 * 3_600, min_battery=0.1))
    drains = {0: 0.5 / 8, 1: 0.8 / 8, 2: 1.6 / 8}  # of the charge, an hour
    fraction, time_s, step_s = 0.9, 0.0, 5.0
    state = init_state(policy, OPTIONS, Observation(0.0, DEADLINE_S, battery=Battery(fraction, discharging=True)))
    while time_s < 8 * 3_600:
        time_s += step_s
        fraction -= drains[state.index] * step_s / 3_600
        seen = Observation(
            time_s, DEADLINE_S, OPTIONS[state.index].latency_s, battery=Battery(round(fraction, 2), discharging=True)
        )
        state, _ = step(policy, OPTIONS, state, seen)
    assert 0.05 <= fraction <= 0.2  # half the band beside the goal, and the sensor's percent


@given(pulled_h=st.floats(0.1, 6), goal_h=st.floats(1, 12), gone=st.floats(0.05, 0.95), ahead=st.floats(-0.04, 0.04))
def test_the_line_begins_where_the_cable_was_pulled(pulled_h: float, goal_h: float, gone: float, ahead: float) -> None:
    """Whatever ran on mains before it: a charge on the line allows what it allowed at first, above it more."""
    pulled_s, keep = 3_600 * pulled_h, 0.2
    until_s = pulled_s + 3_600 * goal_h
    policy = Policy(goal=Goal(until_s, keep))
    menu = tuple(Option(PatchSize(64 - index, 64), 0.001 * 1.1**index) for index in range(60))

    def allowed(time_s: float, fraction: float, belief: BatteryEstimate) -> int:
        seen = Observation(time_s, DEADLINE_S, battery=Battery(fraction, discharging=True))
        return limit(policy.goal, menu, State(0, battery=update_estimate(policy, belief, seen)), seen).option

    mains = Observation(pulled_s - 1, DEADLINE_S, battery=Battery(1.0, discharging=False))
    pulled = update_estimate(policy, BatteryEstimate(), mains)
    begun = update_estimate(policy, pulled, Observation(pulled_s, DEADLINE_S, battery=Battery(1.0, discharging=True)))
    time_s, line = pulled_s + gone * (until_s - pulled_s), 1.0 - gone * (1.0 - keep)
    fraction = min(line + ahead, 1.0)
    found = allowed(time_s, fraction, begun._replace(battery=Battery(fraction, discharging=True), read_at_s=time_s - 1))
    share = min(max(0.5 + (fraction - line) / BAND, 0.0), 1.0)
    assert found == pytest.approx(59 * share, abs=1)  # geometric costs: each option is one step of the share


def test_charge_that_is_to_be_kept_is_kept() -> None:
    policy = Policy(goal=Goal(until_s=3_600.0, min_battery=0.3))
    low = Battery(0.29, discharging=True)
    assert init_state(policy, OPTIONS, Observation(0.0, DEADLINE_S, battery=low)).index == 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_more_charge_there_is_above_what_is_to_be_kept_the_more_is_allowed(keep: float, a: float, b: float) -> None:
    def first_choice(fraction: float) -> int:
        policy, battery = Policy(goal=Goal(min_battery=keep)), Battery(fraction, discharging=True)
        return init_state(policy, OPTIONS, Observation(0.0, DEADLINE_S, battery=battery)).index

    assert first_choice(min(a, b)) <= first_choice(max(a, b))
    assert first_choice(keep) == 0


@pytest.mark.parametrize(("watts", "index"), [(4.0, 0), (5.0, 0), (7.5, 1), (20.0, 2)])
def test_a_limit_of_watts_is_one(watts: float, index: int) -> None:
    policy = Policy(goal=Goal(max_watts=watts))
    assert init_state(policy, POWERED, Observation(0.0, DEADLINE_S)).index == index
    assert init_state(policy, OPTIONS, Observation(0.0, DEADLINE_S)).index == 2  # nothing known, nothing limited


@pytest.mark.parametrize(("saves", "index"), [(True, 0), (False, 2), (None, 2)])
def test_a_system_that_saves_power_is_followed(saves: bool | None, index: int) -> None:
    assert init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S, power_saver=saves)).index == index


@given(MENUS, TRACES)
def test_a_machine_that_says_nothing_of_heat_or_saving_is_as_before(
    options: Sequence[Option], trace: list[Observation]
) -> None:
    silent = [replace(seen, thermal_headroom_c=None, throttled=None, power_saver=None) for seen in trace]
    assert [m.decision for m in played(options, silent)] == [m.decision for m in played(options, trace)]


# ----- batteries that are not to be believed


def believed(readings: Sequence[float | None], every_s: float = 5.0, joules: float | None = None) -> BatteryEstimate:
    """After readings of a battery that drains, the first at zero."""
    belief = BatteryEstimate()
    for look, charge in enumerate(readings):
        battery = None if charge is None else Battery(charge, True, None if joules is None else charge * joules)
        belief = update_estimate(POLICY, belief, Observation(look * every_s, DEADLINE_S, battery=battery))
    return belief


CHARGES = st.floats(0.05, 1)
SENSED = st.integers(0, 1_000).map(lambda thousandths: thousandths / 1_000)
DRAINS = st.floats(0, 0.04)  # a minute


@given(CHARGES, DRAINS, st.floats(0.1, 60))
def test_a_battery_that_drains_is_believed(charge: float, drain: float, every_s: float) -> None:
    readings = [max(charge - drain * look * every_s / 60, 0.0) for look in range(200)]
    belief = believed(readings, every_s, joules=1_000.0)
    assert belief.battery is not None
    assert belief.battery.fraction == pytest.approx(readings[-1], abs=1e-9)
    assert belief.battery.energy_j == pytest.approx(1_000 * readings[-1], abs=1e-6)
    assert belief.discharge_start == (0.0, charge)


@given(st.lists(st.one_of(SENSED, st.none()), min_size=2, max_size=30), st.floats(0.1, 20))
@example([0.0, 0.001], 1.0)  # from an empty battery no energy can be scaled
def test_the_charge_believed_never_moves_faster_than_a_battery_drains(
    readings: list[float | None], every_s: float
) -> None:
    """Nor does the energy jump."""
    for before, after in pairwise(believed(readings[: n + 1], every_s, 1_000.0) for n in range(len(readings))):
        if before.battery is None or after.battery is None:
            continue
        reach = POLICY.max_charge_per_min * (after.read_at_s - before.read_at_s) / 60 + 1e-9
        assert abs(after.battery.fraction - before.battery.fraction) <= reach
        energies = after.battery.energy_j, before.battery.energy_j
        assert energies == pytest.approx((1_000 * after.battery.fraction, 1_000 * before.battery.fraction), abs=1e-3)


@given(st.floats(0.4, 1), st.integers(1, 3_000))
def test_a_sensor_that_falls_to_nothing_is_not_believed_and_heard_again_when_it_recovers(
    charge: float, looks: int
) -> None:
    belief = believed([charge] * 3 + [0.0] * looks)
    assert belief.battery == Battery(charge, discharging=True)
    recovered = believed([charge] * 3 + [0.0] * looks + [charge - 0.01])
    assert recovered.suspect_charge is None


@pytest.mark.parametrize("jump", [0.9, 0.05], ids=["up", "down"])
def test_a_charge_that_jumps_is_followed_once_it_drains(jump: float) -> None:
    stuck = [0.5] * 3 + [jump] * 1_000
    assert believed(stuck).battery == Battery(0.5, discharging=True)
    drains = [jump - 0.03 * look / 100 for look in range(100)]
    followed = believed(stuck + drains + [drains[-1]] * 200).battery  # from 0.5 it takes ten minutes at most
    assert followed is not None
    assert followed.fraction == pytest.approx(drains[-1])


@pytest.mark.parametrize(
    ("read", "charge"),
    [(0.9, "29% (the sensor reads 90%)"), (0.2, "24% (the sensor reads 20%)"), (0.28, "28%")],
    ids=["doubted", "followed", "believed"],
)
def test_the_reason_tells_what_was_read_and_what_is_believed(read: float, charge: str) -> None:
    state = State(2, battery=believed([0.3, 0.29, read], every_s=60.0))
    found = limit(POLICY.goal, OPTIONS, state, Observation(120.0, DEADLINE_S))
    assert found.reason == f"battery at {charge} and discharging"


def test_a_coarse_gauge_is_followed() -> None:
    readings = [math.ceil(4 * (1 - look / 2_000)) / 4 for look in range(1_900)]
    belief = believed(readings)
    assert belief.battery is not None
    assert belief.battery.fraction == pytest.approx(0.25)


def test_a_battery_that_vanishes_is_remembered_for_a_minute() -> None:
    low = Battery(0.2, discharging=True)
    state = told(POLICY, init_state(POLICY, OPTIONS, Observation(0.0, DEADLINE_S, battery=low)), 10, battery=low)
    assert told(POLICY, state, POLICY.battery_timeout_s - 1, 10).index == 0
    assert told(POLICY, state, 200, 10).index == 2


# ----- engines that fail


@given(MENUS, TRACES)
def test_an_engine_that_fails_is_left_at_once(options: Sequence[Option], trace: list[Observation]) -> None:
    state = init_state(POLICY, options, trace[0])
    for tick, seen in enumerate(trace):
        failing, decision = step(POLICY, options, state, replace(seen, time_s=float(tick), failed=True))
        assert decision.index != state.index or len(options) == 1 or failing.degraded
        state, _ = step(POLICY, options, state, replace(seen, time_s=float(tick)))


def test_an_engine_that_failed_is_tried_again_after_a_wait_that_doubles() -> None:
    state, tried, time_s = watched(), [], 0.0
    while time_s < 1_000:
        time_s += STEP_S
        fails = state.index == 2
        if fails:
            tried.append(time_s)
        seen = Observation(time_s, DEADLINE_S, OPTIONS[state.index].latency_s, failed=fails)
        state, decision = step(POLICY, OPTIONS, state, seen)
        assert not fails or decision.reason.startswith("the engine of 8x8 failed")
    waits = [after - before for before, after in pairwise(tried)]
    assert all(wait >= rest for wait, rest in zip(waits, (30, 60, 120, 240, 480), strict=False))
    assert all(
        wait <= rest + POLICY.max_dwell_s + 5 for wait, rest in zip(waits, (30, 60, 120, 240, 480), strict=False)
    )
    assert 4 <= len(tried) <= 6


def test_when_every_engine_fails_it_says_so_and_takes_the_first_that_has_rested() -> None:
    state = watched()
    for tick in range(1, 4):
        state, _ = step(POLICY, OPTIONS, state, Observation(tick * STEP_S, DEADLINE_S, failed=True))
    assert state.degraded
    state, decision = step(POLICY, OPTIONS, state, Observation(10.0, DEADLINE_S))
    assert (state.degraded, decision.reason) == (True, None)
    state, _ = step(POLICY, OPTIONS, state, Observation(31.0, DEADLINE_S))
    assert not state.degraded


def test_one_that_failed_is_not_gone_down_to() -> None:
    state = watched(1)
    state, decision = step(POLICY, OPTIONS, state, Observation(STEP_S, DEADLINE_S, failed=True))
    assert decision.index == 0
    state = told(POLICY, state._replace(index=2), STEP_S, STEP_S)  # whoever brought it there
    slow = Observation(1.0, DEADLINE_S, 2 * DEADLINE_S)
    assert step(POLICY, OPTIONS, state, slow)[1].index == 0
