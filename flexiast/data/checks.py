"""What is worth knowing of a data set before minutes of training: refusals, counts and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.data.audio import open_audio
from flexiast.data.clips import Clip, Dataset, ShardClips
from flexiast.data.search import LeftOut
from flexiast.errors import DataError
from flexiast.spec import LONGEST_CLIP_S
from flexiast.storage import RemotePath
from flexiast.text import preview

SILENT = 2 / 32768
"""Peak to peak: two steps of 16 bits hold no sound."""

UNEVEN = 5
"""Times as many clips as the rarest label has; the common ones then decide most answers."""

SPREAD = 1.25
"""Times the window that a tenth of the clips may last without a word."""

RATES_READ = 200
"""Clips whose headers are read for their sample rate, evenly spaced."""

ENOUGH = "record at least 5 of each; 20 or more are usual"


@dataclass(frozen=True)
class LabelCount:
    """A label's clips by what becomes of them."""

    label: str
    train: int
    val: int
    other: int
    """Of further splits, such as test."""
    left_out: int
    """That could not be read, or that the search of its folder did not take."""


def count_labels(dataset: Dataset, training: Dataset, validation: Dataset) -> list[LabelCount]:
    """The counts of each label, from the data set as found and its two splits as read."""
    train, val, found = (part.count_labels() for part in (training, validation, dataset))
    other = found - dataset.count_labels("train") - dataset.count_labels("val")
    return [
        LabelCount(
            label,
            train[label],
            val[label],
            other[label],
            found[label] - train[label] - val[label] - other[label] + dataset.left_out.get(label, LeftOut()).lost,
        )
        for label in sorted({*dataset.labels, *dataset.left_out} - {""})
    ]


def check_trainable(dataset: Dataset, where: Path | RemotePath, *, background: bool) -> None:
    """Raise DataError, before a file is decoded, for a data set that nothing can be learnt from."""
    if len(dataset.labels) < 2 and dataset.task == "single" and not background:
        raise DataError(
            f"{where} has one label only, {dataset.labels[0]!r}; add sounds that are something else, "
            "or give a --background without it"
        )
    counts = dataset.count_labels()
    if max(counts.values()) == 1 and dataset.hashed_from is not None:
        folders = "; folders are named by what sounds in them, not by recording" if len(counts) > 20 else ""
        raise DataError(
            f"{where} has one clip of each label ({preview(dataset.labels)}), so none is left to validate; "
            f"{ENOUGH}{folders}"
        )


def warnings_before_reading(dataset: Dataset) -> list[str]:
    """What labels and splits alone tell."""
    train, val = (dataset.count_labels(split) for split in ("train", "val"))
    total = train + val
    notes = []
    if lost := [label for label, left_out in dataset.left_out.items() if left_out.lost and not total[label]]:
        notes.append(f"No clip of {preview(lost)} can be read: the model will not have such a label")
    if others := {name: count for name, count in dataset.count_splits().items() if name not in {"train", "val"}}:
        counts = ", ".join(f"{split} ({_count(count, 'clip')})" for split, count in sorted(others.items()))
        notes.append(f"Neither trained on nor validated on: {counts}; measure it with flexiast evaluate --split")
    if lone := [label for label in dataset.labels if total[label] == 1]:
        notes.append(f"One clip only of {preview(lone)}: {ENOUGH}")
    if unknown := [label for label in dataset.labels if train[label] and not val[label] and total[label] > 1]:
        notes.append(f"No validation clip of {preview(unknown)}: no figure tells whether it was learnt")
    if missing := [label for label in dataset.labels if val[label] and not train[label]]:
        notes.append(f"No training clip has {preview(missing)}: the model will not know it")
    if both := _find_shared_files(dataset.clips):
        notes.append(
            f"{_count(len(both), 'file')} in both train and val, such as {both[0]}: "
            "validation figures are too good; leave each in one"
        )
    return notes


def warn_lost_labels(dataset: Dataset, training: Dataset, validation: Dataset) -> list[str]:
    """Of labels whose clips of a split were all left out when they were read."""
    notes = []
    for split, read, kind, loss in (
        ("train", training, "training", "the model will not know it"),
        ("val", validation, "validation", "no figure tells whether it was learnt"),
    ):
        if lost := sorted(set(dataset.count_labels(split)) - set(read.count_labels())):
            notes.append(f"Every {kind} clip of {preview(lost)} was left out: {loss}")
    return notes


