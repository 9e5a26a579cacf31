"""What a window of each option is worth: its recall in the noise of this place, or its metric on clean sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flexiast_runtime.governor.types import Option


def weigh_options(options: Sequence[Option], snr_db: float | None = None) -> list[float]:
    """The worth of a window of each option, 0 … 1.

    Recall at the measured signal-to-noise ratio, where that is known and every option has such figures; else the
    metric. What was not measured is interpolated between its neighbours in cost; where nothing was, an option counts
    as its rank by cost.
    """
    if is_by_recall(options, snr_db):
        assert snr_db is not None
        return [_interpolate_recall(option, snr_db) for option in options]
    known = [(math.log(option.latency_s), option.metric) for option in options if option.metric is not None]
    if not known:
        return [(rank + 1) / len(options) for rank in range(len(options))]
    costs, metrics = zip(*known, strict=True)
    return [
        float(np.interp(math.log(option.latency_s), costs, metrics)) if option.metric is None else option.metric
        for option in options
    ]


def is_by_recall(options: Sequence[Option], snr_db: float | None) -> bool:
    """Whether options are weighed by their recall in noise: the place's ratio is a number, and all have figures."""
    return snr_db is not None and math.isfinite(snr_db) and all(option.recall_by_snr_db for option in options)


def describe_gain(options: Sequence[Option], before: int, after: int, snr_db: float | None) -> str:
    """What a switch changes, in points: ``+2.3 points of recall at 10 dB``; empty where nothing was measured."""
    by_recall = is_by_recall(options, snr_db)
    if not by_recall and (options[before].metric is None or options[after].metric is None):
        return ""
    worths = weigh_options(options, snr_db)
    points = 100 * (worths[after] - worths[before])
    return f"{points:+.1f} points {f'of recall at {snr_db:.0f} dB' if by_recall else 'on clean sounds'}"


def _interpolate_recall(option: Option, snr_db: float) -> float:
    figures = sorted(option.recall_by_snr_db)
    return float(np.interp(snr_db, [at for at, _ in figures], [recall for _, recall in figures]))


def frontier(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options ordered by cost, without those that are no better than a cheaper one.

    The metric of an unmeasured option is interpolated between its neighbours in cost, since a flexible model loses
    nothing between trained sizes. An option costlier than all measured ones counts as no better, a cheaper one as worse
    than all. If none was measured, costlier counts as better. An option that recalls more in some noise is kept.
    """
    ordered = sorted(options, key=lambda option: option.latency_s)
    measured = [option for option in ordered if option.metric is not None]
    if not measured:
        return tuple(ordered)
    costs = np.log([option.latency_s for option in measured])
    metrics = [option.metric or 0.0 for option in measured]
    best_options: list[Option] = []
    best = -1.0
    for option in ordered:
        known = option.metric
        metric = float(np.interp(math.log(option.latency_s), costs, metrics, left=0.0)) if known is None else known
        if metric > best or _recalls_more(option, best_options):
            best_options.append(option)
            best = max(best, metric)
    return tuple(best_options)


def _recalls_more(option: Option, cheaper: Sequence[Option]) -> bool:
    """Whether the option recalls more than each cheaper one at some ratio, where all have figures."""
    if not option.recall_by_snr_db or not all(other.recall_by_snr_db for other in cheaper):
        return False
    return any(
        all(recall > _interpolate_recall(other, snr_db) for other in cheaper)
        for snr_db, recall in option.recall_by_snr_db
    )
