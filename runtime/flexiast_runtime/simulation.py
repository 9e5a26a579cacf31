"""The governor in a world of its own: days in seconds, with a clock, a battery and heat that are numbers.

The world knows what the governor must guess: how slow the machine is at each moment, what each option draws, how warm
it grows. A clairvoyant oracle that knows it too shows what could have been had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime import governor
from flexiast_runtime.governor import Observation, Option, Policy
from flexiast_runtime.power import Battery

Double = NDArray[np.float64]

WILSON = 1.96
"""Normal quantile of a 95 % interval"""


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
class Cell:
    """A battery and its sensor."""

    capacity_j: float
    charge: float = 1.0
    """When it begins, 0 … 1"""
    sensor: Callable[[float, float], float | None] = lambda time_s, charge: charge
    """Seconds and true charge → what is read"""
    plugged: Callable[[float], bool] = lambda time_s: False
    says_joules: bool = True


@dataclass(frozen=True)
class Scenario:
    """What happens to a machine that listens."""

    name: str
    slowdown: Double
    """[ticks] factor on every profiled latency"""
    step_s: float = 0.5
    deadline_s: float = 0.5
    idle_w: float = 3.0
    busy_w: float = 6.0
    """Above idle, while an engine runs"""
    cell: Cell | None = None
    heat: Heat | None = None
    fails: Callable[[float, int], bool] = lambda time_s, option: False
    """Whether an option's engine gives an error at that moment"""
    goal_s: float | None = None
    """When the charge may have gone down to what is to be kept"""
    keep: float = 0.1

    @property
    def seconds(self) -> float:
        return len(self.slowdown) * self.step_s


@dataclass
class Outcome:
    """What came of it, tick by tick."""

    scenario: Scenario
    options: tuple[Option, ...]
    chosen: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    """From a window's last sample to its result"""
    watts: list[float] = field(default_factory=list)
    charges: list[float] = field(default_factory=list)
    temperatures_c: list[float] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    reasons: list[tuple[float, str]] = field(default_factory=list)

    @property
    def on_time(self) -> NDArray[np.bool_]:
        """Windows answered within the deadline, by a machine that still had power."""
        alive = np.array(self.charges) > 0 if self.charges else np.ones(len(self.chosen), bool)
        return (np.array(self.latencies_s) <= self.scenario.deadline_s) & ~np.array(self.failed) & alive

    @property
    def score(self) -> float:
        """Mean of the metric, where a late answer or none counts nothing."""
        return float((metrics(self.options)[self.chosen] * self.on_time).mean())

    @property
    def joules(self) -> float:
        return float(np.sum(self.watts) * self.scenario.step_s)

    @property
    def miss_rate(self) -> float:
        return 1 - float(self.on_time.mean())

    @property
    def miss_interval(self) -> tuple[float, float]:
        """95 %, by Wilson's score."""
        return wilson(int((~self.on_time).sum()), len(self.chosen))

    @property
    def switches_per_hour(self) -> float:
        return float(np.count_nonzero(np.diff(self.chosen))) / (self.scenario.seconds / 3_600)

    @property
    def longest_run_of_misses(self) -> int:
        longest = run = 0
        for late in ~self.on_time:
            run = run + 1 if late else 0
            longest = max(longest, run)
        return longest


