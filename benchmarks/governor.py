"""The governor's presets compared with an oracle and with each size on its own.

`python -m benchmarks.governor [--quick | --plot FILE]`. Tuned on seed 0, reported on seeds that tuning never saw; exits
with 1 if `balanced` misses a bar. In virtual time, so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import heading
from flexiast.spec import PatchSize
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.types import Option, Policy
from flexiast_runtime.simulation.comparison import Comparison, Means
from flexiast_runtime.simulation.scenarios import scenarios
from flexiast_runtime.simulation.simulator import Outcome, always, oracle, simulate
from flexiast_runtime.simulation.world import World

TUNED_ON = 0
HELD_OUT = range(100, 105)
HOURS = 2.0
OPTIONS = tuple(
    Option(PatchSize(size, size), latency_s, metric)
    for size, latency_s, metric in ((48, 0.023, 0.67), (32, 0.045, 0.73), (16, 0.095, 0.80), (8, 0.330, 0.83))
)
"""A board on which the best size takes two thirds of a step, and the cheapest a twentieth"""
SWEEP = [
    Policy(dwell_s=dwell_s, max_dwell_s=3 * dwell_s, switches_per_h=switches_per_h)
    for dwell_s in (5.0, 20.0, 120.0)
    for switches_per_h in (5.0, 10.0, 20.0, 50.0, 150.0)
]
GREY = "#5d6864"
COLOURS = {"steady": "#6a4c93", "balanced": "#2a7f62", "greedy": "#c8641e"}


class Ground(NamedTuple):
    """A scenario and what is known of it without a governor."""

    world: World
    ideal: Outcome
    statics: tuple[Outcome, ...]

    def play(self, policy: Policy) -> Comparison:
        return Comparison(simulate(policy, self.world), self.ideal, self.statics)


def grounds(seed: int) -> list[Ground]:
    worlds = [World(scenario, OPTIONS) for scenario in scenarios(OPTIONS, HOURS, seed).values()]
    return [
        Ground(world, oracle(world), tuple(always(index, world) for index in range(len(OPTIONS)))) for world in worlds
    ]


def by_name(found: Sequence[Comparison], name: str) -> list[Comparison]:
    return [one for one in found if one.name == name]


def bars(found: Sequence[Comparison]) -> Iterator[tuple[str, float, float]]:
    """What is asked, what was found, and the most that it may be."""
    means = Means.average(found)
    yield "score given away, % of the oracle's", 100 * means.score_regret, 2.0
    yield "energy above the oracle's, %", 100 * means.energy_regret, 3.0
    yield "deadlines missed, %", 100 * means.miss_rate, 1.0
    outcomes = [one.governed for one in found]
    yield "switches an hour under bursts", _switches(outcomes, "bursts"), 20.0
    yield "switches an hour at the limit", _switches(outcomes, "limit"), 0.0
    yield "score of the best static size less the governor's", means.best_static_score - means.score, 0.0


def _switches(outcomes: Sequence[Outcome], *names: str) -> float:
    """Mean an hour, in the scenarios of these names."""
    return float(np.mean([one.switches_per_hour for one in outcomes if one.scenario.name in names]))


def _rates(outcomes: Sequence[Outcome]) -> str:
    """In all scenarios, under bursts, in flurries."""
    names = dict.fromkeys(one.scenario.name for one in outcomes)
    return " | ".join(f"{_switches(outcomes, *kind):.1f}" for kind in (names, ("bursts",), ("flurry",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--quick", action="store_true", help="the presets alone, without the sweep on the tuning seed")
    only.add_argument("--plot", type=Path)
    options = parser.parse_args()
    begun = time.process_time()
    held_out = [ground for seed in HELD_OUT for ground in grounds(seed)]
    found = {name: [ground.play(policy) for ground in held_out] for name, policy in POLICIES.items()}
    heading(f"Presets on seeds {HELD_OUT[0]} to {HELD_OUT[-1]}, {HOURS:g} h each; tuned on seed {TUNED_ON}")
    presets(found)
    each_scenario(found)
    print("\n| `balanced` | found | may be | |\n|---|---:|---:|---|")
    asked = list(bars(found["balanced"]))
    for what, value, most in asked:
        print(f"| {what} | {value:.3f} | {most:g} | {'met' if value <= most else 'MISSED'} |")
    if not options.quick:
        tuning = grounds(TUNED_ON)
        sweep = [(policy, [ground.play(policy) for ground in tuning]) for policy in SWEEP]
        frontier(sweep)
        if options.plot is not None:
            draw(found, sweep, options.plot)
    print(f"\n{time.process_time() - begun:.0f} s of CPU")
    if any(value > most for _, value, most in asked):
        sys.exit("a bar is missed")


def presets(found: dict[str, list[Comparison]]) -> None:
    print("\n| | score | regret % | energy % | missed % | longest | switches/h | in bursts | in flurries |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, theirs in found.items():
        means, longest = Means.average(theirs), max(one.governed.longest_run_of_misses for one in theirs)
        print(f"| `{name}` | {_row(means)} | {longest} | {_rates([one.governed for one in theirs])} |")
    any_one = next(iter(found.values()))
    ideals = [one.ideal for one in any_one]
    score, missed = np.mean([o.score for o in ideals]), np.mean([o.miss_rate for o in ideals])
    print(f"| oracle | {score:.4f} | | | {100 * missed:.3f} | | {_rates(ideals)} |")
    for index, option in enumerate(OPTIONS):
        statics = [one.statics[index] for one in any_one]
        score, missed = np.mean([o.score for o in statics]), np.mean([o.miss_rate for o in statics])
        print(f"| always {option.patch} | {score:.4f} | | | {100 * missed:.3f} | | 0 | 0 | 0 |")


def _row(means: Means) -> str:
    figures = (100 * means.score_regret, 100 * means.energy_regret)
    return f"{means.score:.4f} | {figures[0]:.2f} | {figures[1]:+.1f} | {100 * means.miss_rate:.3f}"


def each_scenario(found: dict[str, list[Comparison]]) -> None:
    """Means over the seeds."""
    print("\n| score given away, % (missed, %) | " + " | ".join(found) + " | best static |")
    print("|---|" + "---:|" * (len(found) + 1))
    for name in dict.fromkeys(one.name for one in found["balanced"]):
        theirs = [Means.average(by_name(each, name)) for each in found.values()]
        static = 1 - theirs[0].best_static_score * (1 - theirs[0].score_regret) / theirs[0].score
        cells = [f"{100 * m.score_regret:.2f} ({100 * m.miss_rate:.2f})" for m in theirs]
        print(f"| {name} | {' | '.join(cells)} | {100 * static:.2f} ({theirs[0].best_static}) |")


def frontier(sweep: list[tuple[Policy, list[Comparison]]]) -> None:
    print(f"\nOn the tuning seed {TUNED_ON}\n")
    print("| dwell s | budget of switches/h | regret % | energy % | missed % | switches/h |")
    print("|---:|---:|---:|---:|---:|---:|")
    for policy, found in sweep:
        means = Means.average(found)
        figures = (100 * means.score_regret, 100 * means.energy_regret, 100 * means.miss_rate)
        cells = f"{figures[0]:.2f} | {figures[1]:+.1f} | {figures[2]:.3f} | {means.switches_per_hour:.1f}"
        print(f"| {policy.dwell_s:g} | {policy.switches_per_h:g} | {cells} |")


def draw(found: dict[str, list[Comparison]], sweep: list[tuple[Policy, list[Comparison]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        _draw_frontier(left, found, sweep)
        _draw_scenarios(right, found)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _draw_frontier(axes: Any, found: dict[str, list[Comparison]], sweep: list[tuple[Policy, list[Comparison]]]) -> None:
    for dwell_s, group in groupby(sweep, lambda each: each[0].dwell_s):
        places = [_place(theirs) for _, theirs in group]
        (line,) = axes.plot(*zip(*places, strict=True), "o-", color="#b9d6c9", markersize=4, linewidth=1, zorder=1)
        below = {"textcoords": "offset points", "ha": "center", "va": "top", "color": GREY}
        axes.annotate(f"{dwell_s:g} s", places[-1], (0, -8), **below)
    budgets = sorted({policy.switches_per_h for policy, _ in sweep})
    line.set_label(f"by dwell, with budgets of {budgets[0]:g} to {budgets[-1]:g} switches an hour")
    axes.legend(frameon=False, loc="lower right")
    for name, theirs in found.items():
        missed = 100 * Means.average(theirs).miss_rate
        axes.plot(*_place(theirs), "o", color=COLOURS[name], markersize=9)
        axes.annotate(f"{name}\n{missed:.2f} % missed", _place(theirs), (8, 6), textcoords="offset points")
    means = Means.average(found["balanced"])
    static = 100 * (1 - means.best_static_score * (1 - means.score_regret) / means.score)
    axes.axhline(static, color="#8a938f", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"always {means.best_static}",
        (0.99, static),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=GREY,
    )
    axes.set(xlabel="switches an hour", ylabel="score given away, % of the oracle's", ylim=(0, None))
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])  # room for the names
    axes.set_title("What readiness to switch buys, mean of all scenarios", loc="left", size=9, weight="bold")
    axes.grid(alpha=0.25)


def _place(found: Sequence[Comparison]) -> tuple[float, float]:
    """Switches an hour, and percent of the score given away."""
    means = Means.average(found)
    return means.switches_per_hour, 100 * means.score_regret


def _draw_scenarios(axes: Any, found: dict[str, list[Comparison]]) -> None:
    names = list(dict.fromkeys(one.name for one in found["balanced"]))
    for offset, (preset, theirs) in zip((-0.2, 0.0, 0.2), found.items(), strict=True):
        regrets = [100 * Means.average(by_name(theirs, name)).score_regret for name in names]
        axes.plot(regrets, np.arange(len(names)) + offset, "o", color=COLOURS[preset], markersize=5, label=preset)
    axes.axvline(0, color="#8a938f", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="score given away, % of the oracle's")
    axes.set_title("Scenario by scenario", loc="left", size=9, weight="bold")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper right")


if __name__ == "__main__":
    main()
