"""Styles that plots share: two axes without a frame, logarithmic scales with plain numbers."""

from __future__ import annotations

from typing import Any


def plain(axes: Any) -> None:
    """A faint grid, and no lines above and on the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Any) -> None:
    """Along x, with numbers written out: 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
