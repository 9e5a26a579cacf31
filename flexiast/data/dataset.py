"""Data sets: folders named by label, a CSV (path, label, split or fold), or shards; with or without background."""

from __future__ import annotations

import codecs
import csv
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.data.audio import AUDIO_SUFFIXES, check_audio, check_bad_files, read_audio
from flexiast.data.clips import LABEL_SEPARATOR, Clip, Dataset, ShardClips, ShardPlace
from flexiast.data.layout import BACKGROUND, read_layout
from flexiast.data.search import LeftOut, search_folder
from flexiast.data.shards import INDEX, read_index
from flexiast.data.targets import LabelTargets, Targets, sum_columns
from flexiast.data.waveforms import Waveforms, memory_budget
from flexiast.errors import DataError
from flexiast.log import Log, log_nothing
from flexiast.objects import RemoteShard
from flexiast.spec import check_label
from flexiast.storage import RemotePath
from flexiast.text import preview

VALIDATION_SHARE = 0.2
"""Of each label's clips, where a data set has no split of its own."""

HASHED = "a fifth of each label by path hash"
"""The split rule of such a data set."""


def read_dataset(data: Path | RemotePath, val_fold: str | None = None) -> Dataset:
    """A folder of folders named by label, a CSV (path, label, maybe split or fold, maybe start_s and end_s), or shards.

    Label folders may lie in folders named by split: train, val (valid, validation, dev) and test.
    Paths in a CSV are relative to its folder; several labels of a clip are joined by ``;``. With a fold column,
    ``val_fold`` (the last fold unless told) is the split "val" and all others are "train". Where neither stands, a
    fifth of each label's clips, chosen by a hash of their paths, becomes "val". Shards keep the labels, the split and
    the order of what they were made from. An empty label, or a folder ``_background_``, is background: a clip of no
    label. In an object store only shards are read. Raises DataError.
    """
    if isinstance(data, RemotePath):
        return _read_shards(data, val_fold)
    if data.is_dir():
        if (data / INDEX).is_file():
            return _read_shards(data, val_fold)
        if (data / "metadata.csv").is_file():
            return _read_csv(data / "metadata.csv", val_fold)
        if val_fold is not None:
            raise DataError(f"{data} has no folds, so fold {val_fold!r} cannot validate; leave --val-fold out")
        return _read_folders(data)
    if data.is_file():
        return _read_csv(data, val_fold)
    raise DataError(f"{data} does not exist; give a folder of folders named by label, or a CSV")


def drop_bad_clips(
    dataset: Dataset, *, progress: Callable[[Iterable[Clip]], Iterable[Clip]] = iter
) -> tuple[Dataset, list[DataError]]:
    """The clips that are audio, with the split made of them alone, and what was left out and why.

    A bad file would else be a label's only validation clip. Every command calls this first for a data set without a
    split of its own, so that all have the same split: that of the data set without those files. Headers and the first
    samples are looked at; a file that breaks off later keeps its place, and is left out when it is read. Raises
    DataError where most files are bad.
    """
    good: list[Clip] = []
    errors: list[DataError] = []
    left_out = defaultdict(LeftOut, dataset.left_out)
    for clip in progress(dataset.clips):
        try:
            check_audio(clip.path)
        except DataError as error:
            errors.append(error)
            for label in clip.labels:
                left_out[label] += LeftOut(unreadable=1)
        else:
            good.append(clip)
    check_bad_files(errors, len(dataset.clips))
    if not errors:
        return dataset, errors
    if dataset.hashed_from is not None:
        good = _split_by_hash(good, dataset.hashed_from)
    good_only = _dataset(good, dataset.split_rule)
    return replace(good_only, hashed_from=dataset.hashed_from, left_out=left_out), errors


def load_waveforms(
    dataset: Dataset,
    sample_rate_hz: int,
    *,
    budget_bytes: int | None = None,
    progress: Callable[[Iterable[Clip]], Iterable[Clip]] = iter,
    log: Log = log_nothing,
) -> tuple[Dataset, Waveforms, list[DataError]]:
    """The clips that can be read, their waveforms, and what was left out and why; ``log`` is told of what is odd.

    Clips are decoded into memory until they fill ``budget_bytes`` (see ``memory_budget``). Of files beyond it only the
    headers are checked: one that breaks off later raises when it is read. Clips of shards were decoded when they were
    written, so one that cannot be now is damage and raises DataError; those in an object store are read when they are
    needed. Raises DataError too where most files are bad, after all were tried, so that they can be mended in one go.
    """
    budget = memory_budget() if budget_bytes is None else budget_bytes
    bad: list[int] = []
    loaded: list[Float] = []
    errors: list[DataError] = []
    held = 0
    sharded = isinstance(dataset.clips, ShardClips)
    is_remote = isinstance(dataset.clips, ShardClips) and dataset.clips.is_remote
    for place, clip in enumerate(progress(() if is_remote else dataset.clips)):
        if sharded and held >= budget:
            break
        try:
            if held < budget:
                loaded.append(read_audio(clip.path, sample_rate_hz, clip.part, log, clip.span_s))
                held += loaded[-1].nbytes
            else:
                check_audio(clip.path, log)
        except DataError as error:
            if sharded:
                raise
            errors.append(error)
            bad.append(place)
    check_bad_files(errors, len(dataset.clips))
    readable = dataset.take(np.delete(np.arange(len(dataset.clips)), bad))
    return readable, Waveforms(readable.clips, sample_rate_hz, loaded), errors


