"""What the loads of the last quarter of an hour would have done to each option, had it run all the time.

One slowdown is shared by all options, so each window shows which of them would have been late. A *spell* is a run of
such windows. How often spells begin and how long they last tells whether an option is worth a climb: a size that a
load takes away after ten seconds is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flexiast_runtime.governor.types import Observation, Option

MEMORY_S = 900.0
"""Time after which a window counts a third. Ten switches an hour need a decision each six minutes, so the record must
span several of those; a co-tenant that has left should be forgotten within the hour."""
SPELL_GAP_S = 2.0
"""Windows in time for so long end a spell: between two late windows of one load there may be one that just fits."""
PRIOR_FIT_S = 300.0
"""Time between two spells that is assumed of a machine nobody has watched yet, with the weight of one spell"""
PROOF_S = 120.0
"""Time watched before a record proves anything: 240 windows of half a second show a rate of 1 % as one or two."""
MAX_STEP_S = 5.0
"""Time that one window stands for, at most: after a suspended hour the machine has not been watched for an hour."""


class LoadRecord(NamedTuple):
    """Sums that forget with MEMORY_S; tuples are by option, empty before the first window."""

    at_s: float | None = None
    """Time of the last window"""
    window_s: float = 0.0
    """Mean time from one window to the next"""
    watched_s: float = 0.0
    late_s: tuple[float, ...] = ()
    """Of the time watched, how long the option would have been late"""
    spells: tuple[float, ...] = ()
    """Number of spells"""
    fits_since_s: tuple[float, ...] = ()
    """Watched time for which the option has not been late"""

    def late_share(self, option: int) -> float:
        """Share of windows that the option would have missed; 0 while nothing is known."""
        return self.late_s[option] / self.watched_s if self.watched_s else 0.0

    def is_proven(self, option: int, share: float) -> bool:
        """Whether the option would have missed less than this share, with one more miss counted for what is unseen."""
        return self.watched_s >= PROOF_S and self.late_s[option] + self.window_s <= share * self.watched_s

    def fit_s(self, option: int) -> float:
        """Expected time from now until a load takes the option away.

        At least as long as it has fitted by now, as after a load that has ended for good.
        """
        if not self.spells:
            return PRIOR_FIT_S
        mean_s = (self.watched_s - self.late_s[option] + PRIOR_FIT_S) / (self.spells[option] + 1)
        return max(mean_s, self.fits_since_s[option])

    def spell_s(self, option: int) -> float:
        """Mean length of the loads that take the option away."""
        return self.late_s[option] / (self.spells[option] + 1) if self.spells else 0.0


def update_record(record: LoadRecord, options: Sequence[Option], observation: Observation, ratio: float) -> LoadRecord:
    """The record after one more window; ``ratio`` is measured ÷ profiled latency."""
    if record.at_s is None:
        zeros = (0.0,) * len(options)
        return LoadRecord(observation.time_s, 0.0, 0.0, zeros, zeros, zeros)
    elapsed_s = min(max(observation.time_s - record.at_s, 0.0), MAX_STEP_S)
    keep = math.exp(-elapsed_s / MEMORY_S)
    budget_s = observation.budget_s
    late_s, spells, fits_since_s = [], [], []
    for option, late, spell, fits in zip(options, record.late_s, record.spells, record.fits_since_s, strict=True):
        if ratio * option.latency_s > budget_s:
            late_s.append(keep * late + elapsed_s)
            spells.append(keep * spell + (fits >= SPELL_GAP_S))
            fits_since_s.append(0.0)
        else:
            late_s.append(keep * late)
            spells.append(keep * spell)
            fits_since_s.append(fits + elapsed_s)
    window_s = elapsed_s if not record.window_s else record.window_s + 0.1 * (elapsed_s - record.window_s)
    return LoadRecord(
        observation.time_s,
        window_s,
        keep * record.watched_s + elapsed_s,
        tuple(late_s),
        tuple(spells),
        tuple(fits_since_s),
    )
