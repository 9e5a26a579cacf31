"""The governor in a world of its own: days in seconds, with a clock, a battery and heat that are numbers.

The world knows what the governor must guess: how slow the machine is at each moment, what each option draws, how warm
it grows. A clairvoyant oracle that knows it too shows what could have been had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.governor import step as governor
from flexiast_runtime.governor.step import Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.profiling.percentiles import percentile

Double = NDArray[np.float64]
Boolean = NDArray[np.bool_]

WILSON = 1.96
"""Normal quantile of a 95 % interval"""
BISECTIONS = 24
"""Of the oracle's price of energy: to a ten-millionth of the metric"""
KEPT = 0.98
"""Share of the charge to be kept with which a goal counts as reached"""


@dataclass(frozen=True)
class Heat:
    """One thermal mass: C dT/dt = P − (T − ambient) / R; the processor is held back above a limit."""

    ambient_c: float = 25.0
    kelvin_per_watt: float = 5.0
    joules_per_kelvin: float = 40.0
    limit_c: float = 85.0
    slower: float = 1.7
    """Factor on every latency while it is held back"""


@dataclass(frozen=True)
class BatteryModel:
    """A battery and its sensor."""

    capacity_j: float
    charge: float = 1.0
    """When it begins, 0 … 1"""
    sensor: Callable[[float, float], float | None] = lambda time_s, charge: charge
    """Seconds and true charge → what is read"""
    plugged: Callable[[float], bool] = lambda time_s: False
    """Whether it is neither drained nor charged at that moment"""
    says_joules: bool = True


@dataclass(frozen=True)
class Scenario:
    """What happens to a machine that listens."""

    name: str
    slowdown: Double
    """[ticks] factor on every profiled latency"""
    deadline_s: Double
    """[ticks]"""
    step_s: float = 0.5
    idle_w: float = 3.0
    busy_w: float = 6.0
    """Above idle, while an engine runs"""
    cell: BatteryModel | None = None
    heat: Heat | None = None
    failing: Boolean | None = None
    """[ticks, options] whether an option's engine gives an error"""
    goal_s: float | None = None
    """When the charge may have gone down to what is to be kept"""
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
        """What the machine draws, over one step, with engines that take so long."""
        return self.idle_w + self.busy_w * np.minimum(latencies_s / self.step_s, 1.0)


@dataclass(frozen=True)
class Outcome:
    """What came of it; arrays are [ticks]."""

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
    """When it switched, and why"""

    @cached_property
    def on_time(self) -> Boolean:
        """Windows answered within the deadline, by a machine that still had power."""
        return (self.latencies_s <= self.scenario.deadline_s) & ~self.failed & (self.charges > 0)

    @property
    def score(self) -> float:
        """Mean of the metric, where a late answer or none counts nothing."""
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
        """95 %, by Wilson's score."""
        return wilson(self.misses, self.scenario.ticks)

    @property
    def switches_per_hour(self) -> float:
        return float(np.count_nonzero(np.diff(self.chosen))) / (self.scenario.seconds / 3_600)

    @property
    def longest_run_of_misses(self) -> int:
        edges = np.flatnonzero(np.concatenate(([True], self.on_time, [True])))
        return int(np.diff(edges).max()) - 1

    @property
    def keeps_its_goal(self) -> bool:
        """Whether as much charge is left as was to be kept."""
        scenario = self.scenario
        return scenario.cell is None or float(self.charges[-1]) >= KEPT * scenario.keep

    def age_s(self, percent: float) -> float:
        return percentile(sorted(map(float, self.ages_s)), percent)


class World:
    """A scenario with options: what each would take, draw and do at each moment."""

    def __init__(self, scenario: Scenario, options: Sequence[Option]) -> None:
        watts = scenario.watts(np.array([option.latency_s for option in options]))
        self.scenario = scenario
        self.options = tuple(replace(option, watts=float(w)) for option, w in zip(options, watts, strict=True))
        """With what each draws on a free machine, as a profile would tell"""
        slower = scenario.heat.slower if scenario.heat else 1.0
        factors = scenario.slowdown * np.array([[1.0], [slower]])
        self.latencies_s: Double = factors[..., None] * np.array([option.latency_s for option in options])
        """[free or held back, ticks, options]"""
        self.watts = scenario.watts(self.latencies_s)
        self.failing = np.zeros(self.latencies_s.shape[1:], bool) if scenario.failing is None else scenario.failing
        self.quick_latencies_s = _quick(self.latencies_s)
        self.quick_watts = _quick(self.watts)
        self.quick_drained = _quick(self.watts * self._share_of_charge())

    def _share_of_charge(self) -> Double:
        """[ticks, 1] what a watt takes from the battery in one step."""
        scenario, cell = self.scenario, self.scenario.cell
        if cell is None:
            return np.zeros((scenario.ticks, 1))
        plugged = np.array([[cell.plugged(time_s)] for time_s in scenario.times_s])
        return np.where(plugged, 0.0, scenario.step_s / cell.capacity_j)


def _quick(table: Double) -> list[list[float]]:
    """[free or held back][tick · options + option]: single numbers come faster out of lists than out of arrays."""
    return [part.ravel().tolist() for part in table]


