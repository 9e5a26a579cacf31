"""Reading a data set for a command: read it, decode its clips, and report on stderr what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from flexiast.data.audio import list_errors
from flexiast.data.background import Stretches, split_stretches, stretches_of
from flexiast.data.clips import Clip, Dataset
from flexiast.data.dataset import drop_bad_clips, load_waveforms, read_dataset
from flexiast.data.search import LeftOut, Search, search_folder
from flexiast.data.waveforms import Waveforms
from flexiast.errors import DataError
from flexiast.spec import Spec
from flexiast.storage import RemotePath
from flexiast.text import printable
from flexiast_cli.terminal.console import count_noun
from flexiast_cli.terminal.console import track as track_progress

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

MANY_CLIPS = 10_000
"""Reading more takes a minute or longer, so that a word before is due."""

EVERY_SPLIT = "all"
"""In the place of a split: every clip."""


def read_data(data: Path | RemotePath, val_fold: str | None, console: Console) -> Dataset:
    """Read a data set; raises DataError. If it has no split of its own, bad files are left out before it is split."""
    dataset = read_dataset(data, val_fold)
    print_left_out(data, sum(dataset.left_out.values(), LeftOut()), console)
    if len(dataset.clips) > MANY_CLIPS:
        counts = f"{count_noun(len(dataset.clips), 'clip')} of {count_noun(len(dataset.labels), 'label')}"
        console.print(
            f"{counts}: reading them takes minutes. A quarter of the memory holds them; the others are decoded anew at "
            "each use",
            soft_wrap=True,
        )
    if dataset.hashed_from is not None:
        dataset, errors = drop_bad_clips(dataset, progress=lambda clips: track(clips, "Checking clips", console))
        print_bad_files(errors, console)
    return dataset


def take_split(dataset: Dataset, split: str | None, console: Console) -> Dataset:
    """One split of a data set; or all of it, with a note where training clips stand among others."""
    if split is not None:
        return dataset.split(split)
    counts = dataset.labelled.count_splits()
    untouched = next((name for name in ("test", "val") if counts[name]), None)
    if counts["train"] and untouched:
        console.print(
            f"{counts['train']:,} of these {count_noun(counts.total(), 'clip')} are in the training split. If the "
            f"model was trained on them, the result is too optimistic: use --split {untouched} "
            f"({count_noun(counts[untouched], 'clip')})",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    return dataset


def load_clips(
    dataset: Dataset, sample_rate_hz: int, console: Console, *, action: str = "Reading clips"
) -> tuple[Dataset, Waveforms]:
    """Decode the clips: those that can be read, and their waveforms; raises DataError."""
    readable, waveforms, errors = load_waveforms(
        dataset,
        sample_rate_hz,
        progress=lambda clips: track(clips, action, console),
        log=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    print_bad_files(errors, console)
    return readable, waveforms


def load_split(
    data: Path, split: str, val_fold: str | None, spec: Spec, console: Console
) -> tuple[Waveforms, NDArray[np.float32]]:
    """Read one split and decode its labelled clips: waveforms and targets [clips, labels]; raises DataError."""
    dataset = read_data(data, val_fold, console).labelled
    chosen = dataset if split == EVERY_SPLIT else dataset.split(split)
    readable, waveforms = load_clips(chosen, spec.frontend.sample_rate_hz, console)
    return waveforms, readable.targets(spec.labels)


def load_background(clips: Sequence[Clip], sample_rate_hz: int, console: Console) -> Stretches:
    """Decode background recordings; raises DataError."""
    stretches, errors = stretches_of(clips, sample_rate_hz)
    print_bad_files(errors, console)
    return stretches


def load_split_background(data: Dataset, sample_rate_hz: int, console: Console) -> tuple[Stretches, Stretches]:
    """Decode what of a data set's background trains and what validates; raises DataError.

    A file belongs to the split of its row or the hash of its name. Where no file validates, as with a single long
    recording, the end of what there is does.
    """
    training, validation = (
        load_background([clip for clip in data.background if clip.split == split], sample_rate_hz, console)
        for split in ("train", "val")
    )
    return (training, validation) if len(validation) else split_stretches(training)


def search_sounds(folder: Path, console: Console) -> Search:
    """Find audio anywhere under a folder."""
    found = search_folder(folder)
    print_left_out(folder, found.left_out, console)
    return found


def track(items: Iterable[T], action: str, console: Console) -> Iterable[T]:
    """Yield the items, with a progress bar unless the console is quiet."""
    return items if console.quiet else track_progress(items, action)


def print_left_out(folder: Path | RemotePath, left_out: LeftOut, console: Console) -> None:
    """Print one line if anything was left out."""
    if reasons := str(left_out):
        console.print(printable(f"Left out of {folder}: {reasons}"), style="yellow", markup=False, soft_wrap=True)


def print_bad_files(errors: Sequence[DataError], console: Console) -> None:
    """Print which files cannot be used, and why, if there are some; one that is named by many rows of a CSV once."""
    if distinct := list({str(error): error for error in errors}.values()):
        count = count_noun(len(distinct), "file")
        text = f"Left out {count} that cannot be used:\n{list_errors(distinct)}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
