"""Simulates the governor: days in seconds, with a clock, a battery and a temperature that are numbers.

The simulated world knows what the governor must estimate: how slow the machine is at each moment, what each option
draws, how warm it gets. An oracle that knows all this too gives the upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.percentiles import percentile

Double = NDArray[np.float64]
Boolean = NDArray[np.bool_]

WILSON = 1.96
"""Quantile of the normal distribution for a 95 % interval"""
BISECTIONS = 24
"""Steps of the search for the oracle's price of energy: to a ten-millionth of the metric"""
GOAL_TOLERANCE = 0.98
"""Share of the reserve with which a goal counts as met: 2 % of a reserve is less than a gauge in percent can show"""


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

    @property
    def ticks(self) -> int:
        return len(self.slowdown)

    @property
    def seconds(self) -> float:
        return self.ticks * self.step_s

    @property
    def times_s(self) -> Double:
        """When each window is complete [ticks]."""
        return np.arange(1, self.ticks + 1, dtype=np.float64) * self.step_s

    @property
    def power(self) -> str:
        return f"{self.idle_w:g} W idle, {self.busy_w:g} W more while an engine runs"

    def watts(self, latencies_s: Double) -> Double:
        """Mean power of the machine over one step, given the engine's latency."""
        return self.idle_w + self.busy_w * np.minimum(latencies_s / self.step_s, 1.0)


@dataclass(frozen=True)
class Outcome:
    """The result of a run; arrays are [ticks]."""

    scenario: Scenario
    options: tuple[Option, ...]
    chosen: NDArray[np.int64]
    latencies_s: Double
    ages_s: Double
    """From a window's last sample to its result"""
    watts: Double
    charges: Double
    """After each step; always 1 where there is no battery"""
    temperatures_c: Double
    failed: Boolean
    reasons: tuple[tuple[float, str], ...] = ()
    """Time in seconds and reason of each switch"""

    @cached_property
    def on_time(self) -> Boolean:
        """Windows with a result within the deadline, while the machine still had power."""
        return (self.latencies_s <= self.scenario.deadline_s) & ~self.failed & (self.charges > 0)

    @property
    def score(self) -> float:
        """Mean of the metric; a late or missing result counts as 0."""
        return float((metrics(self.options)[self.chosen] * self.on_time).mean())

    @property
    def joules(self) -> float:
        return float(self.watts.sum() * self.scenario.step_s)

    @property
    def misses(self) -> int:
        return int((~self.on_time).sum())

    @property
    def miss_rate(self) -> float:
        return self.misses / self.scenario.ticks

    @property
    def miss_interval(self) -> tuple[float, float]:
        """95 % interval of the miss rate, by Wilson's score."""
        return wilson(self.misses, self.scenario.ticks)

    @property
    def switches_per_hour(self) -> float:
        return float(np.count_nonzero(np.diff(self.chosen))) / (self.scenario.seconds / 3_600)

    @property
    def longest_run_of_misses(self) -> int:
        edges = np.flatnonzero(np.concatenate(([True], self.on_time, [True])))
        return int(np.diff(edges).max()) - 1

    @property
    def meets_goal(self) -> bool:
        """Whether the reserve is still there at the end."""
        scenario = self.scenario
        return scenario.cell is None or float(self.charges[-1]) >= GOAL_TOLERANCE * scenario.keep

    def age_s(self, percent: float) -> float:
        return percentile(sorted(map(float, self.ages_s)), percent)


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
        self.flat_drain = _flatten(self.watts * self._charge_per_watt())

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


class Run:
    """One run through a world, tick by tick; earlier choices decide charge and temperature."""

    def __init__(self, world: World) -> None:
        cell, heat = world.scenario.cell, world.scenario.heat
        self.world, self.tick = world, 0
        self.charge = cell.charge if cell else 1.0
        self.celsius = heat.ambient_c if heat else 25.0
        self.backlog_s = self.latency_s = 0.0
        self._options, self._step_s, self._heat = len(world.options), world.scenario.step_s, heat
        self._decay = math.exp(-self._step_s / (heat.kelvin_per_watt * heat.joules_per_kelvin)) if heat else 0.0
        self._chosen: list[int] = []
        self._throttled: list[bool] = []
        self._backlogs_s: list[float] = []
        self._charges: list[float] = []
        self._celsius: list[float] = []

    @property
    def throttled(self) -> bool:
        """Whether heat slows the processor down now."""
        return self._heat is not None and self._heat.limit_c - self.celsius <= 0

    def advance(self, index: int) -> None:
        """Classify one window with an option."""
        world, throttled, cell = self.world, self.throttled, self.tick * self._options + index
        self.latency_s = world.flat_latencies_s[throttled][cell]
        self.backlog_s = max(self.backlog_s + self.latency_s - self._step_s, 0.0)
        self.charge = max(self.charge - world.flat_drain[throttled][cell], 0.0)
        if heat := self._heat:
            steady_c = heat.ambient_c + world.flat_watts[throttled][cell] * heat.kelvin_per_watt
            self.celsius = steady_c + (self.celsius - steady_c) * self._decay
        self._chosen.append(index)
        self._throttled.append(throttled)
        self._backlogs_s.append(self.backlog_s)
        self._charges.append(self.charge)
        self._celsius.append(self.celsius)
        self.tick += 1

    def outcome(self, reasons: Sequence[tuple[float, str]] = ()) -> Outcome:
        """The result of all choices so far."""
        world, ticks, chosen = self.world, np.arange(self.tick), np.array(self._chosen)
        latencies_s = world.latencies_s[np.array(self._throttled, int), ticks, chosen]
        return Outcome(
            world.scenario,
            world.options,
            chosen,
            latencies_s,
            latencies_s + np.array(self._backlogs_s),
            world.scenario.watts(latencies_s),
            np.array(self._charges),
            np.array(self._celsius),
            world.failing[ticks, chosen],
            tuple(reasons),
        )


