"""What flexible models are held to: fixed ones at their own size, little lost at coarse sizes, no dips in between."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks.evidence.curves import Curve
from benchmarks.evidence.experiments import UNSEEN
from flexiast.spec import ALL_PATCHES, PatchSize

JUDGED = (
    "flexible",
    "in-place",
    "masked-in-place",
    "twice-as-long",
    "twice-in-place",
    "time-only",
    "time-only-in-place",
)
OWN = (8, 16, 32)
"""Sizes that a fixed model was trained at; in frames, where patches vary in time alone."""

HEADER = """\
Held to the bars. At 8, 16 and 32: points above the fixed model of that size (bar: −0.5), of the same fold and seed.
Then the accuracy at 48 over that at 16 (bar: 0.90); the most points that an unseen size lies under the line through its
trained neighbours (bar: 1); minutes of CPU, and those of the fixed models together. Rows `time-only` are about 16 × t.

| | 8 | 16 | 32 | 48 over 16 | under the line | minutes | theirs |
|---|---|---|---|---|---|---|---|
"""


def bars(curves: Mapping[str, Curve], minutes: Mapping[str, float]) -> str:
    """A table with a row for each flexible model; ``minutes`` of CPU a run took, by experiment."""
    return HEADER + "\n".join(_row(name, curves, minutes) for name in JUDGED if name in curves) + "\n"


def _row(name: str, curves: Mapping[str, Curve], minutes: Mapping[str, float]) -> str:
    curve, along_time = curves[name], name.startswith("time-only")

    def patch(size: int) -> PatchSize:
        return PatchSize(16 if along_time else size, size)

    fixed = {size: f"fixed-{patch(size).short}" for size in OWN if f"fixed-{patch(size).short}" in curves}
    cells = [_spread(curve.over(curves[fixed[size]], patch(size))) if size in fixed else "" for size in OWN]
    kept = curve.mean[patch(48)] / curve.mean[patch(16)]
    cells += [f"{kept:.3f}", "" if along_time else _deepest(curve.mean)]
    cells += [f"{minutes[name]:.0f}", f"{sum(minutes[rival] for rival in fixed.values()):.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def _spread(points: list[float]) -> str:
    """Mean of differences between pairs of runs, and their deviation."""
    deviation = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):+.1f}{deviation}"


def _deepest(mean: Mapping[PatchSize, float]) -> str:
    """Most points under the straight line between trained neighbours, and at which unseen size."""
    gaps = {}
    for patch in UNSEEN:
        below = [trained for trained in ALL_PATCHES if trained < patch]
        above = [trained for trained in ALL_PATCHES if trained > patch]
        if below and above:
            low, high = max(below), min(above)
            share = (patch.mels - low.mels) / (high.mels - low.mels)
            gaps[patch] = 100 * ((1 - share) * mean[low] + share * mean[high] - mean[patch])
    worst = max(gaps, key=gaps.__getitem__)
    return f"{gaps[worst]:+.1f} at {worst.short}"
