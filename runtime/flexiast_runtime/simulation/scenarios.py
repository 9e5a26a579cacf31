"""What may happen to a machine that listens, by name. Loads are factors on every latency, relative to what fits.

Each is made for the options at hand: `edge` is the slow-down at which the dearest option just misses its deadline, so
a scenario is as hard for a large model as for a small one. No load is more than the cheapest option bears, also where
that is hardly faster than the dearest: what nothing survives tells nothing of a governor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from flexiast_runtime.governor.types import Option
from flexiast_runtime.simulation.simulator import BatteryModel, Boolean, Double, Heat, Scenario

STEP_S = 0.5
JITTER = 0.05
"""Of every latency, whatever the load: lognormal"""

BORNE = 0.8
"""Share of the deadline that the cheapest option takes at most, before the jitter"""

Make = Callable[[int, float, float, np.random.Generator], Double]
"""Ticks, seconds between them, edge and a random generator → slow-down at each tick"""


def _quiet(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    return np.ones(ticks)


def _step(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """In the middle third something else takes the machine."""
    load = np.ones(ticks)
    load[ticks // 3 : 2 * ticks // 3] = 2 * edge
    return load


def _ramp(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """A load that grows slowly, and slowly goes."""
    return 1 + (2 * edge - 1) * (1 - np.abs(np.linspace(-1, 1, ticks)))


def _square(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """On and off at the dwell's own period: what a governor with a dwell can be made to swing by."""
    return np.where(np.arange(ticks) * step_s % 40 < 20, 1.0, 1.5 * edge)


def _limit(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """Hovers where the dearest option now fits and now does not."""
    return edge * rng.lognormal(0, 0.08, ticks)


def _bursts(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """Loads at random, some six an hour, of half a minute in the mean."""
    return _loads(ticks, step_s, edge, rng, an_hour=6, mean_s=30)


def _flurry(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """Some hundred an hour, of eight seconds: hardly over when the next one comes."""
    return _loads(ticks, step_s, edge, rng, an_hour=100, mean_s=6)


def _loads(ticks: int, step_s: float, edge: float, rng: np.random.Generator, an_hour: float, mean_s: float) -> Double:
    """Each lasts two seconds and an exponential time more, and is up to four times what the dearest bears."""
    load = np.ones(ticks)
    for start in np.flatnonzero(rng.random(ticks) < an_hour * step_s / 3_600):
        length = round((2 + rng.exponential(mean_s)) / step_s)
        load[start : start + length] = edge * rng.uniform(0.8, 4)
    return load


def _drift(ticks: int, step_s: float, edge: float, rng: np.random.Generator) -> Double:
    """A random walk between a free machine and one that is twice too slow."""
    walk = np.cumsum(rng.normal(0, 0.01 * (step_s / STEP_S) ** 0.5, ticks))
    return np.exp(np.abs((walk + 1) % 4 - 2) / 2 * np.log(2 * edge))


LOADS: dict[str, Make] = {
    "quiet": _quiet,
    "step": _step,
    "ramp": _ramp,
    "square": _square,
    "limit": _limit,
    "bursts": _bursts,
    "drift": _drift,
    "flurry": _flurry,
}


def scenarios(options: Sequence[Option], hours: float, seed: int, step_s: float = STEP_S) -> dict[str, Scenario]:
    """All of them, for these options with a window every step; the deadline is a step."""
    rng, ticks = np.random.default_rng(seed), round(hours * 3_600 / step_s)
    edge = step_s / options[-1].latency_s
    borne = max(BORNE * step_s / options[0].latency_s, 1.0)  # a free machine is never faster than its profile
    noise, deadline_s = rng.lognormal(0, JITTER, ticks), np.full(ticks, step_s)
    made = {
        name: Scenario(name, np.minimum(load(ticks, step_s, edge, rng), borne) * noise, deadline_s, step_s)
        for name, load in LOADS.items()
    }
    calm = made["quiet"]
    span_w = calm.busy_w * min(options[-1].latency_s / step_s, 1.0)
    battery = BatteryModel(hours * 3_600 * (calm.idle_w + 0.5 * span_w) / (1 - calm.keep))
    lasting = replace(calm, cell=battery, goal_s=hours * 3_600)
    made["battery"] = replace(lasting, name="battery")
    made["battery in percent"] = replace(lasting, name="battery in percent", cell=replace(battery, says_joules=False))
    made["broken sensor"] = replace(lasting, name="broken sensor", cell=replace(battery, sensor=_broken))
    for_ever_w = calm.idle_w + 0.6 * span_w
    made["heat"] = replace(calm, name="heat", heat=Heat(kelvin_per_watt=60 / for_ever_w))
    made["failing engine"] = replace(calm, name="failing engine", failing=_dearest_fails(ticks, len(options)))
    return made


def _broken(time_s: float, charge: float) -> float | None:
    """Each ten minutes: right, stuck at full, gone, fallen to nothing."""
    phase = int(time_s / 600) % 6
    return {1: 1.0, 3: None, 5: 0.0}.get(phase, charge)


def _dearest_fails(ticks: int, options: int) -> Boolean:
    """In the middle third the dearest engine gives errors."""
    failing = np.zeros((ticks, options), bool)
    failing[ticks // 3 : 2 * ticks // 3 - 1, -1] = True
    return failing
