"""Simulates the governor: days in seconds, with a clock, a battery and a temperature that are numbers.

The simulated world knows what the governor must estimate: how slow the machine is at each moment, what each option
draws, how warm it gets. An oracle that knows all this too gives the upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.percentiles import percentile
from flexiast_runtime.simulation.world import Boolean, Double, Scenario, World

AMBIENT_C = 25.0
"""Temperature of a machine that does not warm"""
WILSON = 1.96
"""Quantile of the normal distribution for a 95 % interval"""
BISECTIONS = 24
"""Steps of the search for the oracle's price of energy: to a ten-millionth of the metric"""
GOAL_TOLERANCE = 0.98
"""Share of the reserve with which a goal counts as met: 2 % of a reserve is less than a gauge in percent can show"""


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


class Run:
    """One run through a world, tick by tick; earlier choices decide charge and temperature."""

    def __init__(self, world: World) -> None:
        cell, heat = world.scenario.cell, world.scenario.heat
        self.world, self.tick = world, 0
        self.charge = cell.charge if cell else 1.0
        self.celsius = heat.ambient_c if heat else AMBIENT_C
        self.backlog_s = self.latency_s = 0.0
        self._options, self._step_s, self._heat, self._fan = len(world.options), world.scenario.step_s, heat, False
        asleep_s = world.scenario.asleep_s
        self._asleep_s = None if asleep_s is None else asleep_s.tolist()
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
        if self._asleep_s is not None and self._asleep_s[self.tick]:
            self._sleep(self._asleep_s[self.tick])
        world, throttled, cell = self.world, self.throttled, self.tick * self._options + index
        self.latency_s = world.flat_latencies_s[throttled][cell]
        self.backlog_s = max(self.backlog_s + self.latency_s - self._step_s, 0.0)
        self.charge = max(self.charge - world.flat_drain[throttled][cell], 0.0)
        self._warm(world.flat_watts[throttled][cell], self._step_s)
        self._chosen.append(index)
        self._throttled.append(throttled)
        self._backlogs_s.append(self.backlog_s)
        self._charges.append(self.charge)
        self._celsius.append(self.celsius)
        self.tick += 1

    def _warm(self, watts: float, seconds: float) -> None:
        """Change the temperature after so many seconds at a power; start or stop the fan."""
        if (heat := self._heat) is None:
            return
        resistance = heat.kelvin_per_watt * (heat.fan_share if self._fan else 1.0)
        steady_c = heat.ambient_c + watts * resistance
        decay = math.exp(-seconds / (resistance * heat.joules_per_kelvin))
        self.celsius = steady_c + (self.celsius - steady_c) * decay
        self._fan = self.celsius > (heat.fan_off_c if self._fan else heat.fan_on_c)

    def _sleep(self, seconds: float) -> None:
        """Suspend the machine: it cools down, hardly uses its battery, and forgets the audio that waited."""
        scenario, self.backlog_s = self.world.scenario, 0.0
        if scenario.cell is not None:
            self.charge = max(self.charge - scenario.asleep_w * seconds / scenario.cell.capacity_j, 0.0)
        self._warm(scenario.asleep_w, seconds)

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
        capacity_j = cell.capacity_j if cell.gauge_j is None else cell.gauge_j
        energy_j = read * capacity_j if cell.reports_energy else None
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
    scenario = world.scenario
    if scenario.heat is None and scenario.asleep_s is None:
        return _add_up(world, np.fromiter(chosen, np.int64))
    run = Run(world)
    for index in chosen:
        run.advance(index)
    return run.outcome()


def _add_up(world: World, chosen: NDArray[np.int64]) -> Outcome:
    """The outcome where no tick depends on an earlier one but by sums: without heat and sleep, at once."""
    scenario, ticks = world.scenario, np.arange(len(chosen))
    latencies_s = world.latencies_s[0, ticks, chosen]
    late_s = np.concatenate(([0.0], np.cumsum(latencies_s - scenario.step_s)))
    backlogs_s = (late_s - np.minimum.accumulate(late_s))[1:]
    start = scenario.cell.charge if scenario.cell else 1.0
    charges = np.subtract.accumulate(np.concatenate(([start], world.drain[0, ticks, chosen])))[1:]
    return Outcome(
        scenario,
        world.options,
        chosen,
        latencies_s,
        latencies_s + backlogs_s,
        scenario.watts(latencies_s),
        np.maximum(charges, 0.0),
        np.full(len(chosen), AMBIENT_C),
        world.failing[ticks, chosen],
    )


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
    choices = value.argmax(axis=2)
    if scenario.heat is None:
        return replay(world, choices[0])
    run, best = Run(world), choices.tolist()
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
