"""What is believed of the battery. A sensor may vanish, stick or fall to nothing; a battery can do none of these.

The charge believed follows the readings no faster than a battery drains. One that jumps, or falls to nothing while the
machine runs on, is not followed at all however long it stays, but only once it falls further, as the charge of a
battery in use does: so a gauge that corrects itself and a worn cell differ from a broken sensor.
"""

from __future__ import annotations

import math
from dataclasses import replace

from flexiast_runtime.governor.types import BatteryEstimate, Observation, Policy
from flexiast_runtime.hardware.battery import Battery

JUMP = 0.26
"""Of charge between two readings: more than a gauge in quarters shows"""
STEP = 0.02
"""Of charge: no machine runs with less, and what has jumped must fall by so much before it is followed"""


def update_estimate(policy: Policy, belief: BatteryEstimate, seen: Observation) -> BatteryEstimate:
    """One more look at the sensor."""
    now, elapsed_s = seen.battery, max(seen.time_s - belief.read_at_s, 0.0)
    if now is None or not math.isfinite(now.fraction):
        return belief if elapsed_s <= policy.remembered_s else BatteryEstimate()
    reach, doubted_from = policy.fastest_change * elapsed_s / 60, None
    if belief.battery is None or not now.discharging:  # nothing is spared while it charges
        battery = now
    elif (doubted_from := _find_suspect_charge(belief, belief.battery, now, reach)) is not None:
        battery = replace(belief.battery, discharging=True)
    else:
        battery = _limit_change(belief.battery, now, reach)
    began = belief.drains_from or (seen.time_s, battery.fraction)
    return BatteryEstimate(battery, began if now.discharging else None, seen.time_s, now.fraction, doubted_from)


def _find_suspect_charge(belief: BatteryEstimate, known: Battery, now: Battery, reach: float) -> float | None:
    """What the readings jumped to, if they are in doubt."""
    reach += STEP if now.fraction < STEP else JUMP
    since, change = belief.doubted_from, now.fraction - belief.read
    if abs(now.fraction - known.fraction) <= reach:
        return None
    if change > reach or (since is None and change < -reach):
        return now.fraction
    return None if since is None or since - now.fraction >= STEP else since


def _limit_change(known: Battery, now: Battery, reach: float) -> Battery:
    """Towards the reading as far as a battery can have come; its energy is that of the charge believed."""
    fraction = min(max(now.fraction, known.fraction - reach), known.fraction + reach)
    of = now if now.fraction >= STEP else known  # next to nothing, charge and energy are too coarse to divide
    share = fraction / of.fraction if of.fraction else 1.0
    return replace(now, fraction=fraction, energy_j=None if of.energy_j is None else of.energy_j * share)
