"""What a size is worth: its metric, or its recall in the noise of the place; and what a full charge is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast_runtime.governor.drain import RANGE, DrainRecord, update_drain
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.governor.worth import describe_gain, frontier, weigh_options
from flexiast_runtime.hardware.battery import Battery

CLEAN = (
    Option(PatchSize(48, 48), 0.02, 0.74),
    Option(PatchSize(16, 16), 0.10, 0.77),
)
NOISY = (
    replace(CLEAN[0], recall_by_snr_db=((5.0, 0.2), (10.0, 0.4), (20.0, 0.75))),
    replace(CLEAN[1], recall_by_snr_db=((5.0, 0.5), (10.0, 0.8), (20.0, 0.78))),
)


@given(st.floats(-50, 60))
def test_recall_is_interpolated_and_held_beyond_what_was_measured(snr_db: float) -> None:
    expected = [np.interp(snr_db, *zip(*option.recall_by_snr_db, strict=True)) for option in NOISY]
    assert weigh_options(NOISY, snr_db) == pytest.approx(expected)


@pytest.mark.parametrize("snr_db", [None, float("nan"), 10.0])
def test_the_metric_counts_where_the_place_or_a_size_is_unknown(snr_db: float | None) -> None:
    options = (NOISY[0], CLEAN[1]) if snr_db == 10.0 else NOISY
    assert weigh_options(options, snr_db) == [0.74, 0.77]


def test_points_are_those_of_recall_or_of_the_metric() -> None:
    assert describe_gain(NOISY, 0, 1, 10.0) == "+40.0 points of recall at 10 dB"
    assert describe_gain(NOISY, 1, 0, None) == "-3.0 points on clean sounds"
    assert describe_gain(tuple(replace(option, metric=None) for option in CLEAN), 0, 1, None) == ""


def test_unmeasured_sizes_lie_between_their_neighbours() -> None:
    options = (CLEAN[0], Option(PatchSize(32, 32), 0.045), CLEAN[1])
    worths = weigh_options(options)
    assert worths[0] < worths[1] < worths[2]
    assert weigh_options(tuple(replace(option, metric=None) for option in options)) == [1 / 3, 2 / 3, 1.0]


def test_a_metric_that_rises_with_the_patch_leaves_the_cheap_size_alone() -> None:
    """Whatever a validation set says, a costlier size that is no better is not run."""
    rising = (replace(CLEAN[0], metric=0.9), CLEAN[1])
    assert frontier(rising) == rising[:1]
    kept = (replace(NOISY[0], metric=0.9), NOISY[1])
    assert frontier(kept) == kept  # which recalls more in noise


def test_the_noise_of_the_place_moves_the_choice() -> None:
    """On clean sounds the cheap size is better; in noise the costly one, which then is said in points of recall."""
    options, policy = (replace(NOISY[0], metric=0.9), NOISY[1]), Policy()
    state, reasons = init_state(policy, options, Observation(0.0, 0.5))._replace(index=0), []
    for tick in range(1, 400):
        seen = Observation(0.5 * tick, 0.5, options[state.index].latency_s, snr_db=None if tick < 150 else 8.0)
        state, decision = step(policy, options, state, seen)
        reasons += [] if decision.reason is None else [(tick, decision.reason)]
    assert state.index == 1
    ((tick, reason),) = reasons
    assert tick > 150
    assert reason.endswith("points of recall at 8 dB")


# ----- a full charge


def drained(full_j: float, watts: float, percent: bool, gauge: float = 1.0, hours: float = 3.0) -> DrainRecord:
    """A battery of so many joules that is drained at constant power; the gauge reads once in five seconds."""
    record, charge = DrainRecord(), 1.0
    for tick in range(round(hours * 720)):
        charge -= 5 * watts / full_j
        if charge <= 0.05:
            break
        read = round(charge, 2) if percent else charge
        record = update_drain(record, 5.0 * tick, Battery(read, discharging=True, energy_j=gauge * read), watts)
    return record


@given(st.floats(2e4, 2e5), st.floats(3, 12), st.booleans())
def test_a_full_charge_is_learnt_from_what_is_drawn(full_j: float, watts: float, percent: bool) -> None:
    """In percent within two steps of the charge that fell, a quarter at most."""
    record = drained(full_j, watts, percent)
    found = record.full_j(None)
    if record.fallen < 0.05:
        return
    assert found == pytest.approx(full_j, rel=0.02 / min(record.fallen, 0.25) if percent else 0.01)


@given(st.floats(2e4, 2e5), st.floats(0.3, 3))
def test_a_gauge_that_counts_with_the_capacity_when_new_is_corrected(full_j: float, health: float) -> None:
    record = drained(full_j, 10.0, percent=False)
    said = full_j / health
    found = record.full_j(said)
    assert found is not None
    assert abs(found - full_j) <= abs(said - full_j) + 1e-6
    assert said / RANGE <= found <= said * RANGE


def test_a_reading_that_is_not_believed_teaches_nothing() -> None:
    record = drained(50_000, 10.0, percent=False, hours=1.0)
    for tick in range(100):
        record = update_drain(record, 4_000.0 + 5 * tick, None, 10.0)
    assert record.full_j(None) == pytest.approx(50_000, rel=0.01)
    assert DrainRecord().full_j(1_000.0) == 1_000.0
    assert DrainRecord().full_j(None) is None