def compute_balanced_weights(targets: Targets) -> Double:
    """[clips, labels] of 0 to 1 → [clips] probabilities: the sum over a clip's labels of 1 / clips with that label.

    So rare labels are drawn about as often as common ones, as AST does on AudioSet (YuanGongND/ast,
    ``gen_weight_file.py``; its constants 1000 and 0.01 scale every weight and guard against labels without clips). A
    clip without labels is never drawn; at least one must have some.
    """
    shares = 1 / np.maximum(sum_columns(targets), 1)
    if isinstance(targets, LabelTargets):
        weights = np.bincount(targets.clips, shares[targets.columns], minlength=len(targets))
    else:
        weights = np.einsum("cl,l->c", targets, shares)  # needs no float64 copy of the targets
    return weights / weights.sum()


def _read_folders(folder: Path) -> Dataset:
    layout = read_layout(folder)
    clips: list[Clip] = []
    left_out = defaultdict(LeftOut, {"": layout.left_out})
    for place in layout.folders:
        background = place.label == BACKGROUND
        label = "" if background else _validate_label(place.label, place.path)
        found = search_folder(place.path)
        clips += [Clip(path, () if background else (label,), place.split) for path in found.files]
        left_out[label] += found.left_out if found else LeftOut(empty=(place.path,))
    if not any(clip.labels for clip in clips):
        reasons = str(sum(left_out.values(), LeftOut()))
        raise DataError(
            f"{folder} has no audio in folders named by label, such as {folder / 'dog' / 'bark.wav'}"
            + (f"; left out: {reasons}" if reasons else "")
        )
    rule = f"folders {', '.join(layout.split_names)}" if layout.split_names else HASHED
    if any(clip.split == "val" for clip in clips) or not any(clip.split in {"", "train"} for clip in clips):
        return replace(_dataset(clips, rule), left_out=left_out)
    if layout.split_names:
        rule = f"{rule}, of whose first {HASHED} validates"
    return replace(_dataset(_split_by_hash(clips, folder), rule), hashed_from=folder, left_out=left_out)


def _read_shards(folder: Path | RemotePath, val_fold: str | None) -> Dataset:
    if val_fold is not None:
        raise DataError(
            f"{folder} was split when its shards were written, so fold {val_fold!r} cannot validate; "
            "leave --val-fold out, or use the CSV that the shards were made from"
        )
    index, paths = read_index(folder)
    shards = []
    for shard in index.shards:
        place = paths[shard.name]
        shards.append(ShardPlace(Path(str(place)), shard.split, place if isinstance(place, RemoteShard) else None))
    found = [shard.clips for shard in index.shards]
    clips = ShardClips(
        shards,
        np.repeat(np.arange(len(shards), dtype=np.int32), [len(each) for each in found]),
        np.concatenate([each.offsets for each in found]),
        np.concatenate([each.sizes for each in found]),
        index.labels,
        LabelTargets.join([each.targets for each in found], len(index.labels)),
    )
    order = np.argsort(np.concatenate([each.numbers for each in found]))
    return Dataset(clips.take(order), index.labels, index.task, index.split_rule)


def read_background_csv(path: Path) -> tuple[Clip, ...]:
    """The clips of a CSV whose labels are all empty, such as `flexiast mine` writes; raises DataError."""
    _, rows = _read_rows(path)
    clips = [_clip(path, number, row) for number, row in enumerate(rows, start=2)]
    for number, clip in enumerate(clips, start=2):
        if clip.labels:
            raise DataError(
                f"{path} line {number} has the label {clip.labels[0]!r}, and background has none; empty it, or give "
                "the CSV as data"
            )
    return tuple(clips)


def _read_rows(path: Path) -> tuple[Sequence[str], list[dict[str, str | None]]]:
    """Columns and lines of a CSV that lists clips; raises DataError."""
    if path.suffix.lower() in AUDIO_SUFFIXES:
        raise DataError(f"{path} is a recording; expected a folder with a folder for each label, or a CSV")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}); save it as 'CSV UTF-8', or convert it: "
            f"iconv -f {'UTF-16' if _is_utf16(path) else 'WINDOWS-1252'} -t UTF-8 {path.name} > utf8.csv"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV: {error}") from error
    for column in ("path", "label"):
        if column not in columns:
            raise DataError(
                f"{path} has no column {column!r}; it has {preview(columns) or 'none'}; "
                f"expected path,label and maybe split or fold{_separator_hint(columns)}"
            )
    if not rows:
        raise DataError(f"{path} lists no clips")
    return columns, rows


