"""Smooths scores over a time in seconds, so the result does not depend on the step."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


class Smoother:
    """Exponential mean with a time constant: after ``seconds``, 63 % of a change has arrived."""

    def __init__(self, seconds: float, step_s: float) -> None:
        self._weight = 1.0 if seconds <= 0 else -math.expm1(-step_s / seconds)
        self._mean: Float | None = None

    @property
    def delay_steps(self) -> float:
        """Steps by which the mean lags behind a steady change: (1 − w) / w for weight w."""
        return (1 - self._weight) / self._weight

    def push(self, scores: Float) -> Float:
        """Scores of the next step [classes] → their smoothed values."""
        previous = scores if self._mean is None else self._mean
        self._mean = (previous + self._weight * (scores - previous)).astype(np.float32)
        return self._mean

    def reset(self) -> None:
        """Forget the mean: the next scores follow a discontinuity."""
        self._mean = None