class World:
    """A scenario as it goes on; what happens depends on what runs."""

    def __init__(self, scenario: Scenario, options: tuple[Option, ...]) -> None:
        self.scenario, self.options = scenario, options
        self.outcome = Outcome(scenario, options)
        self._charge = scenario.cell.charge if scenario.cell else 1.0
        self._celsius = scenario.heat.ambient_c if scenario.heat else 25.0
        self._backlog_s = 0.0

    def look(self, time_s: float) -> Observation:
        """What sensors say, before any window."""
        return Observation(time_s, self.scenario.deadline_s, battery=self._battery(time_s), heat_room_k=self._room())

    def run(self, tick: int, index: int) -> Observation:
        """One window with an option, and what is seen of it."""
        scenario, time_s = self.scenario, (tick + 1) * self.scenario.step_s
        held_back = self._room() is not None and self._room() <= 0  # type: ignore[operator]
        factor = scenario.slowdown[tick] * (scenario.heat.slower if held_back and scenario.heat else 1.0)
        latency_s = self.options[index].latency_s * factor
        failed = scenario.fails(time_s, index)
        self._backlog_s = max(self._backlog_s + latency_s - scenario.step_s, 0.0)
        self._draw(time_s, latency_s)
        outcome = self.outcome
        outcome.chosen.append(index)
        outcome.latencies_s.append(latency_s)
        outcome.ages_s.append(latency_s + self._backlog_s)
        outcome.failed.append(failed)
        return Observation(
            time_s,
            scenario.deadline_s,
            None if failed else latency_s,
            backlog_steps=self._backlog_s / scenario.step_s,
            battery=self._battery(time_s),
            heat_room_k=self._room(),
            throttled=held_back if scenario.heat else None,
            failed=failed,
        )

    def _draw(self, time_s: float, latency_s: float) -> None:
        """Power of one step, what it leaves of the battery and adds to the temperature."""
        scenario = self.scenario
        watts = scenario.idle_w + scenario.busy_w * min(latency_s / scenario.step_s, 1.0)
        self.outcome.watts.append(watts)
        if cell := scenario.cell:
            if not cell.plugged(time_s):
                self._charge = max(self._charge - watts * scenario.step_s / cell.capacity_j, 0.0)
            self.outcome.charges.append(self._charge)
        if heat := scenario.heat:
            settled = heat.ambient_c + watts * heat.kelvin_per_watt
            decay = math.exp(-scenario.step_s / (heat.kelvin_per_watt * heat.joules_per_kelvin))
            self._celsius = settled + (self._celsius - settled) * decay
            self.outcome.temperatures_c.append(self._celsius)

    def _battery(self, time_s: float) -> Battery | None:
        cell = self.scenario.cell
        if cell is None:
            return None
        read = cell.sensor(time_s, self._charge)
        if read is None:
            return None
        energy_j = read * cell.capacity_j if cell.says_joules else None
        return Battery(read, discharging=not cell.plugged(time_s), energy_j=energy_j)

    def _room(self) -> float | None:
        heat = self.scenario.heat
        return None if heat is None else heat.limit_c - self._celsius


def simulate(policy: Policy, options: Sequence[Option], scenario: Scenario) -> Outcome:
    """The governor through a scenario."""
    world = World(scenario, tuple(options))
    state = governor.start(policy, options, world.look(0.0))
    for tick in range(len(scenario.slowdown)):
        seen = world.run(tick, state.index)
        state, decision = governor.step(policy, options, state, seen)
        if decision.reason:
            world.outcome.reasons.append((seen.time_s, decision.reason))
    return world.outcome


def always(index: int, options: Sequence[Option], scenario: Scenario) -> Outcome:
    """One option through a scenario, whatever happens."""
    world = World(scenario, tuple(options))
    for tick in range(len(scenario.slowdown)):
        world.run(tick, index)
    return world.outcome


def oracle(options: Sequence[Option], scenario: Scenario) -> Outcome:
    """What somebody who knows each moment's slow-down beforehand would have chosen.

    At each tick the option of the best metric less its price in energy; the price is the lowest at which the charge
    reaches its goal (a Lagrange multiplier, found by halving). Heat is met as it comes.
    """
    if scenario.cell is None or scenario.goal_s is None:
        return _clairvoyant(options, scenario, 0.0)
    low, high = 0.0, 1.0
    for _ in range(24):
        price = (low + high) / 2
        if _clairvoyant(options, scenario, price).charges[-1] < scenario.keep:
            low = price
        else:
            high = price
    return _clairvoyant(options, scenario, high)


def _clairvoyant(options: Sequence[Option], scenario: Scenario, price: float) -> Outcome:
    world, worth = World(scenario, tuple(options)), metrics(options)
    latencies = np.array([option.latency_s for option in options])
    for tick, slowdown in enumerate(scenario.slowdown):
        room = world.look(0.0).heat_room_k
        held_back = scenario.heat.slower if scenario.heat and room is not None and room <= 0 else 1.0
        now = latencies * slowdown * held_back
        time_s = (tick + 1) * scenario.step_s
        answered = [s <= scenario.deadline_s and not scenario.fails(time_s, i) for i, s in enumerate(now)]
        value = worth * answered - price * scenario.busy_w * np.minimum(now / scenario.step_s, 1.0)
        world.run(tick, int(np.argmax(value)))
    return world.outcome


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
