"""What all plots share: a figure without a window, two axes instead of a frame, and logarithms as plain numbers.

matplotlib is an optional extra: commands import this module when a picture is wanted, after `require("matplotlib")`.
"""

from __future__ import annotations

from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of that many inches and its axes. Needs no display, and no closing: pyplot does not hold it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def plain(axes: Any) -> None:
    """Draw a faint grid, and no lines above and on the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Any) -> None:
    """Make x logarithmic, with numbers written out: 0.5, 1, 2, 5, 10."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def viridis(share: float) -> Any:
    """A colour from dark blue (0) to yellow (1) whose lightness rises evenly."""
    return colormaps["viridis"](share)
