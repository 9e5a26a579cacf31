"""What the machine and the user allow, whatever the deadline: energy, heat, a power-saving mode.

Each limit is the costliest option that it allows, with a reason. The lowest limit applies. What is unknown limits
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flexiast_runtime.governor.battery_filter import STEP
from flexiast_runtime.governor.state import State
from flexiast_runtime.governor.types import Goal, Observation, Option
from flexiast_runtime.hardware.battery import Battery

TAPER_FROM = 0.5
"""Without a time to last until, allowed cost falls from this charge down to the reserve. Half a charge is a compromise:
a higher value gives accuracy away that the user may never need, a lower one shortens what is left."""
TOLERANCE = 1.002
"""A power up to 0.2 % above what the battery can sustain is allowed: the next observation corrects it, and without it a
rounding error would forbid the option that fits exactly. Idle power is most of a machine's: 2 % of it can be more than
all options differ by."""
TOLERANCE_IN_PERCENT = 1.02
"""The same where energy is learnt from a gauge in percent: half a step of it in a quarter of the charge. What such a
gauge cannot tell apart is not forbidden."""
BAND = 0.1
"""Full width, in charge, of the band around the straight discharge line. Above the band everything is allowed, below it
only the cheapest option. It is wider than one step of a gauge in percent, so that one step moves at most one option."""


class Limit(NamedTuple):
    """The costliest option allowed, and why."""

    option: int
    reason: str


def limit(goal: Goal, options: Sequence[Option], state: State, observation: Observation) -> Limit:
    """The lowest of all limits."""
    everything = Limit(len(options) - 1, "")
    return min((everything, *_limits(goal, options, state, observation)), key=lambda each: each.option)


def _limits(goal: Goal, options: Sequence[Option], state: State, observation: Observation) -> Iterator[Limit]:
    if observation.power_saver:
        yield Limit(0, "the system is saving power")
    if state.heat_limit is not None:
        yield Limit(state.heat_limit, _describe_heat(state.heat.believed_c))
    if goal.max_watts is not None:
        yield Limit(_allow_by_watts(options, goal.max_watts), f"power limit of {goal.max_watts:g} W")
    battery = state.battery.battery
    if battery is not None and battery.discharging:
        yield _limit_by_battery(goal, options, battery, state, observation)


def _describe_heat(headroom_c: float | None) -> str:
    if headroom_c is None:
        return "the processor is throttled for heat"
    if headroom_c <= 0:
        return f"{-headroom_c:.0f} °C above the throttling temperature"
    return f"{headroom_c:.0f} °C below the throttling temperature"


def _limit_by_battery(
    goal: Goal, options: Sequence[Option], battery: Battery, state: State, observation: Observation
) -> Limit:
    suspect = abs(state.battery.reading - battery.fraction) >= STEP
    reading = f" (the sensor reads {state.battery.reading:.0%})" if suspect else ""
    reason = f"battery at {battery.fraction:.0%}{reading} and discharging"
    spare = battery.fraction - goal.min_battery
    left_s = None if goal.until_s is None else goal.until_s - observation.time_s
    if left_s is None or left_s <= 0:
        taper_from = max(TAPER_FROM, goal.min_battery + BAND)
        return Limit(_allow_by_share(options, spare / (taper_from - goal.min_battery)), reason)
    if spare <= 0:
        return Limit(0, f"{reason}, below the reserve of {goal.min_battery:.0%}")
    gauge_j = None if battery.energy_j is None else battery.energy_j / max(battery.fraction, 1e-9)
    full_j = state.drain.full_j(gauge_j)
    if full_j is not None and all(option.watts is not None for option in options):
        tolerance = TOLERANCE_IN_PERCENT if gauge_j is None else TOLERANCE
        allowed_w = tolerance * spare * full_j / left_s
        return Limit(
            _allow_by_watts(options, allowed_w), f"{reason}; {allowed_w:.1f} W would last {left_s / 3600:.1f} h"
        )
    # Without power figures the charge follows a straight line. On the line, half of the range is allowed.
    share = 0.5 + _charge_margin(goal, battery, state, observation) / BAND
    return Limit(_allow_by_share(options, share), f"{reason}; it must last {left_s / 3600:.1f} h")


def _charge_margin(goal: Goal, battery: Battery, state: State, observation: Observation) -> float:
    """Charge above the straight line from the start of discharge to the goal."""
    assert goal.until_s is not None
    start_s, start = state.battery.discharge_start or (observation.time_s, battery.fraction)
    elapsed = (observation.time_s - start_s) / max(goal.until_s - start_s, 1e-9)
    return battery.fraction - (start + elapsed * (goal.min_battery - start))


def _allow_by_share(options: Sequence[Option], share: float) -> int:
    """The costliest option allowed: at share 0 the latency of the cheapest, at 1 of the costliest, geometric between.

    Geometric, since costs of neighbouring patch sizes differ by a factor, not by a difference.
    """
    cheapest, costliest = options[0].latency_s, options[-1].latency_s
    if share >= 1:
        return len(options) - 1
    allowed = cheapest * (costliest / cheapest) ** max(share, 0.0)
    return max((index for index, option in enumerate(options) if option.latency_s <= allowed), default=0)


def _allow_by_watts(options: Sequence[Option], watts: float) -> int:
    """The costliest option with which the machine draws no more; all options where power is unknown."""
    fitting = [index for index, option in enumerate(options) if option.watts is None or option.watts <= watts]
    return max(fitting, default=0)
