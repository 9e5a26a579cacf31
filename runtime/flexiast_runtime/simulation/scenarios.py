"""Scenarios by name: what may happen to a machine that listens. A load is a factor on every latency.

Each is scaled to the options: `edge` is the slowdown at which the costliest option just misses its deadline, so a
scenario is as hard for a large model as for a small one. No load is more than the cheapest option can meet, even if it
is hardly faster than the costliest: a load that no option meets does not test a governor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from flexiast_runtime.governor.types import Option
from flexiast_runtime.simulation.world import BatteryModel, Boolean, Double, Heat, Scenario

STEP_S = 0.5
JITTER = 0.05
"""Standard deviation of the lognormal noise on every latency"""

MAX_CHEAPEST_SHARE = 0.8
"""Of the deadline, under any load. With the jitter (4 σ: factor 1.22) the cheapest option still fits."""

HEALTH = 0.7
"""Of an old battery: what is left of the capacity that its gauge counts with"""

MakeLoad = Callable[[int, float, float, np.random.Generator], Double]
"""Number of ticks, seconds between them, edge and random generator → slowdown at each tick"""


def _quiet(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    return np.ones(ticks)


def _step(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """Another program uses the machine in the middle third."""
    load = np.ones(ticks)
    load[ticks // 3 : 2 * ticks // 3] = 2 * edge
    return load


def _ramp(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """A load that rises slowly and falls slowly."""
    return 1 + (2 * edge - 1) * (1 - np.abs(np.linspace(-1, 1, ticks)))


def _square(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """On and off with the period of the default dwell (20 s each), which tempts a governor to oscillate."""
    return np.where(np.arange(ticks) * step_s % 40 < 20, 1.0, 1.5 * edge)


def _limit(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """Stays around the edge, where the costliest option fits at times."""
    return edge * rng.lognormal(0, 0.08, ticks)


def _bursts(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """About six random loads an hour, half a minute long on average."""
    return _loads(ticks, step_s, edge, rng, an_hour=6, mean_s=30)


def _flurry(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """About a hundred random loads an hour, eight seconds long on average."""
    return _loads(ticks, step_s, edge, rng, an_hour=100, mean_s=6)


def _loads(ticks: int, step_s: float, edge: float, rng: np.random.Generator, an_hour: float, mean_s: float) -> Double:
    """Each lasts two seconds plus an exponential time, and slows the machine to 0.8 … 4 times the edge."""
    load = np.ones(ticks)
    for start in np.flatnonzero(rng.random(ticks) < an_hour * step_s / 3_600):
        length = round((2 + rng.exponential(mean_s)) / step_s)
        load[start : start + length] = edge * rng.uniform(0.8, 4)
    return load


def _drift(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """A random walk between an idle machine and one twice as slow as the edge."""
    walk = np.cumsum(rng.normal(0, 0.01 * (step_s / STEP_S) ** 0.5, ticks))
    return np.exp(np.abs((walk + 1) % 4 - 2) / 2 * np.log(2 * edge))


def _tenant(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """A program that works for the first quarter of every minute."""
    return np.where(np.arange(ticks) * step_s % 60 < 15, 1.5 * edge, 1.0)


LOADS: dict[str, MakeLoad] = {
    "quiet": _quiet,
    "step": _step,
    "ramp": _ramp,
    "square": _square,
    "limit": _limit,
    "bursts": _bursts,
    "drift": _drift,
    "flurry": _flurry,
    "tenant": _tenant,
}

NAMES = (
    *LOADS,
    *("battery", "battery in percent", "broken sensor", "heat", "fan", "lid", "old battery", "failing engine"),
)
"""Of all scenarios, in their order"""


def scenarios(options: Sequence[Option], hours: float, seed: int, step_s: float = STEP_S) -> dict[str, Scenario]:
    """All scenarios for these options, with a window every step and a deadline of one step."""
    rng, ticks = np.random.default_rng(seed), round(hours * 3_600 / step_s)
    edge = step_s / options[-1].latency_s
    max_slowdown = max(MAX_CHEAPEST_SHARE * step_s / options[0].latency_s, 1.0)
    noise, deadline_s = rng.lognormal(0, JITTER, ticks), np.full(ticks, step_s)
    found = {
        name: Scenario(name, np.minimum(load(ticks, step_s, edge, rng), max_slowdown) * noise, deadline_s, step_s)
        for name, load in LOADS.items()
    }
    calm = found["quiet"]
    span_w = calm.busy_w * min(options[-1].latency_s / step_s, 1.0)
    battery = BatteryModel(hours * 3_600 * (calm.idle_w + 0.5 * span_w) / (1 - calm.keep))
    with_goal = replace(calm, cell=battery, goal_s=hours * 3_600)
    found["battery"] = replace(with_goal, name="battery")
    found["battery in percent"] = replace(
        with_goal, name="battery in percent", cell=replace(battery, reports_energy=False)
    )
    found["broken sensor"] = replace(with_goal, name="broken sensor", cell=replace(battery, sensor=_read_broken_sensor))
    sustained_w = calm.idle_w + 0.6 * span_w
    found["heat"] = replace(calm, name="heat", heat=Heat(kelvin_per_watt=60 / sustained_w))
    fan = Heat(kelvin_per_watt=60 / sustained_w, fan_on_c=80.0, fan_off_c=65.0, fan_share=0.6)
    found["fan"] = replace(calm, name="fan", heat=fan)
    hot = replace(calm, name="lid", heat=Heat(kelvin_per_watt=60 / sustained_w))
    found["lid"] = _close_lid(hot, edge, max_slowdown, rng)
    old = replace(battery, gauge_j=battery.capacity_j / HEALTH, sensor=_read_old_gauge)
    found["old battery"] = replace(with_goal, name="old battery", cell=old)
    found["failing engine"] = replace(calm, name="failing engine", failing=_fail_costliest(ticks, len(options)))
    return found


def _read_broken_sensor(time_s: float, charge: float) -> float | None:
    """Changes every ten minutes: correct, stuck at full, absent, dropped to zero."""
    phase = int(time_s / 600) % 6
    return {1: 1.0, 3: None, 5: 0.0}.get(phase, charge)


def _read_old_gauge(time_s: float, charge: float) -> float:
    """Too much in the middle of the charge, which then falls ever faster."""
    return charge + 0.12 * math.sin(math.pi * charge)


def _close_lid(scenario: Scenario, edge: float, max_slowdown: float, rng: np.random.Generator) -> Scenario:
    """Suspended about twice an hour for 1 to 40 minutes; for some seconds afterwards all programs wake up at once."""
    asleep_s, slowdown = np.zeros(scenario.ticks), scenario.slowdown.copy()
    for start in np.flatnonzero(rng.random(scenario.ticks) < 2 * scenario.step_s / 3_600):
        asleep_s[start] = rng.uniform(60, 2_400)
        waking = slice(start, start + round(rng.uniform(4, 12) / scenario.step_s))
        slowdown[waking] *= min(edge * rng.uniform(1.5, 2.5), max_slowdown)
    return replace(scenario, slowdown=slowdown, asleep_s=asleep_s)


def _fail_costliest(ticks: int, options: int) -> Boolean:
    """The costliest engine raises errors in the middle third."""
    failing = np.zeros((ticks, options), bool)
    failing[ticks // 3 : 2 * ticks // 3 - 1, -1] = True
    return failing
