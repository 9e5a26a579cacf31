"""Sounds to compare or calibrate an export on: chosen before any work begins, decoded when it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flexiast.data.clips import Clip, Dataset
from flexiast.data.layout import BACKGROUND, read_layout
from flexiast.data.search import search_folder
from flexiast.data.shards import INDEX
from flexiast.data.waveforms import Waveforms
from flexiast.errors import DataError
from flexiast.frontend import Frontend
from flexiast.spec import Spec
from flexiast_cli.dataset import load_clips, read_data, search_sounds
from flexiast_cli.terminal.console import stderr
from flexiast_export.verify import VerificationData

T = TypeVar("T")

MAX_UNLABELLED, MAX_LABELLED, MAX_CALIBRATION = 16, 1000, 256
"""Clips taken at most, evenly spaced. A thousand show a loss of half a point, and take minutes."""


@dataclass(frozen=True)
class Clips:
    """Clips of a folder or a data set, evenly spread."""

    dataset: Dataset
    labelled: bool = False
    """Their labels are the model's."""

    def sounds(self, spec: Spec) -> VerificationData:
        """All windows of each clip."""
        readable, waveforms = self._load(spec)
        return VerificationData(spec, waveforms, readable.targets(spec.labels) if self.labelled else None)

    def first_windows(self, spec: Spec) -> NDArray[np.float32]:
        """The first window of each clip [clips, window_frames, mels]."""
        frontend = Frontend(spec.frontend)
        return np.stack([frontend.window(waveform) for waveform in self._load(spec)[1]])

    def _load(self, spec: Spec) -> tuple[Dataset, Waveforms]:

        return load_clips(self.dataset, spec.frontend.sample_rate_hz, stderr())


def clips_to_compare(data: Path, spec: Spec, val_fold: str | None) -> Clips:
    """The validation clips of a data set with their labels, or a few clips of a folder without; raises DataError."""
    if not _has_labels(data, spec):
        return Clips(_find_files(data, spec, MAX_UNLABELLED))
    validation = _read_split(data, "val", val_fold)
    chosen = replace(validation, clips=_spread(validation.clips, MAX_LABELLED))
    chosen.targets(spec.labels)  # a label that the model does not know is refused before the work
    return Clips(chosen, labelled=True)


def clips_to_calibrate(data: Path, spec: Spec, val_fold: str | None) -> Clips:
    """The training clips of a data set, or those of a folder; raises DataError."""
    if data.is_dir() and not _is_dataset(data) and not read_layout(data).split_names:
        return Clips(_find_files(data, spec, MAX_CALIBRATION))
    training = _read_split(data, "train", val_fold)
    return Clips(replace(training, clips=_spread(training.clips, MAX_CALIBRATION)))


def _read_split(data: Path, split: str, val_fold: str | None) -> Dataset:
    fold = val_fold if has_folds(data) else None
    return read_data(data, fold, stderr()).labelled.split(split)


def has_folds(data: Path) -> bool:
    """Whether a fold may be chosen: folders named by label have none."""
    return not data.is_dir() or _is_dataset(data)


def _is_dataset(folder: Path) -> bool:

    return any((folder / name).is_file() for name in ("metadata.csv", INDEX))


def _has_labels(data: Path, spec: Spec) -> bool:
    """Whether the clips have the model's labels; raises DataError where only some have."""
    if not data.is_dir() or _is_dataset(data):
        return True
    folders = [
        folder
        for folder in read_layout(data).folders
        if folder.label != BACKGROUND and not folder.label.startswith(("__", "@"))
    ]
    known = [folder for folder in folders if folder.label in spec.labels]
    unknown = [folder for folder in folders if folder.label not in spec.labels]
    if known and (strange := [folder.label for folder in unknown if search_folder(folder.path).files]):
        raise DataError(
            f"{data} has folders named by label, but {strange[0]!r} is none that the model knows; "
            "move it away, or give a folder of sounds without labels"
        )
    return bool(known)


def _find_files(folder: Path, spec: Spec, count: int) -> Dataset:
    """At most that many of the audio files anywhere under a folder; raises DataError where there are none."""
    files = search_sounds(folder, stderr()).files
    if not files:
        raise DataError(f"{folder} holds no audio")
    return Dataset(tuple(Clip(path, (), "") for path in _spread(files, count)), (), spec.task, "none")


def _spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """At most that many of the items, evenly spaced."""
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
