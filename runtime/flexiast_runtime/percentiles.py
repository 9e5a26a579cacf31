"""Percentiles by nearest rank, as in trtexec: always a measured value. With confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

NORMAL_95 = 1.96


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least this percentage of the values do not exceed; ``ordered`` is ascending."""
    return ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]


def interval(ordered: Sequence[float], percent: float) -> tuple[float, float]:
    """Bounds of the percentile at 95 % confidence for any distribution: two of the values themselves.

    The number of values below the true percentile is binomial, here by its normal approximation (Conover, Practical
    Nonparametric Statistics, 3.2).
    """
    count, share = len(ordered), percent / 100
    spread = NORMAL_95 * math.sqrt(count * share * (1 - share))
    low, high = math.floor(count * share - spread), math.ceil(count * share + spread)
    return ordered[max(low, 0)], ordered[min(high, count - 1)]


def is_stable(values: Sequence[float], percent: float, within: float) -> bool:
    """Whether the percentile is known to ± ``within``, relatively, and at least two values lie above it."""
    if len(values) * (1 - percent / 100) < 2:
        return False
    ordered = sorted(values)
    low, high = interval(ordered, percent)
    return high - low <= 2 * within * percentile(ordered, percent)
