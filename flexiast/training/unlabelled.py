"""Recordings that nobody labelled, as training data for a student of an external teacher."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from flexiast.arrays import Float
from flexiast.data.clips import Clip, Dataset
from flexiast.data.search import search_folder
from flexiast.errors import DataError

VALIDATION_SHARE = 0.05
"""Of the recordings: hours of sound need no more, and all of it may teach since nobody labelled it."""

CONFIDENT = 0.3
"""A score from which on the teacher's label counts as the clip's, where a run is measured."""

WINDOW_S = 2.0
"""Unless the recipe states one: two of YAMNet's windows, and short enough for recordings to differ from one to the
next."""


def read_recordings(folder: Path, labels: tuple[str, ...]) -> Dataset:
    """Every recording under a folder, whatever its folders are called; a twentieth of them, by path hash, is "val"."""
    found = search_folder(folder)
    if len(found.files) < 2:
        raise DataError(f"{folder} must be a folder with two or more recordings; it has {len(found.files)}")
    ordered = sorted(found.files, key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(folder))).digest())
    chosen = set(ordered[: max(1, round(VALIDATION_SHARE * len(ordered)))])
    clips = tuple(Clip(path, (), "val" if path in chosen else "train") for path in found.files)
    rule = "a twentieth of the recordings by path hash"
    return Dataset(clips, labels, "multi", rule, left_out={"": found.left_out})


class Pieces(Sequence[Float]):
    """Recordings cut into windows side by side; a last piece under half a window is left out, unless it is the only."""

    def __init__(self, waveforms: Sequence[Float], window_samples: int) -> None:
        self._waveforms, self._window = waveforms, window_samples
        self._places: list[tuple[int, int]] = []
        for number, waveform in enumerate(waveforms):
            count = max(1, (len(waveform) + window_samples // 2) // window_samples)
            self._places += [(number, piece * window_samples) for piece in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Float:  # type: ignore[override]  # no slices
        number, start = self._places[index]
        return self._waveforms[number][start : start + self._window]
