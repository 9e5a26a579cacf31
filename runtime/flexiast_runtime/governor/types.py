"""What the governor is given, what it remembers and what it decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from flexiast.spec import Patch
from flexiast_runtime.hardware.battery import Battery


@dataclass(frozen=True)
class Goal:
    """What the user asked of the battery."""

    until_s: float | None = None
    """The charge must last to this moment of the stream."""
    min_battery: float = 0.2
    """Charge to be kept, 0 … 1"""
    max_watts: float | None = None


@dataclass(frozen=True)
class Option:
    """A variant as the governor sees it."""

    patch: Patch
    latency_s: float
    """Profiled on this device, unloaded"""
    metric: float | None = None
    """Measured accuracy, where known"""
    watts: float | None = None
    """What the machine draws while it listens with this variant, where that was profiled"""


@dataclass(frozen=True)
class Policy:
    """How readily to switch."""

    dwell_s: float = 20.0
    max_dwell_s: float = 60.0
    relapse_s: float = 10.0
    """A climb that is taken back within this time was a mistake."""
    headroom: float = 0.8
    """Share of the deadline that a variant may be predicted to take before it is chosen."""
    limit: float = 0.97
    """Share of the deadline above which the running variant is left."""
    goal: Goal = Goal()
    hot_k: float = 3.0
    """Kelvins to throttling below which it gets cheaper, step by step."""
    cool_k: float = 8.0
    """Kelvins to throttling above which it may get dearer again."""
    heat_s: float = 10.0
    """A step takes so long to be felt in the temperature."""
    fastest_change: float = 0.05
    """Of a battery's charge in a minute"""
    remembered_s: float = 60.0
    """A battery that cannot be read is taken to be as it was for so long."""
    charge_margin: float = 0.02
    """Charge by which a dearer option must be allowed before it is taken."""
    retry_s: float = 30.0
    """An engine that failed rests so long, twice as long each time, up to an hour."""


@dataclass(frozen=True)
class Observation:
    """What is known when a window has been classified; what is missing is None and ignored."""

    time_s: float
    deadline_s: float
    latency_s: float | None = None
    """Of the engine that classified the window"""
    overhead_s: float = 0.0
    """What the window took besides: features and smoothing, the same whatever the variant"""
    backlog_steps: float = 0.0
    """Audio that waits, in steps."""
    battery: Battery | None = None
    heat_room_k: float | None = None
    """Kelvins from the hottest part to where the kernel holds it back"""
    throttled: bool | None = None
    power_saver: bool | None = None
    """The user asked the system to save power"""
    failed: bool = False
    """The engine gave an error instead of an answer"""
    option: int | None = None
    """Whose latency it is, where it is not that of the variant in the state"""

    @property
    def budget_s(self) -> float:
        """What the deadline leaves for the engine."""
        return self.deadline_s - self.overhead_s


class BatteryEstimate(NamedTuple):
    """All that is remembered of the readings."""

    battery: Battery | None = None
    """As believed"""
    drains_from: tuple[float, float] | None = None
    """When the battery began to drain, and its charge then"""
    read_at_s: float = 0.0
    read: float = 0.0
    """The last reading, believed or not"""
    doubted_from: float | None = None
    """What it jumped to, until it is followed"""


class Cooldown(NamedTuple):
    """An engine that failed."""

    option: int
    until_s: float
    seconds: float
    """How long it rests this time"""
    holds: bool = True
    """Whether it still rests; afterwards only the length of its next rest is remembered"""


class State(NamedTuple):
    """Everything remembered between two decisions; options are ordered from cheap to dear."""

    index: int  # type: ignore[assignment]  # it hides tuple.index, which nobody asks of a state
    """The option running"""
    slowdown: float = 1.0
    variance: float = 0.02
    misses: float = 0.0
    """Leaky count of missed deadlines"""
    overloaded: bool = False
    """Even the cheapest option that can run misses the deadline again and again"""
    backlog_steps: float = 0.0
    """As it was at the last window"""
    fits_since_s: float | None = None
    """Since when a dearer option would have fitted"""
    raised_at_s: float | None = None
    """When it last climbed"""
    dwell_s: float | None = None
    """Current dwell; None is the policy's own"""
    belief: BatteryEstimate = BatteryEstimate()
    """Of the battery"""
    heat_limit: int | None = None
    heat_at_s: float = -math.inf
    """When heat last changed its limit"""
    resting: tuple[Cooldown, ...] = ()
    """Engines that failed"""

    @property
    def degraded(self) -> bool:
        """The option named is one that failed, for there is no other."""
        return any(rest.option == self.index and rest.holds for rest in self.resting)


@dataclass(frozen=True)
class Decision:
    """The option to run next, and why it changed; no reason, no change."""

    index: int
    reason: str | None = None
