"""Estimates the charge from readings that may vanish, stick or drop to zero, which a battery cannot do.

The estimate follows the readings no faster than a battery discharges. A reading that jumps, or drops to zero while the
machine keeps running, is suspect: it is ignored, however long it stays, until it falls further, as the charge of a
battery in use does. This distinguishes a broken sensor from a gauge that corrects itself, or a worn cell.
"""

from __future__ import annotations

from dataclasses import replace

from flexiast_runtime.governor.state import BatteryEstimate
from flexiast_runtime.governor.types import Observation, Policy
from flexiast_runtime.hardware.battery import Battery

JUMP = 0.26
"""Change of charge between two readings that makes them suspect: more than one step of a gauge in quarters"""
STEP = 0.02
"""A machine does not run on less charge than this, and a suspect reading must fall by this much to be accepted: two
steps of a gauge in percent, so that rounding alone is not enough."""


def update_estimate(policy: Policy, estimate: BatteryEstimate, observation: Observation) -> BatteryEstimate:
    """The estimate after one more reading."""
    now, elapsed_s = observation.battery, max(observation.time_s - estimate.read_at_s, 0.0)
    if now is None or not 0 <= now.fraction <= 1:  # NaN is neither
        return estimate if elapsed_s <= policy.battery_timeout_s else BatteryEstimate()
    reach, suspect_charge = policy.max_charge_per_min * elapsed_s / 60, None
    if estimate.battery is None or not now.discharging:  # while it charges nothing is limited, so nothing can go wrong
        battery = now
    elif (suspect_charge := _find_suspect_charge(estimate, estimate.battery, now, reach)) is not None:
        battery = replace(estimate.battery, discharging=True)
    else:
        battery = _limit_change(estimate.battery, now, reach)
    start = estimate.discharge_start or (observation.time_s, battery.fraction)
    return BatteryEstimate(
        battery, start if now.discharging else None, observation.time_s, now.fraction, suspect_charge
    )


def describe_distrust(estimate: BatteryEstimate) -> str:
    """What was read and is not believed; empty while everything is."""
    if estimate.suspect_charge is None or estimate.battery is None:
        return ""
    return (
        f"the battery's sensor reads {estimate.reading:.0%} where {estimate.battery.fraction:.0%} is likely; "
        f"it is not believed until it has drained by {STEP:.0%}"
    )


def _find_suspect_charge(estimate: BatteryEstimate, known: Battery, now: Battery, reach: float) -> float | None:
    """The charge that the readings jumped to, while they are suspect."""
    reach += STEP if now.fraction < STEP else JUMP
    suspect, change = estimate.suspect_charge, now.fraction - estimate.reading
    if abs(now.fraction - known.fraction) <= reach:
        return None
    if change > reach or (suspect is None and change < -reach):
        return now.fraction
    return None if suspect is None or suspect - now.fraction >= STEP else suspect


def _limit_change(known: Battery, now: Battery, reach: float) -> Battery:
    """Move the charge towards the reading, at most by ``reach``; its energy is scaled to the estimated charge."""
    fraction = min(max(now.fraction, known.fraction - reach), known.fraction + reach)
    # Near zero, charge and energy are too coarse to divide.
    basis = now if now.fraction >= STEP or not known.fraction else known
    share = fraction / basis.fraction if basis.fraction else 1.0
    return replace(now, fraction=fraction, energy_j=None if basis.energy_j is None else basis.energy_j * share)
