"""What `flexiast train` reports about its data before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from flexiast.data.checks import LabelCount, count_labels, warn_low_rates, warn_window, warnings_on_audio
from flexiast.data.clips import Dataset
from flexiast.data.waveforms import Waveforms
from flexiast.spec import FrontendSpec
from flexiast.text import printable

if TYPE_CHECKING:
    from rich.console import Console


ROWS = 60
"""Labels in the table; of more, those with the fewest training clips."""


def print_warnings(warnings: Iterable[str], console: Console) -> None:
    for warning in warnings:
        console.print(printable(warning), style="yellow", markup=False, soft_wrap=True)


def print_audio_warnings(
    training: tuple[Dataset, Waveforms],
    validation: tuple[Dataset, Waveforms],
    frontend: FrontendSpec,
    lengths_s: Sequence[float],
    console: Console,
) -> None:
    """Warn about silence, low rates and the window; raises DataError where all is silent.

    ``lengths_s`` are the clips' lengths that chose the window, empty where it was given.
    """
    (clips, waveforms), (validation_clips, validation_waveforms) = training, validation
    notes = warnings_on_audio(
        clips, waveforms.in_memory, validation_clips, validation_waveforms.in_memory, frontend.taper_samples
    )
    notes += warn_low_rates(clips.clips, frontend.sample_rate_hz)
    notes += warn_window(lengths_s, frontend.window_s) if lengths_s else []
    print_warnings(notes, console)


def print_counts(dataset: Dataset, training: Dataset, validation: Dataset, console: Console) -> None:
    """Print how many clips of each label train, validate, belong to another split, or were left out."""
    counts = count_labels(dataset, training, validation)
    shown = counts if len(counts) <= ROWS else sorted(counts, key=lambda count: count.train)[:ROWS]
    columns = {"train": _numbers(shown, "train"), "val": _numbers(shown, "val")}
    if others := sorted({clip.split for clip in dataset.clips} - {"train", "val"}):
        columns[", ".join(others)] = _numbers(shown, "other")
    if any(count.left_out for count in counts):
        columns["left out"] = _numbers(shown, "left_out")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("label")
    for name in columns:
        table.add_column(name, justify="right")
    for row, count in enumerate(shown):
        table.add_row(escape(count.label), *(f"{numbers[row]:,}" for numbers in columns.values()))
    console.print(table)
    if len(shown) < len(counts):
        console.print(f"… and {len(counts) - len(shown):,} more labels with {shown[-1].train:,} training clips or more")


def _numbers(counts: Sequence[LabelCount], name: str) -> list[int]:
    return [getattr(count, name) for count in counts]
