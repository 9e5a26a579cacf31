"""Reading a data set for a command: what was left out or skipped is said on stderr."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from flexiast.data.clips import Dataset
    from flexiast.data.search import LeftOut, Search
    from flexiast.data.waveforms import Waveforms
    from flexiast.errors import DataError

T = TypeVar("T")


def read_data(data: Path, val_fold: str | None, console: Console, *, skip_bad: bool | None) -> Dataset:
    """The data set; raises DataError. Of one without a split of its own bad files are dropped before the split.

    ``skip_bad`` is None where a command has no such option.
    """
    from flexiast.data.dataset import drop_bad_clips, read_dataset
    from flexiast.data.search import LeftOut

    dataset = read_dataset(data, val_fold)
    print_left_out(data, sum(dataset.left_out.values(), LeftOut()), console)
    if skip_bad and dataset.hashed_from is not None:
        dataset, errors = drop_bad_clips(dataset, progress=lambda clips: track(clips, "Checking clips", console))
        print_skipped(errors, console)
    return dataset


def load_clips(
    dataset: Dataset, sample_rate_hz: int, console: Console, *, skip_bad: bool | None, action: str = "Reading clips"
) -> tuple[Dataset, Waveforms]:
    """The clips that can be read and their waveforms; raises DataError."""
    from flexiast.data.dataset import load_waveforms

    readable, waveforms, errors = load_waveforms(
        dataset,
        sample_rate_hz,
        skip_bad=skip_bad,
        progress=lambda clips: track(clips, action, console),
        say=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    print_skipped(errors, console)
    return readable, waveforms


def search_sounds(folder: Path, console: Console) -> Search:
    """Audio anywhere under a folder."""
    from flexiast.data.search import search_folder

    found = search_folder(folder)
    print_left_out(folder, found.left_out, console)
    return found


def track(items: Iterable[T], action: str, console: Console) -> Iterable[T]:
    """The items, with a progress bar unless the console is quiet."""
    from flexiast_cli.terminal.console import track

    return items if console.quiet else track(items, action)


def print_left_out(folder: Path, left_out: LeftOut, console: Console) -> None:
    """One line, where something was left out."""
    from flexiast.text import printable

    if reasons := str(left_out):
        console.print(printable(f"Left out of {folder}: {reasons}"), style="yellow", markup=False, soft_wrap=True)


def print_skipped(errors: Iterable[DataError], console: Console) -> None:
    for error in errors:
        console.print(f"skipped: {error}", markup=False, soft_wrap=True)
