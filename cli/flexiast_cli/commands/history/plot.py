"""The chart of a day as a picture; needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from flexiast_cli.commands.history.chart import SHOWN, SLOTS, Day

SHADES = ("#dff0e7", "#7bc4a0", "#2a7f62", "#0e3d2d")
"""Colours on white, from few to many"""


def draw(day: Day, path: Path) -> None:
    """Write a day as a PNG."""
    mpl.use("agg")
    rows = day.rows[:SHOWN]
    ramp = LinearSegmentedColormap.from_list("flexiast", SHADES).with_extremes(bad="#f6f6f4")
    image = [[count or float("nan") for count in counts] for _, counts in rows]
    figure, axes = plt.subplots(figsize=(9.0, 1.5 + 0.32 * len(rows)), layout="constrained")
    drawn = axes.pcolormesh(image, cmap=ramp, vmin=1, edgecolors="white", linewidth=1.2)
    axes.invert_yaxis()
    axes.set_yticks([place + 0.5 for place in range(len(rows))], [label for label, _ in rows])
    axes.set_xticks(range(0, SLOTS + 1, 6), [f"{hour}:00" for hour in range(0, 25, 3)])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{day.title} · {day.total:,} sounds{day.rest}", loc="left", size=11, weight="bold", pad=10)
    bar = figure.colorbar(drawn, ax=axes, pad=0.015, aspect=8 + len(rows), ticks=MaxNLocator(4, integer=True))
    bar.set_label("in half an hour", size=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
