"""What may happen to a machine that listens, by name. Loads are factors on every latency, relative to what fits.

Each is made for the options at hand: `edge` is the slow-down at which the dearest option just misses its deadline, so
a scenario is as hard for a large model as for a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.governor import Option
from flexiast_runtime.simulation import Cell, Heat, Scenario

Double = NDArray[np.float64]

STEP_S = 0.5
JITTER = 0.05
"""Of every latency, whatever the load: lognormal"""

Make = Callable[[int, float, np.random.Generator], Double]
"""Ticks, edge and a random generator → slow-down at each tick"""


def _quiet(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    return np.ones(ticks)


def _step(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """In the middle third something else takes the machine."""
    load = np.ones(ticks)
    load[ticks // 3 : 2 * ticks // 3] = 2 * edge
    return load


def _ramp(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """A load that grows slowly, and slowly goes."""
    return 1 + (2 * edge - 1) * (1 - np.abs(np.linspace(-1, 1, ticks)))


def _square(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """On and off at the dwell's own period: what a governor with a dwell can be made to swing by."""
    return np.where(np.arange(ticks) * STEP_S % 40 < 20, 1.0, 1.5 * edge)


def _limit(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """Hovers where the dearest option now fits and now does not."""
    return edge * rng.lognormal(0, 0.08, ticks)


def _bursts(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """Short loads at random, some six an hour, each of a few seconds to two minutes."""
    load = np.ones(ticks)
    for start in np.flatnonzero(rng.random(ticks) < 6 * STEP_S / 3_600):
        length = round(rng.exponential(30) / STEP_S) + 4
        load[start : start + length] = edge * rng.uniform(0.8, 4)
    return load


def _drift(ticks: int, edge: float, rng: np.random.Generator) -> Double:
    """A random walk between a free machine and one that is twice too slow."""
    walk = np.cumsum(rng.normal(0, 0.01, ticks))
    return np.exp(np.abs((walk + 1) % 4 - 2) / 2 * np.log(2 * edge))


LOADS: dict[str, Make] = {
    "quiet": _quiet,
    "step": _step,
    "ramp": _ramp,
    "square": _square,
    "limit": _limit,
    "bursts": _bursts,
    "drift": _drift,
}


def scenarios(options: Sequence[Option], hours: float, seed: int) -> dict[str, Scenario]:
    """All of them, for these options."""
    rng, ticks = np.random.default_rng(seed), round(hours * 3_600 / STEP_S)
    edge = STEP_S / options[-1].latency_s
    noise = rng.lognormal(0, JITTER, ticks)
    made = {name: Scenario(name, load(ticks, edge, rng) * noise, STEP_S, STEP_S) for name, load in LOADS.items()}
    calm = made["quiet"]
    dearest_w = calm.idle_w + calm.busy_w * min(options[-1].latency_s / STEP_S, 1.0)
    needed_j = hours * 3_600 * (calm.idle_w + 0.5 * (dearest_w - calm.idle_w)) / 0.9
    battery = Cell(needed_j)
    lasting = replace(calm, cell=battery, goal_s=hours * 3_600)
    made["battery"] = replace(lasting, name="battery")
    made["battery in percent"] = replace(lasting, name="battery in percent", cell=replace(battery, says_joules=False))
    made["broken sensor"] = replace(lasting, name="broken sensor", cell=replace(battery, sensor=_broken))
    warm = calm.idle_w + 0.6 * (dearest_w - calm.idle_w)  # what can be drawn for ever
    made["heat"] = replace(calm, name="heat", heat=Heat(kelvin_per_watt=60 / warm))
    made["failing engine"] = replace(calm, name="failing engine", fails=_failing(len(options) - 1, hours * 3_600))
    return made


def _broken(time_s: float, charge: float) -> float | None:
    """Each ten minutes: right, stuck at full, gone, fallen to nothing."""
    phase = int(time_s / 600) % 6
    return {1: 1.0, 3: None, 5: 0.0}.get(phase, charge)


def _failing(index: int, seconds: float) -> Callable[[float, int], bool]:
    """In the middle third the dearest engine gives errors."""
    return lambda time_s, option: option == index and seconds / 3 < time_s < 2 * seconds / 3
