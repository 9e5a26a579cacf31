"""What a full charge is worth in joules, learnt from what the options draw while the charge falls.

A gauge in percent says nothing of energy; that of an old battery counts with the capacity it had when new.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flexiast_runtime.hardware.battery import Battery

MEMORY = 0.25
"""Share of the charge after which a sample counts a third: a gauge is not linear, so what is left is judged by what was
used last."""
FEW = 0.03
"""Share of the charge that must have fallen before a gauge in percent is followed: three of its steps, an error of a
third"""
TRUST = 0.1
"""Fall of the charge at which what was learnt counts as much as what the gauge says: ten steps of a gauge in percent"""
MAX_STEP_S = 60.0
"""Between two readings; after a longer gap the machine may have been suspended, and drew something else."""
RANGE = 3.0
"""What was learnt is believed within this factor of what the gauge says: one at a third of it is dead."""


class DrainRecord(NamedTuple):
    """Sums that forget with MEMORY."""

    at_s: float | None = None
    """Time of the last reading that counted"""
    charge: float = 0.0
    """Then"""
    used_j: float = 0.0
    fallen: float = 0.0
    """Charge that the same time took"""
    pending_j: float = 0.0
    """Used since the charge last changed: a gauge in percent changes seldom"""

    def full_j(self, gauge_j: float | None) -> float | None:
        """Energy of a full charge, given what the gauge says of it; None: neither tells."""
        if self.fallen < FEW or self.used_j <= 0:
            return gauge_j
        learnt_j = self.used_j / self.fallen
        if gauge_j is None:
            return learnt_j
        learnt_j = min(max(learnt_j, gauge_j / RANGE), gauge_j * RANGE)
        weight = self.fallen / (self.fallen + TRUST)
        return weight * learnt_j + (1 - weight) * gauge_j


def update_drain(drain: DrainRecord, time_s: float, battery: Battery | None, watts: float | None) -> DrainRecord:
    """The record after one more reading, None where it is not believed, while the machine drew so many watts."""
    if battery is None or not battery.discharging or watts is None:
        return drain._replace(at_s=None)
    if drain.at_s is None or not 0 <= time_s - drain.at_s <= MAX_STEP_S:
        return drain._replace(at_s=time_s, charge=battery.fraction, pending_j=0.0)
    pending_j, fall = drain.pending_j + watts * (time_s - drain.at_s), drain.charge - battery.fraction
    if fall == 0:
        return drain._replace(at_s=time_s, pending_j=pending_j)
    if fall < 0:  # it charges, or the gauge corrects itself
        return drain._replace(at_s=time_s, charge=battery.fraction, pending_j=0.0)
    keep = math.exp(-fall / MEMORY)
    return DrainRecord(time_s, battery.fraction, keep * drain.used_j + pending_j, keep * drain.fallen + fall)
