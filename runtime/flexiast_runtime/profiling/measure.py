"""Measures a bundle's engines on the machine that will run them.

Variants take turns, so that a machine that gets warm or busy affects all of them alike. Each is run until its 95th
percentile is known to within 10 %, or its time is up and it is reported as unstable.
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
"""A variant that is not stable is measured for up to this many times its duration."""
TURN_S = 0.1
"""Length of a turn: long against a switch between engines, short against a change of temperature"""
POWER_S = 3.0
"""How long a variant runs while its power is sampled; meters average over about a second."""
METER_EVERY_S = 0.1
STAGED_RUNS = 50
PACED_RUNS, PAUSE_S = 15, 0.02
"""After such a pause the processor's caches are cold; a longer pause changes nothing more."""


@dataclass
class Runs:
    """Measured times of one variant."""

    cold_s: float = 0.0
    """The first inference"""
    latencies_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """CPU time of the whole process, over all these runs"""
    wall_s: float = 0.0
    stable: bool = False
    stages: list[Stages] = field(default_factory=list)
    """Measured on other windows than the latencies; only on a GPU"""


@dataclass(frozen=True)
class Power:
    """Power of a variant that runs without pauses."""

    watts: float
    idle_watts: float
    inferences_per_s: float

    @property
    def joules(self) -> float:
        """Per inference, including the idle machine's."""
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
    """Run every engine on the same features [1, window_frames, mels]; ``progress`` is called after each turn."""
    runs = {name: _warm_up(engine, features, warmup_s, clock) for name, engine in engines.items()}
    for name, engine in engines.items():
        if isinstance(engine, StagedEngine):
            runs[name].stages = [engine.stages(features) for _ in range(STAGED_RUNS)]
    unfinished = list(engines)
    while unfinished:
        for name in unfinished:
            _run_turn(engines[name], features, runs[name], clock)
            progress()
        unfinished = [name for name in unfinished if not _is_finished(runs[name], duration_s)]
    return runs


def measure_paced(
    engines: Mapping[str, Engine],
    features: Float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Median seconds of each engine after a pause, as while listening."""
    return {name: measure_paced_s(engine, features, PACED_RUNS, clock, sleep) for name, engine in engines.items()}


def measure_paced_s(
    engine: Engine,
    features: Float,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Median seconds of a number of runs with a pause before each."""
    _prepare(engine)
    latencies = []
    for _ in range(runs):
        sleep(PAUSE_S)
        started = clock()
        engine.run(features)
        latencies.append(clock() - started)
    return statistics.median(latencies)


def measure_power(
    engines: Mapping[str, Engine],
    features: Float,
    meter: Meter,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Power | None]:
    """Power of each engine while it runs; None where the meter had no reading."""
    idle = _mean_watts(meter, lambda: sleep(POWER_S))
    found: dict[str, Power | None] = {}
    for name, engine in engines.items():
        watts, count, seconds = _run_under_load(engine, features, meter, clock)
        found[name] = None if watts is None or idle is None else Power(watts, idle, count / seconds)
    return found


def _prepare(engine: Engine) -> None:
    """Do what happens between windows while listening, so that it is not counted here either."""
    if isinstance(engine, StagedEngine):
        engine.prepare()


def _warm_up(engine: Engine, features: Float, warmup_s: float, clock: Callable[[], float]) -> Runs:
    """Time the first inference, then warm up without counting."""
    started = clock()
    engine.run(features)
    runs = Runs(cold_s=clock() - started)
    while clock() - started < runs.cold_s + warmup_s:
        engine.run(features)
    return runs


def _run_turn(engine: Engine, features: Float, runs: Runs, clock: Callable[[], float]) -> None:
    """Run inferences for one turn, at least one."""
    _prepare(engine)
    started, started_cpu_s = clock(), time.process_time()
    now = started
    while now - started < TURN_S:
        before = now
        engine.run(features)
        now = clock()
        runs.latencies_s.append(now - before)
    runs.wall_s += now - started
    runs.cpu_s += time.process_time() - started_cpu_s


def _is_finished(runs: Runs, duration_s: float) -> bool:
    if runs.wall_s < duration_s:
        return False
    runs.stable = is_stable(runs.latencies_s, STABLE_PERCENT, STABLE_WITHIN)
    return runs.stable or runs.wall_s >= PATIENCE * duration_s


def _run_under_load(
    engine: Engine, features: Float, meter: Meter, clock: Callable[[], float]
) -> tuple[float | None, int, float]:
    """Watts, inferences and seconds of a variant that runs without pauses."""
    count, started = 0, clock()

    def run() -> None:
        nonlocal count
        while clock() - started < POWER_S:
            engine.run(features)
            count += 1

    watts = _mean_watts(meter, run)
    return watts, count, clock() - started


def _mean_watts(meter: Meter, work: Callable[[], None]) -> float | None:
    """Mean power during the work, sampled by another thread."""
    with _sample_power(meter) as samples:
        work()
    return statistics.fmean(samples) if samples else None


@contextmanager
def _sample_power(meter: Meter) -> Iterator[list[float]]:
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(METER_EVERY_S):
            if (watts := meter.watts()) is not None:
                samples.append(watts)

    thread = threading.Thread(target=sample, name="flexiast-meter", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
