"""Folders named by label, maybe inside folders named by split."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from flexiast.data.audio import AUDIO_SUFFIXES
from flexiast.data.media import MEDIA_SUFFIXES
from flexiast.data.search import LeftOut, list_entries
from flexiast.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What folders of splits are called, in any case, and the split that each holds."""

BACKGROUND = "_background_"
"""Folder, beside those named by label, of recordings in which none of the labels sounds. It is no label itself."""

REMEDY = "put each label's folder inside train, val and test (train/dog, val/dog …), or list the clips in a CSV"


class LabelFolder(NamedTuple):
    """A folder named by label."""

    path: Path
    split: str
    """Of the folder around it; empty where the data set has no folders named by split."""

    @property
    def label(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Layout:
    """How a folder of clips is arranged."""

    folders: tuple[LabelFolder, ...]
    left_out: LeftOut
    """Files beside the folders."""
    split_names: tuple[str, ...] = ()
    """Of the folders named by split, as they are called."""


def read_layout(folder: Path) -> Layout:
    """Label folders right inside a folder, or inside its folders train, val and test; raises DataError for a mixture.

    A folder named ``train`` that holds audio and no folders is a label like any other, where other labels stand beside
    it: it may hold the sounds of trains.
    """
    folders, files = list_entries(folder)
    background = [path for path in folders if path.name == BACKGROUND]
    folders = [path for path in folders if path.name != BACKGROUND]
    named = [path for path in folders if path.name.casefold() in SPLIT_FOLDERS]
    splits = [path for path in named if list_entries(path)[0]]
    others = [path for path in folders if path not in splits and not _is_empty(path)]
    if not splits and len(named) < len(folders):
        for path in folders:
            _refuse_splits_inside(path)
        return Layout(tuple(LabelFolder(path, "") for path in sorted(folders + background)), _render_side(files))
    if named and not splits:
        raise DataError(
            f"{named[0]} is named like a split, but holds no folders named by label; {REMEDY} (a label of that name "
            "needs another label beside it)"
        )
    if splits and others:
        raise DataError(
            f"{folder} mixes layouts: {_names(splits)} hold folders as a split does, but {_names(others)} stand"
            f"{'s' if len(others) == 1 else ''} beside; {REMEDY}"
        )
    layout = _split_layout(splits, files)
    # What stands beside the splits is parted by itself, as every background is that has no split of its own.
    return replace(layout, folders=(*layout.folders, *(LabelFolder(path, "train") for path in background)))


def _split_layout(splits: list[Path], files: list[Path]) -> Layout:
    folders: list[LabelFolder] = []
    left_out = _render_side(files)
    by_split: dict[str, Path] = {}
    for path in splits:
        split = SPLIT_FOLDERS[path.name.casefold()]
        if split in by_split:
            raise DataError(f"{by_split[split]} and {path} are both the split {split!r}; merge them, or list a CSV")
        by_split[split] = path
        inside, loose = list_entries(path)
        left_out += _render_side(loose)
        folders += [LabelFolder(label, split) for label in inside]
    labels = {split: {place.label for place in folders if place.split == split} - {BACKGROUND} for split in by_split}
    for split, names in labels.items():
        if split != "train" and "train" in labels and not names & labels["train"]:
            raise DataError(
                f"{by_split['train']} and {by_split[split]} have no label in common ({_names(sorted(labels['train']))} "
                f"and {_names(sorted(names))}); {REMEDY}"
            )
    restore_order = sorted(by_split, key=["train", "val", "test"].index)
    return Layout(tuple(folders), left_out, tuple(by_split[split].name for split in restore_order))


def _refuse_splits_inside(label: Path) -> None:
    """Raise DataError for ``dog/train`` beside ``dog/test``, whose clips would be mixed."""
    if not os.access(label, os.R_OK | os.X_OK):  # counted when it is searched
        return
    inside = [path for path in list_entries(label)[0] if path.name.casefold() in SPLIT_FOLDERS]
    if len({SPLIT_FOLDERS[path.name.casefold()] for path in inside}) > 1:
        raise DataError(f"{label} holds the splits {_names(sorted(inside))} inside a label; {REMEDY}")


def _is_empty(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and not any(list_entries(folder))


def _render_side(files: list[Path]) -> LeftOut:
    """Files that stand beside folders of labels, and so have none."""
    suffixes = [path.suffix.lower() or path.name for path in files]
    return LeftOut(
        other=Counter(suffix for suffix in suffixes if suffix not in AUDIO_SUFFIXES | MEDIA_SUFFIXES),
        loose=sum(suffix in AUDIO_SUFFIXES | MEDIA_SUFFIXES for suffix in suffixes),
    )


def _names(paths: list[Path] | list[str]) -> str:
    names = [path.name if isinstance(path, Path) else path for path in paths]
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
