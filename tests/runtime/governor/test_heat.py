"""Heat is a prediction of latency: what fits throttled is never taken away, and the constants are learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.thermal import (
    DISTRUST_S,
    FIRST_THROTTLING,
    MAX_HEADROOM_C,
    MIN_HEADROOM_C,
    ThermalModel,
    update_model,
)
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy

POLICY = Policy()
STEP_S, DEADLINE_S = 0.5, 0.5
HEADROOMS = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.floats(-1e4, 1e4))
SENSED = st.lists(st.tuples(HEADROOMS, st.sampled_from([None, True, False])), min_size=1, max_size=60)


def menu(*latencies_s: float) -> tuple[Option, ...]:
    return tuple(
        Option(PatchSize(8, 8 + index), latency_s, 0.7 + 0.05 * index) for index, latency_s in enumerate(latencies_s)
    )


LIGHT, HEAVY = menu(0.01, 0.05, 0.1), menu(0.05, 0.15, 0.4)
"""Sizes of which all fit throttled, and of which the costliest does not"""


def play(
    options: Sequence[Option], sensed: Sequence[tuple[float | None, bool | None]], every_s: float = STEP_S
) -> list[tuple[State, Decision]]:
    """Windows that take as long as profiled, with these readings."""
    state, found = init_state(POLICY, options, Observation(0.0, DEADLINE_S)), []
    state = state._replace(index=len(options) - 1, variance=1e-4)
    for tick, (headroom_c, throttled) in enumerate(sensed, 1):
        latency_s = options[state.index].latency_s
        state, decision = step(
            POLICY,
            options,
            state,
            Observation(tick * every_s, DEADLINE_S, latency_s, thermal_headroom_c=headroom_c, throttled=throttled),
        )
        found.append((state, decision))
    return found


@given(SENSED)
def test_a_size_that_fits_throttled_is_never_taken_away(sensed: list[tuple[float | None, bool | None]]) -> None:
    assert [decision.index for _, decision in play(LIGHT, sensed, 15.0)] == [2] * len(sensed)


@given(SENSED)
def test_whatever_a_sensor_says_decisions_stay_among_the_options(
    sensed: list[tuple[float | None, bool | None]],
) -> None:
    for state, decision in play(HEAVY, sensed, 15.0):
        assert 0 <= decision.index < len(HEAVY)
        assert state.heat_limit is None or 1 <= state.heat_limit < len(HEAVY)  # the middle one fits throttled
        assert decision.index >= 1


@pytest.mark.parametrize("hot", [(1.0, None), (None, True), (-5.0, True)], ids=["near", "throttled", "above"])
def test_a_size_that_would_miss_throttled_is_left_and_taken_again(hot: tuple[float | None, bool | None]) -> None:
    found = play(HEAVY, [hot] * 60 + [(20.0, False)] * 400)
    assert [decision.index for _, decision in found[:60]] == [1] * 60
    assert found[-1][0].index == 2


def test_a_size_near_the_limit_is_not_taken_again() -> None:
    found = play(HEAVY, [(1.0, None)] * 60 + [(5.0, False)] * 100)
    assert found[-1][0].index == 1


@pytest.mark.parametrize("lie", [1e4, -1e4], ids=["cold as space", "below"])
def test_the_reason_says_what_was_ignored(lie: float) -> None:
    state = init_state(POLICY, HEAVY, Observation(0.0, DEADLINE_S))._replace(index=2)
    late = Observation(0.5, DEADLINE_S, 2.0, thermal_headroom_c=lie)
    _, decision = step(POLICY, HEAVY, state, late)
    assert decision.reason is not None
    assert decision.reason.endswith(f"a thermal headroom of {lie:.0f} °C was ignored")


@pytest.mark.parametrize("every_s", [STEP_S, 15.0])
def test_a_sensor_that_swings_to_and_fro_decides_nothing(every_s: float) -> None:
    """By 59 °C each 15 s, whether windows come twice a second or as seldom as it swings."""
    held = round(15.0 / every_s)
    found = play(HEAVY, [(60.0, None)] * held + ([(1.0, None)] * held + [(60.0, None)] * held) * 40, every_s)
    assert {decision.index for _, decision in found} == {2}
    assert found[-1][0].heat.ignored == "a jump of the temperature by 59 °C was ignored"


def test_a_sensor_that_jumped_is_believed_again_after_a_minute() -> None:
    found = play(HEAVY, [(60.0, None)] * 60 + [(1.0, None)] * 200)
    left = next(tick for tick, (_, decision) in enumerate(found) if decision.index < 2)
    assert (left - 60) * STEP_S == DISTRUST_S
    assert found[left][1].reason is not None
    assert found[left][1].reason.startswith("1 °C below the throttling temperature")


def test_the_next_switch_names_what_was_ignored_however_late_it_is() -> None:
    found = play(HEAVY, [(60.0, None)] * 60 + [(20.0, None)] * 60)
    state = found[-1][0]
    reasons = []
    for tick in range(121, 123):
        late = Observation(tick * STEP_S, DEADLINE_S, 2.0, thermal_headroom_c=20.0)
        state, decision = step(POLICY, HEAVY, state, late)
        reasons.append(decision.reason or "")
        state = state._replace(index=2)
    assert reasons[0].endswith("; a jump of the temperature by 40 °C was ignored")
    assert reasons[1]
    assert "ignored" not in reasons[1]


def test_a_jump_of_the_sensor_teaches_nothing() -> None:
    model = learn(lambda time_s: 40.0, 600)
    jumped = model
    for tick in range(1, 41):
        jumped = update_model(jumped, 600 + tick * STEP_S, 0.0 if tick >= 20 else 40.0, 1.0)
    assert jumped.constants == pytest.approx(model.constants, rel=0.05)


@pytest.mark.parametrize("junk_s", [None, math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_a_throttled_window_without_a_latency_teaches_nothing_of_throttling(junk_s: float | None) -> None:
    state = init_state(POLICY, HEAVY, Observation(0.0, DEADLINE_S))
    hot = Observation(0.5, DEADLINE_S, 2 * HEAVY[state.index].latency_s, throttled=True)
    state, _ = step(POLICY, HEAVY, state, hot)
    assert FIRST_THROTTLING < state.heat.throttling < 2.0
    after, _ = step(POLICY, HEAVY, state, replace(hot, time_s=1.0, latency_s=junk_s))
    assert (after.heat.throttling, after.unthrottled) == (state.heat.throttling, state.unthrottled)


def learn(
    headroom_c: Callable[[float], float], seconds: float, work: Callable[[float], float] = lambda _: 1.0
) -> ThermalModel:
    model = ThermalModel()
    for tick in range(1, round(seconds / STEP_S) + 1):
        model = update_model(model, tick * STEP_S, headroom_c(tick * STEP_S), work(tick * STEP_S))
    return model


@settings(deadline=None)
@given(st.floats(100, 600), st.floats(10, 40), st.floats(5, 30))
def test_the_headroom_it_settles_at_is_learnt_in_whole_degrees(tau_s: float, cold_c: float, span_c: float) -> None:
    """Work alternates each two minutes, as a governor's does; forecasts are within a few steps of the gauge."""
    headroom, values = cold_c, []

    def work(time_s: float) -> float:
        return 1.0 if time_s % 240 < 120 else 0.3

    for tick in range(1, 4_801):
        steady = cold_c - span_c * work(tick * STEP_S)
        headroom = steady + (headroom - steady) * math.exp(-STEP_S / tau_s)
        values.append(headroom)
    model = learn(lambda time_s: round(values[round(time_s / STEP_S) - 1]), 2_400, work)
    assert model.constants is not None
    for share in (0.3, 1.0):
        steady_c = model.steady_c(share)
        assert steady_c is not None
        # the settled headroom differs most where two minutes are short against the time constant
        assert steady_c == pytest.approx(cold_c - span_c * share, abs=3 + 0.35 * span_c)


