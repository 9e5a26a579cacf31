"""Published data sets, as their publishers lay them out, → the CSV that everything else reads."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flexiast.data.clips import LABEL_SEPARATOR, Clip
from flexiast.data.search import LeftOut, search_folder
from flexiast.errors import DataError
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.spec import check_label

VOXCELEB_SPLITS = {"1": "train", "2": "val", "3": "test"}


@dataclass(frozen=True)
class Listing:
    """The clips of a published data set that are on this disk."""

    clips: tuple[Clip, ...]
    missing: int
    """Clips that its publisher lists and the disk lacks."""
    column: Literal["split", "fold"] = "split"
    """What a clip's ``split`` is."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the search of its folder did not take."""


def esc50(folder: Path) -> Listing:
    """ESC-50 (karolpiczak/ESC-50): ``meta/esc50.csv`` and ``audio/``; its five folds stay folds. Raises DataError."""
    rows = _table(folder / "meta" / "esc50.csv", ("filename", "fold", "category"), header=True)
    clips = [Clip(folder / "audio" / row["filename"], (row["category"],), row["fold"]) for row in rows]
    return _make_listing(clips, folder, "fold")


def audioset(segments: Sequence[Path], audio: Path) -> Listing:
    """AudioSet (research.google.com/audioset): segment CSVs with ``class_labels_indices.csv`` beside them.

    A clip's file may lie anywhere under ``audio`` and is named by its YTID, as ``YTID.wav``, ``YYTID.wav``,
    ``YTID_30.000.wav`` or ``YTID_30000_40000.flac``; AudioSet takes one segment of a video only. A CSV of the name
    ``eval…`` is the split "val", others are "train". Raises DataError.
    """
    files, left_out = _files_by(audio, _ytid)
    clips = []
    for path in segments:
        classes = _table(path.with_name("class_labels_indices.csv"), ("mid", "display_name"), header=True)
        names = {row["mid"]: row["display_name"] for row in classes}
        split = "val" if path.name.startswith("eval") else "train"
        for row in _table(path, ("YTID", "start_seconds", "end_seconds", "positive_labels"), header=False):
            mids = row["positive_labels"].split(",")
            if unknown := [mid for mid in mids if mid not in names]:
                raise DataError(
                    f"{path}: {row['YTID']} is labelled {unknown[0]!r}, which class_labels_indices.csv lacks"
                )
            clips.append((row["YTID"], tuple(names[mid] for mid in mids), split))
    return _list_present(clips, files, left_out, audio)


def vggsound(listing: Path, audio: Path) -> Listing:
    """VGGSound (robots.ox.ac.uk/~vgg/data/vggsound): ``vggsound.csv`` of YTID, start, label and split, no header.

    Files lie anywhere under ``audio`` and are named ``YTID_000030.wav``, by their first second. Its part "test" is the
    split "val", for it has no third. Raises DataError.
    """
    files, left_out = _files_by(audio, lambda stem: stem)
    clips = []
    for row in _table(listing, ("YTID", "start", "label", "split"), header=False):
        if not row["start"].isdecimal() or row["split"] not in {"train", "test"}:
            raise DataError(
                f"{listing}: {row['YTID']} has start {row['start']!r} and split {row['split']!r}; "
                "expected whole seconds and train or test, as in vggsound.csv"
            )
        split = "train" if row["split"] == "train" else "val"
        clips.append((f"{row['YTID']}_{int(row['start']):06}", (row["label"],), split))
    return _list_present(clips, files, left_out, audio)


def speechcommands(folder: Path) -> Listing:
    """Speech Commands v0.02 as torchaudio unpacks it into ``folder``, with its own three splits; raises DataError."""
    if (folder / "testing_list.txt").is_file():
        raise DataError(
            f"{folder} is the unpacked archive itself; move it to SpeechCommands/speech_commands_v0.02 in a folder of "
            "its own, where torchaudio expects it, and give that folder"
        )
    read = require("torchaudio.datasets", "train").SPEECHCOMMANDS
    clips = []
    for subset, split in {"training": "train", "validation": "val", "testing": "test"}.items():
        try:
            data = read(folder, subset=subset, download=False)
            items = [data.get_metadata(number) for number in range(len(data))]  # nothing is decoded
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(f"{folder} does not hold SPEECHCOMMANDS as torchaudio unpacks it: {error}") from error
        clips += [Clip(folder / "SpeechCommands" / path, (label,), split) for path, _, label, *_ in items]
    return _make_listing(clips, folder)


