"""The simulated world: what happens to a machine that listens, and what each option costs in it at each moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.governor.types import Option

Double = NDArray[np.float64]
Boolean = NDArray[np.bool_]


@dataclass(frozen=True)
class Heat:
    """One thermal mass: C dT/dt = P − (T − ambient) / R. Above the limit the processor is throttled.

    The defaults are those of a single-board computer with a small heat sink: 3 to 9 W settle at 40 to 70 °C, with a
    time constant of 200 s. 85 °C is where a Raspberry Pi throttles.
    """

    ambient_c: float = 25.0
    kelvin_per_watt: float = 5.0
    joules_per_kelvin: float = 40.0
    limit_c: float = 85.0
    throttled_slowdown: float = 1.7
    """Factor on every latency while throttled"""
    fan_on_c: float = math.inf
    """Where a fan starts"""
    fan_off_c: float = -math.inf
    """Where it stops again"""
    fan_share: float = 1.0
    """Of the thermal resistance, while the fan runs"""


@dataclass(frozen=True)
class BatteryModel:
    """A battery and its sensor."""

    capacity_j: float
    charge: float = 1.0
    """At the start, 0 … 1"""
    sensor: Callable[[float, float], float | None] = lambda time_s, charge: charge
    """Time in seconds and true charge → reading"""
    plugged: Callable[[float], bool] = lambda time_s: False
    """Time in seconds → whether mains power feeds the machine; the charge then stays as it is"""
    reports_energy: bool = True
    gauge_j: float | None = None
    """Capacity by which the gauge converts charge to energy; None: the true one"""


@dataclass(frozen=True)
class Scenario:
    """What happens to a machine that listens."""

    name: str
    slowdown: Double
    """[ticks] Factor on every profiled latency"""
    deadline_s: Double
    """[ticks]"""
    step_s: float = 0.5
    idle_w: float = 3.0
    busy_w: float = 6.0
    """Above idle, while an engine runs"""
    cell: BatteryModel | None = None
    heat: Heat | None = None
    failing: Boolean | None = None
    """[ticks, options] Whether an option's engine raises an error"""
    goal_s: float | None = None
    """Until when the charge must stay above the reserve"""
    keep: float = 0.1
    asleep_s: Double | None = None
    """[ticks] Seconds for which the machine was suspended before each window"""
    asleep_w: float = 0.3
    """While suspended"""

    @property
    def ticks(self) -> int:
        return len(self.slowdown)

    @property
    def seconds(self) -> float:
        """Time awake."""
        return self.ticks * self.step_s

    @property
    def times_s(self) -> Double:
        """When each window is complete [ticks]."""
        awake = np.arange(1, self.ticks + 1, dtype=np.float64) * self.step_s
        return awake if self.asleep_s is None else awake + np.cumsum(self.asleep_s)

    @property
    def power(self) -> str:
        return f"{self.idle_w:g} W idle, {self.busy_w:g} W more while an engine runs"

    def watts(self, latencies_s: Double) -> Double:
        """Mean power of the machine over one step, given the engine's latency."""
        return self.idle_w + self.busy_w * np.minimum(latencies_s / self.step_s, 1.0)


class World:
    """A scenario with options: latency, power and failure of each option at each tick."""

    def __init__(self, scenario: Scenario, options: Sequence[Option]) -> None:
        watts = scenario.watts(np.array([option.latency_s for option in options]))
        self.scenario = scenario
        self.options = tuple(replace(option, watts=float(w)) for option, w in zip(options, watts, strict=True))
        """With the power of each on an idle machine, as a profile has it"""
        throttled = scenario.heat.throttled_slowdown if scenario.heat else 1.0
        factors = scenario.slowdown * np.array([[1.0], [throttled]])
        self.latencies_s: Double = factors[..., None] * np.array([option.latency_s for option in options])
        """[not throttled or throttled, ticks, options]"""
        self.watts = scenario.watts(self.latencies_s)
        self.failing = np.zeros(self.latencies_s.shape[1:], bool) if scenario.failing is None else scenario.failing
        self.flat_latencies_s = _flatten(self.latencies_s)
        self.flat_watts = _flatten(self.watts)
        self.drain = self.watts * self._charge_per_watt()
        self.flat_drain = _flatten(self.drain)

    def _charge_per_watt(self) -> Double:
        """[ticks, 1] Share of the charge that one watt uses in one step."""
        scenario, cell = self.scenario, self.scenario.cell
        if cell is None:
            return np.zeros((scenario.ticks, 1))
        plugged = np.array([[cell.plugged(time_s)] for time_s in scenario.times_s])
        return np.where(plugged, 0.0, scenario.step_s / cell.capacity_j)


def _flatten(table: Double) -> list[list[float]]:
    """[throttled or not][tick · options + option]. Reading single numbers from a list is faster than from an array."""
    return [part.ravel().tolist() for part in table]
