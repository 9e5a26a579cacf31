"""What the governor remembers between two decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flexiast_runtime.governor.budgets import Budgets
from flexiast_runtime.governor.drain import DrainRecord
from flexiast_runtime.governor.thermal import ThermalModel
from flexiast_runtime.governor.types import Option
from flexiast_runtime.hardware.battery import Battery


class BatteryEstimate(NamedTuple):
    """The filtered battery, and what the filter needs of earlier readings."""

    battery: Battery | None = None
    """The estimate"""
    discharge_start: tuple[float, float] | None = None
    """Time in seconds and charge when the battery began to discharge"""
    read_at_s: float = 0.0
    reading: float = 0.0
    """The last charge that was read, accepted or not"""
    suspect_charge: float | None = None
    """The charge that the readings jumped to, until it is accepted"""


class Cooldown(NamedTuple):
    """An engine that failed, and how long it is not used."""

    option: int
    until_s: float
    seconds: float
    """Length of this cooldown"""
    active: bool = True
    """Whether it lasts. Afterwards only its length is needed, for the next one."""


class Strategy(NamedTuple):
    """A ceiling and a way to meet a load, as it would stand now had it been followed from the start."""

    ceiling: int
    """The costliest option that it uses"""
    waits: bool
    """Whether it stays through late windows while misses are left"""
    option: int
    """What it would run now"""
    budgets: Budgets
    fits_s: float = 0.0
    """For how long the ceiling has fitted"""
    gained: float = 0.0
    """Worth of its windows × seconds; what is old is forgotten"""


class Contest(NamedTuple):
    """All strategies, and the one that is followed; none before the first window."""

    strategies: tuple[Strategy, ...] = ()
    leader: int = 0
    at_s: float = 0.0
    """Time of the last window"""
    windows: int = 1

    def find_ceiling(self, options: Sequence[Option]) -> int:
        """The costliest option that the leader uses."""
        return self.strategies[self.leader].ceiling if self.strategies else len(options) - 1

    def runs(self, option: int) -> bool:
        """Whether the leader, played along, runs this option or a costlier one."""
        return bool(self.strategies) and self.strategies[self.leader].option >= option

    @property
    def waits(self) -> bool:
        """Whether the leader stays through late windows."""
        return bool(self.strategies) and self.strategies[self.leader].waits


class State(NamedTuple):
    """Everything remembered between two decisions; options are indices, ordered by cost."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a state
    """The current option"""
    slowdown: float = 1.0
    """Mean of measured latency ÷ profiled latency; slower windows count more"""
    level: float = 1.0
    """The same, with slower and faster windows alike"""
    latest: float = 1.0
    """Of the last window"""
    variance: float = 0.02
    """Of the same ratio. It starts at a standard deviation of 14 %, since nothing is known yet of the load."""
    contest: Contest = Contest()
    worths: tuple[float, ...] = ()
    """What a window of each option is worth"""
    weighed_at_s: float = -math.inf
    """When that was last worked out"""
    budgets: Budgets = Budgets(math.inf, math.inf, 0.0)
    misses: float = 0.0
    """Leaky count of missed deadlines"""
    overloaded: bool = False
    """Whether even the cheapest engine that works misses the deadline repeatedly"""
    backlog_steps: float = 0.0
    """At the last window"""
    fits_since_s: float | None = None
    """Since when a costlier option would have fitted"""
    raised_at_s: float | None = None
    """Time of the last upshift"""
    dwell_s: float | None = None
    """Current dwell; None: the policy's"""
    battery: BatteryEstimate = BatteryEstimate()
    drain: DrainRecord = DrainRecord()
    heat: ThermalModel = ThermalModel()
    unthrottled: float = 1.0
    """The level before heat slowed the processor"""
    heat_limit: int | None = None
    """Costliest option that heat allows; None: all"""
    heat_at_s: float = -math.inf
    """When the heat limit last changed"""
    cooldowns: tuple[Cooldown, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether the current option's engine failed and no other one works."""
        return any(cooldown.option == self.index and cooldown.active for cooldown in self.cooldowns)