def warn_uneven(counts: NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """Of labels with very different numbers of training clips [labels]."""
    present = np.flatnonzero(counts)
    least, most = present[counts[present].argmin()], present[counts[present].argmax()]
    if counts[most] < UNEVEN * counts[least]:
        return []
    return [
        f"{labels[most]} has {counts[most]:,.0f} training clips, {labels[least]} {counts[least]:,.0f}: all labels are "
        "drawn equally often; more clips of the rarest would help most"
    ]


def warnings_on_audio(
    training: Dataset,
    waveforms: Sequence[Float],
    validation: Dataset,
    validation_waveforms: Sequence[Float],
    frame: int,
) -> list[str]:
    """What decoded clips tell: silence, clips shorter than one frame of so many samples, the same sound twice.

    ``waveforms`` are those of the first clips, as many as are in memory. Raises DataError where all training clips are
    silent.
    """
    notes = []
    clips = (*training.clips[: len(waveforms)], *validation.clips[: len(validation_waveforms)])
    sounds = (*waveforms, *validation_waveforms)
    silent = [bool(np.ptp(sound) <= SILENT) for sound in sounds]
    if waveforms and all(silent[: len(waveforms)]):
        raise DataError(
            f"all {len(waveforms):,} training clips are silent, such as {clips[0].path}; "
            "check the recorder's input and its level, and record again"
        )
    if quiet := [clip for clip, is_silent in zip(clips, silent, strict=True) if is_silent]:
        notes.append(
            f"{_count(len(quiet), 'clip')} of {preview(sorted({label for clip in quiet for label in clip.labels}))} "
            f"without any sound, such as {quiet[0].path}: remove what is not meant as silence"
        )
    if short := [clip for clip, sound in zip(clips, sounds, strict=True) if len(sound) < frame]:
        notes.append(
            f"{_count(len(short), 'clip')} shorter than one frame of {frame} samples, such as {short[0].path}: "
            "nothing can be learnt from it; record again or remove it"
        )
    digests = [
        b"" if is_silent else sha256(sound.tobytes()).digest() for sound, is_silent in zip(sounds, silent, strict=True)
    ]
    notes += _same_sounds(clips, digests, len(waveforms))
    return notes


def _same_sounds(clips: Sequence[Clip], digests: Sequence[bytes], training: int) -> list[str]:
    """Of clips, the first ``training`` of which train, whose audio is equal; an empty digest is passed over."""
    notes = []
    first: dict[bytes, int] = {}
    leaks, contradictions = [], []
    for number, digest in enumerate(digests):
        if not digest:
            continue
        other = first.setdefault(digest, number)
        if other < training <= number and clips[other].path != clips[number].path:
            leaks.append((other, number))
        if set(clips[other].labels) != set(clips[number].labels):
            contradictions.append((other, number))
    if leaks:
        one, two = (clips[number].path for number in leaks[0])
        notes.append(
            f"{_count(len(leaks), 'validation clip')} with the very sound of a training clip, such as {two} and "
            f"{one}: validation figures are too good; leave each in one split"
        )
    if contradictions:
        here, there = (clips[number] for number in contradictions[0])
        notes.append(
            f"{_count(len(contradictions), 'clip')} with the very sound of a clip of another label, such as "
            f"{here.path} ({', '.join(here.labels)}) and {there.path} ({', '.join(there.labels)}): keep one"
        )
    return notes


def warn_low_rates(clips: Sequence[Clip], sample_rate_hz: int) -> list[str]:
    """Of clips recorded at a lower rate than the model's: they hold nothing of its upper bands."""
    numbers = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), RATES_READ)).astype(int))
    rates: Counter[int] = Counter()
    for number in numbers:
        with open_audio(clips[number].path, clips[number].part) as file:
            rates[file.rate_hz] += 1
    low = {rate: count for rate, count in rates.items() if rate < sample_rate_hz}
    if not low:
        return []
    lowest, share = min(low), sum(low.values()) / len(numbers)
    return [
        f"{share:.0%} of the training clips {'looked at ' if len(numbers) < len(clips) else ''}have fewer than "
        f"{sample_rate_hz:,} samples a second ({lowest:,}): nothing above {lowest // 2:,} Hz is learnt, which a "
        f"microphone at {sample_rate_hz:,} will deliver; record at {sample_rate_hz:,} or more"
    ]


def warn_window(lengths_s: Sequence[float], window_s: float) -> list[str]:
    """Of a window that was chosen by clips of such lengths, where it may not be what is wanted."""
    median, most = (float(np.quantile(lengths_s, share)) for share in (0.5, 0.9))
    if median > SPREAD * window_s:
        return [
            f"The median clip lasts {median:.3g} s: the window is {window_s:.3g} s and is laid where something sounds; "
            "choose --window by the sounds, such as 2"
        ]
    if most <= SPREAD * window_s:
        return []
    whole = f": --window {most:.2g} would hold them whole" if most <= LONGEST_CLIP_S else ""
    return [
        f"The window is the median clip, {window_s:.3g} s; a tenth of the clips last {most:.3g} s or more and are "
        f"learnt in parts, where something sounds{whole}"
    ]


def _find_shared_files(clips: Sequence[Clip]) -> list[Path]:
    """Files of validation clips that train too, under whatever name; clips of shards stand once."""
    if isinstance(clips, ShardClips):
        return []
    known = {_identity(clip.path) for clip in clips if clip.split == "train"} - {None}
    return [clip.path for clip in clips if clip.split == "val" and _identity(clip.path) in known]


def _identity(path: Path) -> tuple[int, int] | None:
    """Of the file that the path leads to, None where it leads to none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
