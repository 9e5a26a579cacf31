"""Compares a governor with an oracle that knows the future, and with each size on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from flexiast.errors import DataError
from flexiast_runtime.governor.trace import Trace
from flexiast_runtime.governor.types import Policy
from flexiast_runtime.simulation.simulator import Outcome, always, oracle, replay, simulate
from flexiast_runtime.simulation.world import Scenario, World


@dataclass(frozen=True)
class Comparison:
    """Outcomes in the same world."""

    governed: Outcome
    ideal: Outcome
    statics: tuple[Outcome, ...]
    """By option, each run throughout"""

    @property
    def name(self) -> str:
        return self.governed.scenario.name

    @property
    def score_regret(self) -> float:
        """Share of the oracle's score that was lost."""
        return 1 - self.governed.score / self.ideal.score if self.ideal.score else 0.0

    @property
    def energy_regret(self) -> float:
        """Energy used above the oracle's, as a share of it; negative if less was used."""
        return self.governed.joules / self.ideal.joules - 1

    @cached_property
    def best_static(self) -> Outcome:
        """The best score of the sizes whose charge lasts; the cheapest if none does."""
        candidates = [outcome for outcome in self.statics if outcome.meets_goal] or self.statics[:1]
        return max(candidates, key=lambda outcome: outcome.score)

    def document(self) -> dict[str, Any]:
        governed, static = self.governed, self.best_static
        ages = {f"age_p{rank}_ms": 1000 * governed.age_s(rank) for rank in (50, 95, 99)}
        return {
            "name": self.name,
            "windows": governed.scenario.ticks,
            "misses": governed.misses,
            "miss_rate": governed.miss_rate,
            "miss_interval": list(governed.miss_interval),
            "longest_run_of_misses": governed.longest_run_of_misses,
            **ages,
            "switches_per_hour": governed.switches_per_hour,
            "joules": governed.joules,
            "score": governed.score,
            "oracle_misses": self.ideal.misses,
            "oracle_score": self.ideal.score,
            "oracle_joules": self.ideal.joules,
            "score_regret": self.score_regret,
            "energy_regret": self.energy_regret,
            "best_static": str(static.options[static.chosen[0]].patch),
            "best_static_score": static.score,
            "static_scores": {str(o.options[o.chosen[0]].patch): o.score for o in self.statics},
            "charge_left": None if governed.scenario.cell is None else float(governed.charges[-1]),
        }


def compare(policy: Policy, world: World) -> Comparison:
    """Run a policy in a world, and compare it with the oracle and each static size."""
    return compare_to_baselines(simulate(policy, world), world)


def compare_to_baselines(governed: Outcome, world: World) -> Comparison:
    """Compare an outcome with the oracle and each static size."""
    statics = tuple(always(index, world) for index in range(len(world.options)))
    return Comparison(governed, oracle(world), statics)


@dataclass(frozen=True)
class Means:
    """Means over several scenarios of equal weight."""

    score: float
    score_regret: float
    """Of the mean scores"""
    energy_regret: float
    """Of all the energy"""
    miss_rate: float
    switches_per_hour: float
    best_static: str
    best_static_score: float

    @classmethod
    def average(cls, comparisons: Sequence[Comparison]) -> Means:
        governed, ideal = [c.governed for c in comparisons], [c.ideal for c in comparisons]
        options = governed[0].options
        statics = [_mean([c.statics[index].score for c in comparisons]) for index in range(len(options))]
        best = int(np.argmax(statics))
        score = _mean([outcome.score for outcome in governed])
        return cls(
            score,
            1 - score / _mean([outcome.score for outcome in ideal]),
            sum(outcome.joules for outcome in governed) / sum(outcome.joules for outcome in ideal) - 1,
            _mean([outcome.miss_rate for outcome in governed]),
            _mean([outcome.switches_per_hour for outcome in governed]),
            str(options[best].patch),
            statics[best],
        )


def replay_trace(trace: Trace) -> tuple[World, Outcome]:
    """The world of a recorded run, with its slowdowns but without battery and heat, and the run's outcome in it.

    Windows for which no engine ran (silence, failures) are left out. Raises DataError if none is left.
    """
    options = trace.header.options
    windows = [
        (step.observation, option)
        for step, option in zip(trace.steps, trace.executed_options, strict=True)
        if step.observation.latency_s is not None
    ]
    if not windows:
        raise DataError("the trace has no window for which an engine ran, so nothing can be simulated from it")
    latencies_s = np.array([observation.latency_s for observation, _ in windows], np.float64)
    slowdown = latencies_s / np.array([options[option].latency_s for _, option in windows])
    deadline_s = np.array([observation.budget_s for observation, _ in windows])
    world = World(Scenario("recorded", slowdown, deadline_s, trace.header.step_s), options)
    return world, replay(world, (option for _, option in windows))


def rename_outcome(outcome: Outcome, name: str) -> Outcome:
    """The outcome under another name."""
    return replace(outcome, scenario=replace(outcome.scenario, name=name))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
