"""Log-mel frames as pictures: shades for any screen, half blocks for a terminal."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

Float = NDArray[np.float32]
Shades = NDArray[np.uint8]

BINS = 64
"""Rows of a picture: two of 128 mels together, so that the filters that are always empty do not show."""
COLUMN_FRAMES = 10
"""Frames in one column of a terminal's picture: a tenth of a second, as a rule."""
MAX_COLUMNS = 400

MAGMA = ("#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf")
"""Nine even steps of matplotlib's magma: perceptually uniform, and distinct by lightness alone."""
COLOURS = 32
BLOCKS = " ░▒▓█"
"""The shades on a terminal that lacks colours or half blocks."""


def shades(frames: Float, bins: int = BINS) -> Shades:
    """Normalised features [frames, mels] → [frames, at most bins] from 0 to 255, low frequencies first.

    Features have mean 0 and a standard deviation of ½ over the training data; two of these below the mean are black.
    """
    mels = frames.shape[1]
    bins = min(bins, mels)
    loudest = np.maximum.reduceat(frames, np.arange(bins) * mels // bins, axis=1)
    return np.clip(110 * (loudest + 1), 0, 255).astype(np.uint8)


class Spectrogram:
    """A picture of the last seconds of one source."""

    def __init__(self) -> None:
        self._columns: deque[Shades] = deque(maxlen=MAX_COLUMNS)
        self._pending: Float | None = None

    def push(self, frames: Float) -> None:
        """Append frames [any number, mels]; a column appears once all its frames are there."""
        pending = frames if self._pending is None else np.concatenate((self._pending, frames))
        whole = len(pending) // COLUMN_FRAMES
        columns = pending[: whole * COLUMN_FRAMES].reshape(whole, COLUMN_FRAMES, pending.shape[1])
        self._columns.extend(shades(columns.mean(axis=1)))
        self._pending = pending[whole * COLUMN_FRAMES :]

    def rows(self, width: int, height: int) -> Shades:
        """Shades [height, width], high frequencies first, the newest column last, padded with silence on the left."""
        picture = np.zeros((height, width), np.uint8)
        columns = list(self._columns)[-width:]
        if columns:
            shown = np.stack(columns)
            edges = np.arange(height) * shown.shape[1] // height
            picture[:, width - len(columns) :] = np.maximum.reduceat(shown, edges, axis=1).T[::-1]
        return picture

    def with_height(self, height: int) -> HalfBlocks:
        """A Rich renderable of so many lines, as wide as the console."""
        return HalfBlocks(self, height)


class HalfBlocks:
    """Two rows of a picture in each line of text: ▀ in the colour of the upper one on that of the lower one."""

    def __init__(self, spectrogram: Spectrogram, height: int) -> None:
        self._spectrogram, self._height = spectrogram, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self._spectrogram.rows(options.max_width, 2 * self._height)
        colourful = console.color_system in {"256", "truecolor"} and not console.no_color and not options.ascii_only
        for upper, lower in zip(rows[::2], rows[1::2], strict=True):
            yield from _colour_segments(upper, lower) if colourful else _plain(upper, lower)
            yield Segment.line()


def _colour_segments(upper: Shades, lower: Shades) -> list[Segment]:
    pairs = np.stack((upper, lower), axis=1) // (256 // COLOURS)
    return [Segment("▀", _style(*pair)) for pair in pairs.tolist()]


def _plain(upper: Shades, lower: Shades) -> list[Segment]:
    levels = (upper.astype(int) + lower) * len(BLOCKS) // 512
    return [Segment("".join(BLOCKS[level] for level in levels))]


@lru_cache(maxsize=COLOURS**2)
def _style(upper: int, lower: int) -> Style:
    return Style(color=_colour(upper), bgcolor=_colour(lower))


@lru_cache(maxsize=COLOURS)
def _colour(step: int) -> Color:
    anchors = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in MAGMA])
    place = step / (COLOURS - 1) * (len(MAGMA) - 1)
    return Color.from_rgb(*(np.interp(place, range(len(MAGMA)), channel) for channel in anchors.T))
