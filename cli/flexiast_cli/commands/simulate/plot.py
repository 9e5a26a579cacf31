"""What happened in a simulation, on one time axis: slow-down, patch size, battery, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from flexiast_runtime.simulation.comparison import Comparison
    from flexiast_runtime.simulation.simulator import Outcome

GREEN, ORANGE, PALE, GREY, RED = "#2a7f62", "#c8641e", "#cfe3da", "#8a938f", "#c0392b"
WHY = {
    "too slow": (("missed", "steps of audio", "does not fit"), RED),
    "fits": (("has fit",), GREEN),
    "loads": (("on average",), "#2f6db5"),
    "battery": (("battery",), ORANGE),
    "heat": (("heat", "throttling"), "#6a4c93"),
    "other limit": (("saving power", "power limit"), "#b08900"),
    "engine failed": (("failed",), "#222222"),
}
"""Kinds of reasons for a switch: words that identify one, and its colour"""
COLUMNS = 3
APART = 1.4
"""A line nearer than this factor to the one labelled below it has no label."""
WIDE = (9.0, 1.4)
NARROW = (5.2, 1.1)
"""Inches of a timeline: its width, and the height of each of its panels"""


def draw(found: Sequence[Comparison], path: Path) -> None:
    """A PNG with a timeline for each: one across the page, several in columns."""
    mpl.use("agg")
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        columns = min(COLUMNS, len(found))
        rows = [found[at : at + columns] for at in range(0, len(found), columns)]
        width, panel = WIDE if columns == 1 else NARROW
        heights = [panel * max(map(_panels, row)) + 0.5 for row in rows]
        figure = plt.figure(figsize=(width * columns, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(rows), columns, squeeze=False, height_ratios=heights)
        for row, across in zip(rows, parts, strict=True):
            for one, part in zip(row, across, strict=False):
                timeline(part, one, legend=one is found[0])
        figure.savefig(path, dpi=110, format="png")
        plt.close(figure)


def timeline(figure: Any, one: Comparison, *, legend: bool) -> None:
    """One scenario's panels, under each other."""
    governed = one.governed
    axes = figure.subplots(_panels(one), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(
        f"{one.name}   {100 * governed.miss_rate:.2f} % missed, {governed.switches_per_hour:.1f} switches/h, "
        f"regret {100 * one.score_regret:.1f} %",
        x=0.02,
        ha="left",
        fontsize=9,
        weight="bold",
    )
    scenario, seconds = governed.scenario, governed.scenario.seconds
    unit_s, unit = (3_600.0, "h") if seconds >= 3_600 else (60.0, "min") if seconds >= 300 else (1.0, "s")
    times = scenario.times_s / unit_s
    _slowdown(axes[0], times, governed)
    _sizes(axes[1], times, one)
    rest = iter(axes[2:])
    if scenario.cell:
        _battery(next(rest), times, one)
    if scenario.heat:
        _heat(next(rest), times, governed, scenario.heat.limit_c)
    for each in axes[:2] if legend else axes[1:2]:
        each.legend(frameon=False, fontsize=7, ncols=8, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    for each in axes:
        each.grid(axis="x", alpha=0.25)
        each.tick_params(length=0)
        each.set_xlim(0, times[-1])
    axes[-1].set_xlabel(unit, loc="right", labelpad=1)


def _panels(one: Comparison) -> int:
    scenario = one.governed.scenario
    return 2 + (scenario.cell is not None) + (scenario.heat is not None)


def _slowdown(axes: Any, times: Any, governed: Outcome) -> None:
    """How slow the machine is, and below which line each size meets the deadline."""
    scenario = governed.scenario
    axes.plot(times, scenario.slowdown, color=GREY, linewidth=0.6)
    labelled = 0.0
    for option in reversed(governed.options):
        bound = scenario.deadline_s / option.latency_s
        label = None if labelled else "below its line a size fits"
        axes.plot(times, bound, color=GREEN, linewidth=0.7, linestyle=(0, (4, 3)), label=label)
        if bound[-1] > APART * labelled:
            labelled = bound[-1]
            place = (times[-1], labelled)
            axes.annotate(f" {option.patch.short}", place, color=GREEN, va="center", annotation_clip=False)
    missed = times[~governed.on_time]
    marks = {"color": RED, "markersize": 7, "transform": axes.get_xaxis_transform()}
    axes.plot(missed, np.ones(len(missed)), "|", label="missed" if len(missed) else None, **marks)
    axes.set_yscale("log")
    axes.set_ylabel("slow-down ×")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _sizes(axes: Any, times: Any, one: Comparison) -> None:
    """What ran, and what the oracle would have run."""
    options = one.governed.options
    axes.plot(times, one.ideal.chosen, color=PALE, linewidth=3, drawstyle="steps-post", label="oracle")
    axes.plot(times, one.governed.chosen, color=GREEN, linewidth=1.2, drawstyle="steps-post", label="governor")
    last = len(times) - 1
    for kind, (words, colour) in WHY.items():
        at = [time_s for time_s, reason in one.governed.reasons if any(word in reason for word in words)]
        if at:
            then = np.minimum(np.searchsorted(one.governed.scenario.times_s, at, side="right"), last)
            axes.plot(times[then], one.governed.chosen[then], "o", color=colour, markersize=3.5, label=kind)
    axes.set_yticks(range(len(options)), [option.patch.short for option in options])
    axes.set_ylim(-0.4, len(options) - 0.6)
    axes.set_ylabel("patch size")


def _battery(axes: Any, times: Any, one: Comparison) -> None:
    axes.plot(times, 100 * one.ideal.charges, color=PALE, linewidth=3)
    axes.plot(times, 100 * one.governed.charges, color=GREEN, linewidth=1.2)
    axes.axhline(100 * one.governed.scenario.keep, color=ORANGE, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 104)
    axes.set_ylabel("battery %")


def _heat(axes: Any, times: Any, governed: Outcome, limit_c: float) -> None:
    axes.plot(times, governed.temperatures_c, color=GREEN, linewidth=1.2)
    axes.axhline(limit_c, color=RED, linewidth=0.8, linestyle=":")
    axes.set_ylabel("°C")
