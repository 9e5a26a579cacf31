"""What the governor is given and what it decides; what it remembers is in `state`."""

from __future__ import annotations

from dataclasses import dataclass

from flexiast.spec import Patch
from flexiast_runtime.hardware.battery import Battery


@dataclass(frozen=True)
class Goal:
    """What the user asks of the battery."""

    until_s: float | None = None
    """The charge must last until this time of the stream."""
    min_battery: float = 0.2
    """Reserve, as a fraction of the charge. 20 % is where many devices warn of a low battery."""
    max_watts: float | None = None
    """Most that the machine may draw"""


@dataclass(frozen=True)
class Option:
    """A variant of the model as the governor sees it."""

    patch: Patch
    latency_s: float
    """Measured on this machine without other load"""
    metric: float | None = None
    """Accuracy or mean average precision, if measured"""
    watts: float | None = None
    """Power of the machine while it listens with this variant, if profiled"""
    recall_by_snr_db: tuple[tuple[float, float], ...] = ()
    """Signal-to-noise ratio in dB and recall there at the bundle's rate of false alarms, if measured"""


@dataclass(frozen=True)
class Policy:
    """How quickly and how far the governor switches.

    The defaults are the preset `balanced`, chosen by simulation: `python -m benchmarks.governor`, and
    docs/explanation/governor.md.
    """

    dwell_s: float = 20.0
    """How long a costlier option must fit before an upshift: fewer switches for a little score, as simulated"""
    max_dwell_s: float = 60.0
    """A dwell doubles after each upshift that fails, up to this: three dwells, so that one failure is soon forgiven."""
    relapse_s: float = 10.0
    """An upshift that is reversed within this time has failed: a prediction takes as long to settle after a load, so
    what reverses it is seldom a new one."""
    headroom: float = 0.8
    """An upshift needs a predicted latency below this share of the deadline. The gap to `limit` is the hysteresis."""
    limit: float = 0.97
    """A downshift follows a predicted latency above this share of the deadline. The rest covers timer noise."""
    goal: Goal = Goal()
    switches_per_h: float = 20.0
    """Switches an hour, in the long run. A switch down is never refused; a switch up waits until it and the next one
    down are in this budget."""
    misses_share: float = 0.01
    """Share of windows that may be missed where that wins a better size"""
    miss_cost: float = 1.0
    """What a missed window costs, in windows of that size: 1 is the window itself."""
    hot_headroom_c: float = 3.0
    """Below this thermal headroom the governor downshifts step by step. Sensors have a resolution of about 1 °C."""
    cool_headroom_c: float = 8.0
    """Above this thermal headroom it may upshift again: five steps of a sensor in degrees above the other, so that it
    does not swing to and fro."""
    heat_s: float = 10.0
    """Time between two such steps: what a heat sink needs to show the effect of one"""
    max_charge_per_min: float = 0.05
    """Fastest change of a battery's charge that is believed; a machine that drains faster is empty in 20 minutes."""
    battery_timeout_s: float = 60.0
    """A battery that cannot be read keeps its last charge for this long: at most 5 % are lost in it, see above."""
    charge_margin: float = 0.02
    """An upshift must still be allowed with this much less charge, so that a gauge in percent does not reverse it."""
    retry_s: float = 30.0
    """Cooldown of an engine after its first failure; it doubles with each further one. A driver that restarts takes
    seconds."""


@dataclass(frozen=True)
class Observation:
    """What is known once a window has been classified. What is unknown is None and has no effect."""

    time_s: float
    deadline_s: float
    latency_s: float | None = None
    """Of the engine that classified the window"""
    overhead_s: float = 0.0
    """Time spent on the window outside the engine: features and smoothing, the same for every variant"""
    backlog_steps: float = 0.0
    """Audio that is waiting, in steps"""
    battery: Battery | None = None
    thermal_headroom_c: float | None = None
    """Degrees from the hottest part to where the kernel throttles it"""
    throttled: bool | None = None
    power_saver: bool | None = None
    """Whether the user asked the system to save power"""
    snr_db: float | None = None
    """Signal-to-noise ratio of the sounds at this place"""
    failed: bool = False
    """Whether the engine raised an error"""
    option: int | None = None
    """The option that ran, where it is not the one in the state"""

    @property
    def budget_s(self) -> float:
        """What the deadline leaves for the engine."""
        return self.deadline_s - self.overhead_s


@dataclass(frozen=True)
class Decision:
    """The option to run next. There is a reason if and only if it changes."""

    index: int
    reason: str | None = None