class SimulatedSensors:
    """What a governor can observe of a run."""

    def __init__(self, run: Run) -> None:
        scenario = run.world.scenario
        self._run, self._scenario = run, scenario
        self._times_s, self._deadlines_s = scenario.times_s.tolist(), scenario.deadline_s.tolist()
        self._failing = None if scenario.failing is None else scenario.failing.tolist()

    def observe_start(self) -> Observation:
        """The observation before the first window."""
        return Observation(
            0.0, self._deadlines_s[0], battery=self._battery(0.0), thermal_headroom_c=self._thermal_headroom_c()
        )

    def observe_window(self, index: int) -> Observation:
        """Classify one window with an option, and return the observation."""
        run, tick, throttled = self._run, self._run.tick, self._run.throttled
        time_s, failed = self._times_s[tick], self._failing is not None and self._failing[tick][index]
        run.advance(index)
        return Observation(
            time_s,
            self._deadlines_s[tick],
            None if failed else run.latency_s,
            backlog_steps=run.backlog_s / self._scenario.step_s,
            battery=self._battery(time_s),
            thermal_headroom_c=self._thermal_headroom_c(),
            throttled=throttled if self._scenario.heat else None,
            failed=failed,
        )

    def _battery(self, time_s: float) -> Battery | None:
        cell = self._scenario.cell
        read = None if cell is None else cell.sensor(time_s, self._run.charge)
        if cell is None or read is None:
            return None
        energy_j = read * cell.capacity_j if cell.reports_energy else None
        return Battery(read, discharging=not cell.plugged(time_s), energy_j=energy_j)

    def _thermal_headroom_c(self) -> float | None:
        heat = self._scenario.heat
        return None if heat is None else heat.limit_c - self._run.celsius


def simulate(policy: Policy, world: World) -> Outcome:
    """Run the governor through a scenario, with the scenario's goal."""
    scenario, run, reasons = world.scenario, Run(world), []
    sensors = SimulatedSensors(run)
    policy = replace(policy, goal=replace(policy.goal, until_s=scenario.goal_s, min_battery=scenario.keep))
    state = init_state(policy, world.options, sensors.observe_start())
    for _ in range(scenario.ticks):
        observation = sensors.observe_window(state.index)
        state, decision = step(policy, world.options, state, observation)
        if decision.reason:
            reasons.append((observation.time_s, decision.reason))
    return run.outcome(reasons)


def replay(world: World, chosen: Iterable[int]) -> Outcome:
    """Run a given sequence of options, one for each tick."""
    run = Run(world)
    for index in chosen:
        run.advance(index)
    return run.outcome()


def always(index: int, world: World) -> Outcome:
    """Run one option through the whole scenario."""
    return replay(world, repeat(index, world.scenario.ticks))


def oracle(world: World) -> Outcome:
    """Run with the slowdown of every tick known in advance: the upper bound of any governor's score.

    At each tick it takes the option with the highest metric minus the price of its energy. The price is the lowest with
    which the charge meets the goal, a Lagrange multiplier found by bisection. It does not plan ahead for heat.
    """
    scenario = world.scenario
    if scenario.cell is None or scenario.goal_s is None:
        return solve_with_price(world, 0.0)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        if solve_with_price(world, price).charges[-1] < scenario.keep:
            low = price
        else:
            high = price
    return solve_with_price(world, high)


def solve_with_price(world: World, price: float) -> Outcome:
    """Run the best option of each tick, given what a watt costs in units of the metric."""
    scenario = world.scenario
    answered = (world.latencies_s <= scenario.deadline_s[:, None]) & ~world.failing
    value = metrics(world.options) * answered - price * (world.watts - scenario.idle_w)
    best = value.argmax(axis=2).tolist()
    run = Run(world)
    for tick in range(scenario.ticks):
        run.advance(best[run.throttled][tick])
    return run.outcome()


def metrics(options: Sequence[Option]) -> Double:
    """The metric of each option; where it was not measured, its rank by cost."""
    count = len(options)
    return np.array([(i + 1) / count if o.metric is None else o.metric for i, o in enumerate(options)])


def wilson(misses: int, count: int) -> tuple[float, float]:
    """Bounds of a share at 95 % confidence (E. B. Wilson, 1927), within 0 and 1."""
    if not count:
        return 0.0, 1.0
    share, z2 = misses / count, WILSON**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = WILSON * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)
