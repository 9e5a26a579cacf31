"""Sounds that an export is compared or calibrated on: chosen before any work begins, decoded when it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexiast.data import Dataset
    from flexiast.spec import Spec
    from flexiast_export.verify import Sounds

T = TypeVar("T")

HEARD, LABELLED, CALIBRATION = 16, 1000, 256
"""Clips taken at most, spread evenly: a thousand tell a loss of half a point, and take minutes."""


@dataclass(frozen=True)
class Clips:
    """Clips of a folder or a data set, evenly spread."""

    dataset: Dataset
    targets: NDArray[np.float32] | None = None
    """[clips, classes], where their labels are the model's."""

    def sounds(self, spec: Spec) -> Sounds:
        """All windows of each clip."""
        from flexiast_export.verify import Sounds

        return Sounds(spec, self._waveforms(spec), self.targets)

    def first_windows(self, spec: Spec) -> NDArray[np.float32]:
        """Of each clip [clips, window_frames, mels]."""
        import numpy as np

        from flexiast.frontend import Frontend

        frontend = Frontend(spec.frontend)
        return np.stack([frontend.window(waveform) for waveform in self._waveforms(spec)])

    def _waveforms(self, spec: Spec) -> Sequence[NDArray[np.float32]]:
        from flexiast.data import load_waveforms
        from flexiast_cli.console import tracked

        rate_hz = spec.frontend.sample_rate_hz
        return load_waveforms(self.dataset, rate_hz, progress=lambda clips: tracked(clips, "Reading clips"))[1]


def to_compare(data: Path, spec: Spec, val_fold: str | None) -> Clips:
    """The validation clips of a data set, with their labels, or a few of a folder of mere sounds; raises DataError."""
    from flexiast.data import read_dataset

    if not _has_labels(data, spec):
        return Clips(_files(data, spec, HEARD))
    validation = read_dataset(data, val_fold if has_folds(data) else None).labelled.split("val")
    chosen = replace(validation, clips=_spread(validation.clips, LABELLED))
    return Clips(chosen, chosen.targets(spec.labels))


def to_calibrate(data: Path, spec: Spec, val_fold: str | None) -> Clips:
    """The training clips of a data set, or those of a folder; raises DataError."""
    from flexiast.data import read_dataset

    if data.is_dir() and not _is_dataset(data):
        return Clips(_files(data, spec, CALIBRATION))
    training = read_dataset(data, val_fold if has_folds(data) else None).labelled.split("train")
    return Clips(replace(training, clips=_spread(training.clips, CALIBRATION)))


def has_folds(data: Path) -> bool:
    """Whether a fold may be chosen: folders named by label have none."""
    return not data.is_dir() or _is_dataset(data)


def _is_dataset(folder: Path) -> bool:
    from flexiast.shards import INDEX

    return any((folder / name).is_file() for name in ("metadata.csv", INDEX))


def _has_labels(data: Path, spec: Spec) -> bool:
    """Whether these are clips with the model's labels, and not just sounds; raises DataError where some are."""
    from flexiast.data import BACKGROUND
    from flexiast.errors import DataError

    if not data.is_dir() or _is_dataset(data):
        return True
    folders = {path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith((".", "__", "@"))}
    folders.discard(BACKGROUND)
    unknown = sorted(folders - set(spec.labels))
    if unknown and len(unknown) < len(folders):
        raise DataError(
            f"{data} has folders named by label, but {unknown[0]!r} is none that the model knows; "
            "move it away, or give a folder of sounds without labels"
        )
    return bool(folders) and not unknown


def _files(folder: Path, spec: Spec, count: int) -> Dataset:
    """So many of the audio files anywhere under a folder."""
    from flexiast.audio import find_audio
    from flexiast.data import Clip, Dataset
    from flexiast.errors import DataError

    files = find_audio(folder)
    if not files:
        raise DataError(f"{folder} holds no audio")
    return Dataset(tuple(Clip(path, (), "") for path in _spread(files, count)), (), spec.task, "none")


def _spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """So many of the items at most, evenly spaced."""
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
