"""What the machine and the user allow just now, whatever would meet the deadline: energy, heat, a wish to save.

Each limit is the dearest option that it lets run, with its reason; the lowest one holds. What is not known limits
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flexiast_runtime.governor.battery_filter import STEP

if TYPE_CHECKING:
    from flexiast_runtime.governor.step import Observation, Option, State
    from flexiast_runtime.hardware.battery import Battery

TAPER_FROM = 0.5
"""Without a time to reach, a battery that drains is spared from here on, down to the charge to be kept."""
SLACK = 1.02
"""A rate that is exceeded by so little is kept: the next look corrects it."""
BAND = 0.1
"""Charge above or below the straight line to the goal at which everything, or nothing but the cheapest, is allowed."""


@dataclass(frozen=True)
class Goal:
    """What the user asked of the battery."""

    until_s: float | None = None
    """The charge must last to this moment of the stream."""
    min_battery: float = 0.2
    """Charge to be kept, 0 … 1"""
    max_watts: float | None = None


class Limit(NamedTuple):
    """The dearest option allowed, and why."""

    option: int
    reason: str


def limit(goal: Goal, options: Sequence[Option], state: State, seen: Observation) -> Limit:
    """The lowest of all limits."""
    everything = Limit(len(options) - 1, "")
    return min((everything, *_limits(goal, options, state, seen)), key=lambda each: each.option)


def _limits(goal: Goal, options: Sequence[Option], state: State, seen: Observation) -> Iterator[Limit]:
    if seen.power_saver:
        yield Limit(0, "the system saves power")
    if state.heat_limit is not None:
        yield Limit(
            state.heat_limit,
            "heat" if seen.thermal_headroom_c is None else f"{seen.thermal_headroom_c:.0f} K to throttling",
        )
    if goal.max_watts is not None:
        yield Limit(_allow_by_watts(options, goal.max_watts), f"limit of {goal.max_watts:g} W")
    battery = state.belief.battery
    if battery is not None and battery.discharging:
        yield _battery(goal, options, battery, state, seen)


def _battery(goal: Goal, options: Sequence[Option], battery: Battery, state: State, seen: Observation) -> Limit:
    doubted = abs(state.belief.read - battery.fraction) >= STEP
    read = f"reads {state.belief.read:.0%}, taken as " if doubted else ""
    reason = f"battery {read}{battery.fraction:.0%} and discharging"
    spare = battery.fraction - goal.min_battery
    left_s = None if goal.until_s is None else goal.until_s - seen.time_s
    if left_s is None or left_s <= 0:
        taper_from = max(TAPER_FROM, goal.min_battery + BAND)
        return Limit(_allow_by_share(options, spare / (taper_from - goal.min_battery)), reason)
    if spare <= 0:
        return Limit(0, f"{reason}, {goal.min_battery:.0%} to be kept")
    if battery.energy_j is not None and all(option.watts is not None for option in options):
        allowed_w = SLACK * spare / max(battery.fraction, 1e-9) * battery.energy_j / left_s
        return Limit(_allow_by_watts(options, allowed_w), f"{reason}: {allowed_w:.1f} W for {left_s / 3600:.1f} h")
    return Limit(
        _allow_by_share(options, 0.5 + _charge_margin(goal, battery, state, seen) / BAND),
        f"{reason}: {left_s / 3600:.1f} h",
    )


def _charge_margin(goal: Goal, battery: Battery, state: State, seen: Observation) -> float:
    """Charge above the straight line from where it began to drain to the goal."""
    assert goal.until_s is not None
    began_s, began = state.belief.drains_from or (seen.time_s, battery.fraction)
    gone = (seen.time_s - began_s) / max(goal.until_s - began_s, 1e-9)
    return battery.fraction - (began + gone * (goal.min_battery - began))


def _allow_by_share(options: Sequence[Option], share: float) -> int:
    """Costs allowed fall geometrically from the dearest option's at share 1 to the cheapest's at 0."""
    cheapest, dearest = options[0].latency_s, options[-1].latency_s
    if share >= 1:
        return len(options) - 1
    allowed = cheapest * (dearest / cheapest) ** max(share, 0.0)
    return max((index for index, option in enumerate(options) if option.latency_s <= allowed), default=0)


def _allow_by_watts(options: Sequence[Option], watts: float) -> int:
    """The dearest option under which the machine draws no more; all of them where that is not known."""
    fitting = [index for index, option in enumerate(options) if option.watts is None or option.watts <= watts]
    return max(fitting, default=0)