def voxceleb1(folder: Path) -> Listing:
    """VoxCeleb1 for identification: ``wav/`` and ``iden_split.txt``, labels such as ``id10001``; raises DataError."""
    path = folder / "iden_split.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); get it from https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
        ) from error
    parts = sorted(_voxceleb_part(path, number, line) for number, line in enumerate(lines, start=1))
    clips = [Clip(folder / "wav" / name, (name.split("/")[0],), VOXCELEB_SPLITS[part]) for part, name in parts]
    return _make_listing(clips, folder)


def _voxceleb_part(path: Path, number: int, line: str) -> tuple[str, str]:
    """``1 id10001/1zcIwhmdeo4/00001.wav`` → part and file; raises DataError."""
    match = re.fullmatch(r"([123]) (id\d+/[\w-]+/\d+\.wav)", line.strip(), re.ASCII)
    if match is None:
        raise DataError(
            f"{path} line {number} is {line[:60]!r}; expected a part, 1 to 3, and a file, as in "
            "'1 id10001/1zcIwhmdeo4/00001.wav'"
        )
    return match[1], match[2]


def write_listing(listing: Listing, output: Path) -> None:
    """Write the CSV (path, label and split or fold); raises DataError for what it cannot hold.

    Paths under the CSV's folder are relative to it, so that both can be moved; others are absolute.
    """
    folder = output.absolute().parent
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", listing.column))
    for clip in listing.clips:
        path = clip.path.absolute()
        path = path.relative_to(folder) if path.is_relative_to(folder) else path
        writer.writerow((path.as_posix(), LABEL_SEPARATOR.join(map(_check_label, clip.labels)), clip.split))
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a file name is not UTF-8 and cannot stand in a CSV ({error}); rename it") from error
    write_atomically(output, content)


def _make_listing(clips: Sequence[Clip], folder: Path, column: Literal["split", "fold"] = "split") -> Listing:
    present = tuple(clip for clip in clips if clip.path.is_file())
    if not present:
        raise DataError(f"none of the {len(clips)} clips that are listed lies in {folder}; unpack the audio there")
    return Listing(present, len(clips) - len(present), column)


def _list_present(
    clips: Sequence[tuple[str, tuple[str, ...], str]], files: dict[str, list[Path]], left_out: LeftOut, audio: Path
) -> Listing:
    """The clips (name, labels, split) that have a file."""
    present, seen = [], set()
    for name, labels, split in clips:
        if name in seen:
            raise DataError(f"clip {name!r} is listed twice; give each list once, and none that shares clips")
        seen.add(name)
        if paths := files.get(name):
            if len(paths) > 1:
                raise DataError(f"{paths[0]} and {paths[1]} are both the clip {name!r}; keep one of them")
            present.append(Clip(paths[0], labels, split))
    if not present:
        raise DataError(
            f"none of the {len(clips)} clips that are listed lies under {audio} as audio named by its YouTube id; "
            "name the folder with --audio, and extract the sound of videos first"
            + (f"; left out: {left_out}" if str(left_out) else "")
        )
    return Listing(tuple(present), len(clips) - len(present), left_out=left_out)


def _files_by(folder: Path, key: Callable[[str], str | None]) -> tuple[dict[str, list[Path]], LeftOut]:
    files = defaultdict(list)
    found = search_folder(folder)
    for path in found.files:
        name = key(path.stem)
        if name is not None:
            files[name].append(path)
    return files, found.left_out


def _ytid(stem: str) -> str | None:
    match = re.fullmatch(r"Y?([A-Za-z0-9_-]{11})(?:_[0-9.]+){0,2}", stem)
    return match and match[1]


def _table(path: Path, columns: Sequence[str], *, header: bool) -> Iterator[dict[str, str]]:
    """Rows of a CSV whose comments begin with ``#``; raises DataError for one that lacks a value."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = (line for line in file if not line.startswith("#"))
            reader = csv.DictReader(lines, None if header else columns, skipinitialspace=True)
            for number, row in enumerate(reader, start=1):
                if empty := [column for column in columns if not row.get(column)]:
                    raise DataError(
                        f"{path} row {number} has no {empty[0]}; expected {','.join(columns)}, as published"
                    )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV: {error}") from error


def _check_label(label: str) -> str:
    if LABEL_SEPARATOR in label:
        raise DataError(
            f"label {label!r} holds {LABEL_SEPARATOR!r}, which joins labels; rename it in the set's own CSV"
        )
    try:
        return check_label(label)
    except ValueError as error:
        raise DataError(str(error)) from None