class Run:
    """One way through a world, tick by tick: what has been chosen decides how full and how warm it is."""

    def __init__(self, world: World) -> None:
        cell, heat = world.scenario.cell, world.scenario.heat
        self.world, self.tick = world, 0
        self.charge = cell.charge if cell else 1.0
        self.celsius = heat.ambient_c if heat else 25.0
        self.backlog_s = self.latency_s = 0.0
        self._options, self._step_s, self._heat = len(world.options), world.scenario.step_s, heat
        self._decay = math.exp(-self._step_s / (heat.kelvin_per_watt * heat.joules_per_kelvin)) if heat else 0.0
        self._chosen: list[int] = []
        self._held_back: list[bool] = []
        self._backlogs_s: list[float] = []
        self._charges: list[float] = []
        self._celsius: list[float] = []

    @property
    def held_back(self) -> bool:
        """Whether it is too warm to run freely."""
        return self._heat is not None and self._heat.limit_c - self.celsius <= 0

    def advance(self, index: int) -> None:
        """One window with an option."""
        world, held_back, place = self.world, self.held_back, self.tick * self._options + index
        self.latency_s = world.quick_latencies_s[held_back][place]
        self.backlog_s = max(self.backlog_s + self.latency_s - self._step_s, 0.0)
        self.charge = max(self.charge - world.quick_drained[held_back][place], 0.0)
        if heat := self._heat:
            settled = heat.ambient_c + world.quick_watts[held_back][place] * heat.kelvin_per_watt
            self.celsius = settled + (self.celsius - settled) * self._decay
        self._chosen.append(index)
        self._held_back.append(held_back)
        self._backlogs_s.append(self.backlog_s)
        self._charges.append(self.charge)
        self._celsius.append(self.celsius)
        self.tick += 1

    def outcome(self, reasons: Sequence[tuple[float, str]] = ()) -> Outcome:
        """What came of all that was chosen."""
        world, ticks, chosen = self.world, np.arange(self.tick), np.array(self._chosen)
        latencies_s = world.latencies_s[np.array(self._held_back, int), ticks, chosen]
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
    """What a governor sees of a run."""

    def __init__(self, run: Run) -> None:
        scenario = run.world.scenario
        self._run, self._scenario = run, scenario
        self._times_s, self._deadlines_s = scenario.times_s.tolist(), scenario.deadline_s.tolist()
        self._failing = None if scenario.failing is None else scenario.failing.tolist()

    def before(self) -> Observation:
        """What sensors say, before any window."""
        return Observation(0.0, self._deadlines_s[0], battery=self._battery(0.0), thermal_headroom_c=self._room_k())

    def window(self, index: int) -> Observation:
        """One window with an option, and what is seen of it."""
        run, tick, held_back = self._run, self._run.tick, self._run.held_back
        time_s, failed = self._times_s[tick], self._failing is not None and self._failing[tick][index]
        run.advance(index)
        return Observation(
            time_s,
            self._deadlines_s[tick],
            None if failed else run.latency_s,
            backlog_steps=run.backlog_s / self._scenario.step_s,
            battery=self._battery(time_s),
            thermal_headroom_c=self._room_k(),
            throttled=held_back if self._scenario.heat else None,
            failed=failed,
        )

    def _battery(self, time_s: float) -> Battery | None:
        cell = self._scenario.cell
        read = None if cell is None else cell.sensor(time_s, self._run.charge)
        if cell is None or read is None:
            return None
        energy_j = read * cell.capacity_j if cell.says_joules else None
        return Battery(read, discharging=not cell.plugged(time_s), energy_j=energy_j)

    def _room_k(self) -> float | None:
        heat = self._scenario.heat
        return None if heat is None else heat.limit_c - self._run.celsius


def simulate(policy: Policy, world: World) -> Outcome:
    """The governor through a scenario, with the scenario's goal."""
    scenario, run, reasons = world.scenario, Run(world), []
    senses = SimulatedSensors(run)
    policy = replace(policy, goal=replace(policy.goal, until_s=scenario.goal_s, min_battery=scenario.keep))
    state = governor.start(policy, world.options, senses.before())
    for _ in range(scenario.ticks):
        seen = senses.window(state.index)
        state, decision = governor.step(policy, world.options, state, seen)
        if decision.reason:
            reasons.append((seen.time_s, decision.reason))
    return run.outcome(reasons)


def replay(world: World, chosen: Iterable[int]) -> Outcome:
    """What comes of choices that are known beforehand, one for each tick."""
    run = Run(world)
    for index in chosen:
        run.advance(index)
    return run.outcome()


def always(index: int, world: World) -> Outcome:
    """One option through a scenario, whatever happens."""
    return replay(world, repeat(index, world.scenario.ticks))


def oracle(world: World) -> Outcome:
    """What somebody who knows each moment's slow-down beforehand would have chosen.

    At each tick the option of the best metric less its price in energy; the price is the lowest at which the charge
    reaches its goal (a Lagrange multiplier, found by halving). Heat is met as it comes.
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
    """The best at each tick, given a metric's worth of a watt; 0 where no option answers in time."""
    scenario = world.scenario
    answered = (world.latencies_s <= scenario.deadline_s[:, None]) & ~world.failing
    value = metrics(world.options) * answered - price * (world.watts - scenario.idle_w)
    best = value.argmax(axis=2).tolist()
    run = Run(world)
    for tick in range(scenario.ticks):
        run.advance(best[run.held_back][tick])
    return run.outcome()


def metrics(options: Sequence[Option]) -> Double:
    """What each option is worth; in order of cost where nothing was measured."""
    count = len(options)
    return np.array([(i + 1) / count if o.metric is None else o.metric for i, o in enumerate(options)])


def wilson(misses: int, count: int) -> tuple[float, float]:
    """Bounds of a share at 95 % confidence (E. B. Wilson, 1927); never below 0 or above 1."""
    if not count:
        return 0.0, 1.0
    share, z2 = misses / count, WILSON**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = WILSON * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)
