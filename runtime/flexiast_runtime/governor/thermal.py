"""How warm the machine gets with each option: one thermal mass, whose constants are learnt from its own sensor.

The headroom h to the throttling temperature follows dh/dt = c − b·u − g·h, where u is the work that runs: the engine's
latency as a share of the costliest option's. Steady headroom at u is (c − b·u) / g, and 1 / g the time constant.

Throttling is a prediction of latency: every latency grows by one factor, bounded before it was measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SAMPLE_S = 10.0
"""Between two samples of the headroom: sensors have a resolution of 1 °C, and a small heat sink warms by a few degrees
in that time."""
FEW_SAMPLES = 12.0
"""Two minutes of samples, four for each constant that is learnt; before that no forecast is made."""
MEMORY_S = 600.0
"""Time after which a sample counts a third: a few time constants of a small heat sink (Raspberry Pi 4 in a case: 200 to
400 s). A fan that starts is learnt within that time."""
PRIOR = np.array([0.2, 0.15, 0.005])
"""c, b and g before anything was learnt: 40 °C of headroom when idle, 10 °C at full work, a time constant of 200 s"""
PRIOR_WEIGHT = np.array([0.05, 0.05, 20.0])
"""Of each in the least squares, in samples: little for what depends on the case, some for the time constant"""
SLOWEST, FASTEST = 1 / 3_600, 1 / 20
"""Time constants of a thermal mass that can be believed: an hour for a closed box, 20 s for a bare die"""
MAX_JUMP_C = 15.0
"""Change that no thermal mass makes between two samples: a sensor that jumps teaches and decides nothing."""
DISTRUST_S = 60.0
"""Without a further jump, before a sensor that jumped is believed again: six samples. A die that is this quick has
settled by then, and a sensor that swings to and fro is never believed."""
MIN_HEADROOM_C, MAX_HEADROOM_C = -40.0, 150.0
"""What a sensor may say: processors switch themselves off some 20 °C above their throttling temperature, and none is
colder than freezing by much."""
FIRST_THROTTLING = 1.5
"""Factor on latencies while throttled, before it was measured: kernels lower the clock in steps, and the first ones
leave two thirds of it (Raspberry Pi 4: 1,500 to 1,000 MHz)."""
MAX_THROTTLING = 4.0
"""Of that factor: a clock below a quarter is a machine that switches itself off."""
WEIGHT_THROTTLING = 0.1
"""Weight of a throttled window in that factor: about ten windows"""


class ThermalModel(NamedTuple):
    """Sums of the least squares, what they give, and the factor of throttling."""

    at_s: float | None = None
    """Time of the last sample"""
    headroom_c: float = 0.0
    """At the last sample"""
    seen_at_s: float = 0.0
    """Time of the last observation"""
    work_s: float = 0.0
    """Work since the last sample × its time"""
    samples: float = 0.0
    squares: tuple[float, ...] = (0.0,) * 6
    """Upper triangle of Σ x xᵀ, x = (1, −u, −h)"""
    products: tuple[float, ...] = (0.0,) * 3
    """Σ x dh/dt"""
    constants: tuple[float, float, float] | None = None
    """c, b and g; None: not known yet, or not to be believed"""
    throttling: float = FIRST_THROTTLING
    believed_c: float | None = None
    """The headroom at the last observation; None: unknown, or not believed"""
    jumped_at_s: float = -math.inf
    """When the sensor last jumped"""
    ignored: str = ""
    """What the sensor said that was not believed, since the last switch"""

    def steady_c(self, work: float) -> float | None:
        """Headroom that the machine settles at; None: unknown."""
        if self.constants is None:
            return None
        c, b, g = self.constants
        return (c - b * work) / g

    def lasts_s(self, work: float, down_to_c: float) -> float | None:
        """Time until so little headroom is left; infinite where it never is. None: unknown."""
        steady_c = self.steady_c(work)
        if self.constants is None or steady_c is None:
            return None
        if self.headroom_c <= down_to_c:
            return 0.0
        if steady_c >= down_to_c:
            return math.inf
        return math.log((self.headroom_c - steady_c) / (down_to_c - steady_c)) / self.constants[2]


def update_model(model: ThermalModel, time_s: float, headroom_c: float | None, work: float) -> ThermalModel:
    """The model after one more observation, while options of this work ran."""
    headroom_c, ignored = _read_headroom(headroom_c)
    if headroom_c is None:
        return model._replace(believed_c=None, ignored=ignored or model.ignored)
    sample = model._replace(at_s=time_s, seen_at_s=time_s, headroom_c=headroom_c, work_s=0.0, believed_c=headroom_c)
    if model.at_s is None:
        return sample
    elapsed_s, change = time_s - model.at_s, abs(headroom_c - model.headroom_c)
    if change > MAX_JUMP_C * max(abs(elapsed_s) / SAMPLE_S, 1.0):
        ignored = f"a jump of the temperature by {change:.0f} °C was ignored"
        return sample._replace(believed_c=None, jumped_at_s=time_s, ignored=ignored)
    if 0 <= time_s - model.jumped_at_s < DISTRUST_S:
        sample = sample._replace(believed_c=None)
    if not 0 <= time_s - model.seen_at_s <= SAMPLE_S:  # after a gap
        return sample
    return _learn(model._replace(work_s=model.work_s + work * (time_s - model.seen_at_s)), sample, elapsed_s)


def _learn(model: ThermalModel, sample: ThermalModel, elapsed_s: float) -> ThermalModel:
    """The model with the sample, once it is due, and what it teaches, if it is believed."""
    if elapsed_s < SAMPLE_S:
        return model._replace(seen_at_s=sample.seen_at_s, believed_c=sample.believed_c)
    if sample.believed_c is None:
        return sample
    x = (1.0, -model.work_s / elapsed_s, -(sample.headroom_c + model.headroom_c) / 2)
    return _add_sample(sample, x, (sample.headroom_c - model.headroom_c) / elapsed_s, elapsed_s)


def _read_headroom(headroom_c: float | None) -> tuple[float | None, str]:
    """The headroom, None where it is unknown or cannot be true; then with what was ignored."""
    if headroom_c is None or math.isnan(headroom_c) or headroom_c == math.inf:
        return None, ""
    if MIN_HEADROOM_C <= headroom_c <= MAX_HEADROOM_C:
        return headroom_c, ""
    return None, f"a thermal headroom of {headroom_c:.0f} °C was ignored"


def _add_sample(model: ThermalModel, x: tuple[float, float, float], y: float, elapsed_s: float) -> ThermalModel:
    keep = math.exp(-elapsed_s / MEMORY_S)
    pairs = [x[i] * x[j] for i in range(3) for j in range(i, 3)]
    squares = tuple(keep * old + new for old, new in zip(model.squares, pairs, strict=True))
    products = tuple(keep * old + each * y for old, each in zip(model.products, x, strict=True))
    samples = keep * model.samples + 1
    constants = None if samples < FEW_SAMPLES else _solve(squares, products)
    return model._replace(squares=squares, products=products, samples=samples, constants=constants)


def _solve(squares: tuple[float, ...], products: tuple[float, ...]) -> tuple[float, float, float] | None:
    """Least squares with the prior; None where the constants are no thermal mass's."""
    a, b, c, d, e, f = squares
    matrix = np.array([[a, b, c], [b, d, e], [c, e, f]]) + np.diag(PRIOR_WEIGHT)
    constant, warming, rate = np.linalg.solve(matrix, np.array(products) + PRIOR_WEIGHT * PRIOR)
    if not (SLOWEST <= rate <= FASTEST and warming >= 0):
        return None
    return float(constant), float(warming), float(rate)


def measure_throttling(model: ThermalModel, ratio: float, unthrottled: float) -> ThermalModel:
    """Move the factor towards what a throttled window shows: its slowdown ÷ the one before."""
    factor = min(max(ratio / unthrottled, 1.0), MAX_THROTTLING)
    return model._replace(throttling=model.throttling + WEIGHT_THROTTLING * (factor - model.throttling))
