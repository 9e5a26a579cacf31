"""Acceptance criteria of flexible models: as good as fixed ones, little loss at large patches, no dips between."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks.evidence.curves import Curve
from benchmarks.evidence.experiments import FIXED, UNSEEN
from flexiast.spec import ALL_PATCHES, PatchSize

JUDGED = (
    "flexible",
    "in-place",
    "masked-in-place",
    "twice-as-long",
    "twice-in-place",
    "time-only",
    "time-only-in-place",
    "time-only-twice-in-place",
)

BEHIND, KEPT, DIP = 0.5, 0.90, 1.0
"""The bars: points, a share, points."""

HEADER = """\
Held to the bars; what reaches one is bold. At 8, 16 and 32: points above the fixed model of that size (bar: −0.5), over
the pairs of runs of one fold and seed (a single pair where no ± stands). Then the accuracy at 48 over that at 16 (bar:
0.90); the most points that an unseen size lies under the line through its trained neighbours (bar: 1); minutes of CPU,
and those of the fixed models together. Rows `time-only` are about 16 × t.

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

    fixed = {size: f"fixed-{patch(size).short}" for size in FIXED if f"fixed-{patch(size).short}" in curves}
    points = {size: curve.over(curves[rival], patch(size)) for size, rival in fixed.items()}
    cells = [_points(points[size]) if points.get(size) else "" for size in FIXED]
    kept = curve.mean[patch(48)] / curve.mean[patch(16)]
    cells += [_bold(f"{kept:.3f}", kept >= KEPT), "" if along_time else _deepest(curve.mean)]
    cells += [f"{minutes[name]:.0f}", f"{sum(minutes[rival] for rival in fixed.values()):.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def _points(points: list[float]) -> str:
    """Mean of differences between pairs of runs and, of more than one, their deviation."""
    mean = statistics.mean(points)
    deviation = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return _bold(f"{mean:+.1f}", mean >= -BEHIND) + deviation


def _bold(cell: str, reached: bool) -> str:
    return f"**{cell}**" if reached else cell


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
    return f"{_bold(f'{gaps[worst]:+.1f}', gaps[worst] <= DIP)} at {worst.short}"
