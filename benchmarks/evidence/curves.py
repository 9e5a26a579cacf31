"""Accuracy of an experiment at each size, over its folds and seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flexiast.spec import PatchSize

Key = tuple[str, int]
"""Split and seed: what two runs have in common that differ in their recipe alone."""


@dataclass(frozen=True)
class Curve:
    """Accuracy at each size, over the folds and seeds of one experiment."""

    each: dict[PatchSize, dict[Key, float]]
    gmac: dict[PatchSize, float]

    @cached_property
    def runs(self) -> int:
        return max(map(len, self.each.values()))

    @cached_property
    def mean(self) -> dict[PatchSize, float]:
        return {patch: statistics.mean(values.values()) for patch, values in self.each.items()}

    @cached_property
    def std(self) -> dict[PatchSize, float]:
        return {patch: statistics.stdev(values.values()) for patch, values in self.each.items() if len(values) > 1}

    def over(self, rival: Curve, patch: PatchSize) -> list[float]:
        """Points by which this lies above a rival, one of each fold and seed that both have run."""
        ours, theirs = self.each[patch], rival.each[patch]
        return [100 * (ours[key] - theirs[key]) for key in ours if key in theirs]


def read_curves(runs: list[dict[str, Any]]) -> dict[str, Curve]:
    """Results of runs → a curve of each experiment."""
    curves: dict[str, Curve] = {}
    for run in runs:
        curve = curves.setdefault(run["experiment"], Curve(defaultdict(dict), {}))
        for result in run["results"]:
            patch = PatchSize.parse(result["patch_size"])
            curve.each[patch][run["split"], run["seed"]] = result["accuracy"]
            curve.gmac[patch] = result["gmac"]
    return curves
