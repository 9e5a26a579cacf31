"""Sounds that an export is compared or calibrated on: chosen before any work begins, decoded when it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexiast.data.clips import Dataset
    from flexiast.data.waveforms import Waveforms
    from flexiast.spec import Spec
    from flexiast_export.verify import VerificationData

T = TypeVar("T")

HEARD, LABELLED, CALIBRATION = 16, 1000, 256
"""Clips taken at most, spread evenly: a thousand tell a loss of half a point, and take minutes."""


@dataclass(frozen=True)
class Clips:
    """Clips of a folder or a data set, evenly spread."""

    dataset: Dataset
    labelled: bool = False
    """Their labels are the model's."""
    skip_bad: bool = False

    def sounds(self, spec: Spec) -> VerificationData:
        """All windows of each clip."""
        from flexiast_export.verify import VerificationData

        readable, waveforms = self._load(spec)
        return VerificationData(spec, waveforms, readable.targets(spec.labels) if self.labelled else None)

    def first_windows(self, spec: Spec) -> NDArray[np.float32]:
        """Of each clip [clips, window_frames, mels]."""
        import numpy as np

        from flexiast.frontend import Frontend

        frontend = Frontend(spec.frontend)
        return np.stack([frontend.window(waveform) for waveform in self._load(spec)[1]])

    def _load(self, spec: Spec) -> tuple[Dataset, Waveforms]:
        from flexiast_cli.dataset import load_clips
        from flexiast_cli.terminal.console import stderr

        return load_clips(self.dataset, spec.frontend.sample_rate_hz, stderr(), skip_bad=self.skip_bad)


def to_compare(data: Path, spec: Spec, val_fold: str | None, *, skip_bad: bool) -> Clips:
    """The validation clips of a data set, with their labels, or a few of a folder of mere sounds; raises DataError."""
    from flexiast_cli.dataset import read_data
    from flexiast_cli.terminal.console import stderr

    if not _has_labels(data, spec):
        return Clips(_files(data, spec, HEARD), skip_bad=skip_bad)
    validation = read_data(data, val_fold if has_folds(data) else None, stderr(), skip_bad=skip_bad).labelled.split(
        "val"
    )
    chosen = replace(validation, clips=_spread(validation.clips, LABELLED))
    chosen.targets(spec.labels)  # a label that the model does not know is refused before the work
    return Clips(chosen, labelled=True, skip_bad=skip_bad)


def to_calibrate(data: Path, spec: Spec, val_fold: str | None, *, skip_bad: bool) -> Clips:
    """The training clips of a data set, or those of a folder; raises DataError."""
    from flexiast.data.layout import read_layout
    from flexiast_cli.dataset import read_data
    from flexiast_cli.terminal.console import stderr

    if data.is_dir() and not _is_dataset(data) and not read_layout(data).split_names:
        return Clips(_files(data, spec, CALIBRATION), skip_bad=skip_bad)
    training = read_data(data, val_fold if has_folds(data) else None, stderr(), skip_bad=skip_bad).labelled.split(
        "train"
    )
    return Clips(replace(training, clips=_spread(training.clips, CALIBRATION)), skip_bad=skip_bad)


def has_folds(data: Path) -> bool:
    """Whether a fold may be chosen: folders named by label have none."""
    return not data.is_dir() or _is_dataset(data)


def _is_dataset(folder: Path) -> bool:
    from flexiast.data.shards import INDEX

    return any((folder / name).is_file() for name in ("metadata.csv", INDEX))


def _has_labels(data: Path, spec: Spec) -> bool:
    """Whether these are clips with the model's labels, and not just sounds; raises DataError where some are."""
    from flexiast.data.layout import BACKGROUND, read_layout
    from flexiast.data.search import search_folder
    from flexiast.errors import DataError

    if not data.is_dir() or _is_dataset(data):
        return True
    places = [
        place
        for place in read_layout(data).folders
        if place.label != BACKGROUND and not place.label.startswith(("__", "@"))
    ]
    known = [place for place in places if place.label in spec.labels]
    unknown = [place for place in places if place.label not in spec.labels]
    if known and (strange := [place.label for place in unknown if search_folder(place.path).files]):
        raise DataError(
            f"{data} has folders named by label, but {strange[0]!r} is none that the model knows; "
            "move it away, or give a folder of sounds without labels"
        )
    return bool(known)


def _files(folder: Path, spec: Spec, count: int) -> Dataset:
    """So many of the audio files anywhere under a folder."""
    from flexiast.data.clips import Clip, Dataset
    from flexiast.errors import DataError
    from flexiast_cli.dataset import search_sounds
    from flexiast_cli.terminal.console import stderr

    files = search_sounds(folder, stderr()).files
    if not files:
        raise DataError(f"{folder} holds no audio")
    return Dataset(tuple(Clip(path, (), "") for path in _spread(files, count)), (), spec.task, "none")


def _spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """So many of the items at most, evenly spaced."""
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