def _read_csv(path: Path, val_fold: str | None) -> Dataset:
    columns, rows = _read_rows(path)
    clips = [_clip(path, number, row) for number, row in enumerate(rows, start=2)]
    if not any(clip.labels for clip in clips):
        raise DataError(f"{path} has no label in any line; an empty one means that none of the labels sounds")
    if val_fold is not None and "fold" not in columns:
        raise DataError(f"{path} has no column fold, so fold {val_fold!r} cannot validate; leave --val-fold out")
    if "fold" in columns and (val_fold is not None or "split" not in columns):
        folds = _column(path, rows, "fold")
        chosen = val_fold or max(folds, key=lambda fold: (len(fold), fold))
        if chosen not in folds:
            raise DataError(f"{path} has no fold {chosen!r}; it has {preview(sorted(set(folds)))}")
        splits = ["val" if fold == chosen else "train" for fold in folds]
        rule = f"fold {chosen} validates, the others train"
    elif "split" in columns:
        splits, rule = _column(path, rows, "split"), "split column"
    else:
        return replace(_dataset(_split_by_hash(clips, path.parent), HASHED), hashed_from=path.parent)
    return _dataset([replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)], rule)


def _is_utf16(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}


def _separator_hint(columns: Sequence[str]) -> str:
    """What to do about a table whose columns are parted by something else than commas."""
    for separator, name in (("\t", "tabs"), (";", "semicolons")):
        if len(columns) == 1 and separator in columns[0]:
            return f". Its columns are separated by {name}: save it with commas ({LABEL_SEPARATOR!r} joins labels)"
    return ""


def _column(path: Path, rows: list[dict[str, str | None]], name: str) -> list[str]:
    values = [(row[name] or "").strip() for row in rows]
    if "" in values:
        raise DataError(f"{path} line {values.index('') + 2} has no {name}")
    return values


def _clip(csv_path: Path, number: int, row: dict[str, str | None]) -> Clip:
    name, text = row["path"], row["label"] or ""
    labels = tuple(dict.fromkeys(label.strip() for label in text.split(LABEL_SEPARATOR) if label.strip()))
    if not name:
        raise DataError(f"{csv_path} line {number} has no path")
    if text.strip() and not labels:
        raise DataError(
            f"{csv_path} line {number} has no label between its {LABEL_SEPARATOR!r}; leave it empty for none"
        )
    if labels == (BACKGROUND,):
        labels = ()
    span_s = _parse_span(f"{csv_path} line {number}", row.get("start_s"), row.get("end_s"))
    labels = tuple(_validate_label(label, csv_path) for label in labels)
    return Clip(csv_path.parent / name, labels, "", span_s=span_s)


def _parse_span(where: str, start: str | None, end: str | None) -> tuple[float, float] | None:
    """Seconds of a line's start_s and end_s; None where both are empty or no columns."""
    if not start and not end:
        return None
    try:
        span_s = float(start or "nan"), float(end or "nan")
    except ValueError:
        span_s = math.nan, math.nan
    if not 0 <= span_s[0] < span_s[1] < math.inf:
        raise DataError(
            f"{where}: start_s {start!r} and end_s {end!r} are no stretch of time; give seconds, or neither"
        )
    return span_s


def _validate_label(label: str, where: Path) -> str:
    try:
        return check_label(label)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _split_by_hash(clips: list[Clip], root: Path) -> list[Clip]:
    """All clips but those of a test split, which stay aside, parted into train and val."""
    single = all(len(clip.labels) <= 1 for clip in clips)  # sets of labels may each be unique: those are split as one
    aside = [clip for clip in clips if clip.split == "test"]
    by_label = defaultdict(list)
    for clip in (clip for clip in clips if clip.split != "test"):
        by_label[clip.labels if single else ()].append(clip)
    split = []
    for group in by_label.values():
        ordered = sorted(group, key=lambda clip: _path_hash(clip.path, root))
        validation = max(1, round(VALIDATION_SHARE * len(ordered))) if len(ordered) > 1 else 0
        split += [replace(clip, split="val" if rank < validation else "train") for rank, clip in enumerate(ordered)]
    return split + aside


def _path_hash(path: Path, root: Path) -> bytes:
    """Of the path from the data set's folder, so that a data set may be moved."""
    return hashlib.sha256(os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))).digest()


def _dataset(clips: list[Clip], rule: str) -> Dataset:
    labels = sorted({label for clip in clips for label in clip.labels})
    task: Literal["single", "multi"] = "single" if all(len(clip.labels) <= 1 for clip in clips) else "multi"
    return Dataset(tuple(clips), tuple(labels), task, rule)
