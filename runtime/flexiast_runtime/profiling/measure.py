"""Measuring a bundle's engines on the machine that will run them.

Variants take turns, so that a machine that grows warm or busy does so for all of them; each is run until its 95th
percentile is known to a tenth of itself, or its time is over and the report says that it is not.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flexiast_runtime.hardware.meters import Meter
from flexiast_runtime.inference.engine import Engine, StagedEngine, Stages
from flexiast_runtime.percentiles import is_stable

Float = NDArray[np.float32]

STABLE_PERCENT, STABLE_WITHIN = 95.0, 0.1
PATIENCE = 5.0
"""How many times its duration a variant is measured before it is called noisy."""
TURN_S = 0.1
"""What a variant runs before it is another one's turn."""
POWER_S = 3.0
"""Rails are averaged over a second or so: a variant runs this long before its power is believed."""
METER_EVERY_S = 0.1
STAGED_RUNS = 50
PACED_RUNS, PAUSE_S = 15, 0.02
"""A processor that rested so long has cold caches; a longer rest costs no more."""


@dataclass
class Runs:
    """What one variant took."""

    cold_s: float = 0.0
    """Its first inference"""
    latencies_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """Of the whole process, over all of these"""
    wall_s: float = 0.0
    stable: bool = False
    stages: list[Stages] = field(default_factory=list)
    """Of other windows than those of the latencies; only on a GPU"""


@dataclass(frozen=True)
class Power:
    """Of a variant that runs without a pause."""

    watts: float
    idle_watts: float
    inferences_per_s: float

    @property
    def joules(self) -> float:
        """For each inference, with what the idle machine draws."""
        return self.watts / self.inferences_per_s

    @property
    def joules_above_idle(self) -> float:
        return max(self.watts - self.idle_watts, 0.0) / self.inferences_per_s


def measure(
    engines: Mapping[str, Engine],
    features: Float,
    duration_s: float,
    warmup_s: float,
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Runs]:
    """Run every engine on the same features [1, window_frames, mels]; ``progress`` is told of each turn."""
    runs = {name: _warm_up(engine, features, warmup_s, clock) for name, engine in engines.items()}
    for name, engine in engines.items():
        if isinstance(engine, StagedEngine):
            runs[name].stages = [engine.stages(features) for _ in range(STAGED_RUNS)]
    unfinished = list(engines)
    while unfinished:
        for name in unfinished:
            _turn(engines[name], features, runs[name], clock)
            progress()
        unfinished = [name for name in unfinished if not _is_finished(runs[name], duration_s)]
    return runs


def measure_paced(
    engines: Mapping[str, Engine],
    features: Float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Median seconds of each engine that has just rested, as it has while it listens."""
    return {name: measure_paced_s(engine, features, PACED_RUNS, clock, sleep) for name, engine in engines.items()}


def measure_paced_s(
    engine: Engine,
    features: Float,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Median seconds of so many runs with a pause before each."""
    _prepare(engine)
    latencies = []
    for _ in range(runs):
        sleep(PAUSE_S)
        begun = clock()
        engine.run(features)
        latencies.append(clock() - begun)
    return statistics.median(latencies)


def measure_power(
    engines: Mapping[str, Engine],
    features: Float,
    meter: Meter,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Power | None]:
    """What each engine draws while it runs; None for those that the meter did not answer for."""
    idle = _watts(meter, lambda: sleep(POWER_S))
    found: dict[str, Power | None] = {}
    for name, engine in engines.items():
        watts, count, seconds = _run_under_load(engine, features, meter, clock)
        found[name] = None if watts is None or idle is None else Power(watts, idle, count / seconds)
    return found


def _prepare(engine: Engine) -> None:
    """What a listener does between windows, so that it is not counted here either."""
    if isinstance(engine, StagedEngine):
        engine.prepare()


def _warm_up(engine: Engine, features: Float, warmup_s: float, clock: Callable[[], float]) -> Runs:
    """The first inference, and the warm-up that does not count."""
    begun = clock()
    engine.run(features)
    runs = Runs(cold_s=clock() - begun)
    while clock() - begun < runs.cold_s + warmup_s:
        engine.run(features)
    return runs


def _turn(engine: Engine, features: Float, runs: Runs, clock: Callable[[], float]) -> None:
    """Inferences for one turn, at least one."""
    _prepare(engine)
    begun, begun_cpu_s = clock(), time.process_time()
    now = begun
    while now - begun < TURN_S:
        before = now
        engine.run(features)
        now = clock()
        runs.latencies_s.append(now - before)
    runs.wall_s += now - begun
    runs.cpu_s += time.process_time() - begun_cpu_s


def _is_finished(runs: Runs, duration_s: float) -> bool:
    if runs.wall_s < duration_s:
        return False
    runs.stable = is_stable(runs.latencies_s, STABLE_PERCENT, STABLE_WITHIN)
    return runs.stable or runs.wall_s >= PATIENCE * duration_s


def _run_under_load(
    engine: Engine, features: Float, meter: Meter, clock: Callable[[], float]
) -> tuple[float | None, int, float]:
    """Watts, inferences and seconds of a variant that runs without a pause."""
    count, begun = 0, clock()

    def run() -> None:
        nonlocal count
        while clock() - begun < POWER_S:
            engine.run(features)
            count += 1

    watts = _watts(meter, run)
    return watts, count, clock() - begun


def _watts(meter: Meter, work: Callable[[], None]) -> float | None:
    """Mean power while the work is done, looked at by a thread beside it."""
    with _sample_power(meter) as samples:
        work()
    return statistics.fmean(samples) if samples else None


@contextmanager
def _sample_power(meter: Meter) -> Iterator[list[float]]:
    samples: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(METER_EVERY_S):
            if (watts := meter.watts()) is not None:
                samples.append(watts)

    thread = threading.Thread(target=look, name="flexiast-meter", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