def test_a_forecast_is_the_solution_of_its_own_equation() -> None:
    model = ThermalModel(headroom_c=20.0, constants=(0.2, 0.25, 0.01))
    lasts_s = model.lasts_s(1.0, 3.0)
    assert lasts_s is not None
    headroom = 20.0
    for _ in range(round(lasts_s / 0.01)):
        headroom += 0.01 * (0.2 - 0.25 - 0.01 * headroom)
    assert headroom == pytest.approx(3.0, abs=0.05)  # Euler's steps
    assert model.lasts_s(0.2, 3.0) == math.inf
    assert model.lasts_s(1.0, 20.0) == 0.0
    assert ThermalModel().lasts_s(1.0, 3.0) is None


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(MIN_HEADROOM_C - 50, MAX_HEADROOM_C + 50)), max_size=80))
def test_any_readings_give_constants_of_a_thermal_mass_or_none(readings: list[tuple[float, float]]) -> None:
    """Time may go back, as with several sources."""
    model, time_s = ThermalModel(), 0.0
    for elapsed_s, headroom_c in readings:
        time_s += elapsed_s
        model = update_model(model, time_s, headroom_c, 0.5)
        assert model.constants is None or all(math.isfinite(each) for each in model.constants)
        assert MIN_HEADROOM_C <= model.headroom_c <= MAX_HEADROOM_C
