"""What sounds when in recordings, as people and programs write it down: CSV, Audacity, Raven and our JSON lines.

An annotation file lies with its recording, ``yard.wav`` with ``yard.csv``, ``yard.txt``, ``yard.labels.txt``,
``yard.selections.txt`` or ``yard.jsonl``, or ``yard.wav.csv`` and so on. Or one file, ``annotations.csv`` or
``annotations.jsonl``, has a column with the recordings' names. A file without a line says that nothing sounds.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast.data.search import find_audio
from flexiast.errors import DataError
from flexiast.text import preview

ENDINGS = ("csv", "tsv", "txt", "labels.txt", "selections.txt", "jsonl")
"""Of names; each also after ``flexiast.``, as `flexiast classify --output-dir` writes them."""
SHARED = ("annotations.csv", "annotations.jsonl")

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "start": ("start_s", "start", "onset", "begin time (s)"),
    "end": ("end_s", "end", "offset", "end time (s)"),
    "label": ("label", "event_label", "annotation", "species", "common name"),
}
"""What the columns are called: by us, by the DCASE challenge, by Raven."""
SOURCES = ("source", "path", "filename", "file", "begin path", "begin file")

ROUNDING_S = 0.1
"""By so much an end may lie after that of the recording; it is cut there."""


class Annotation(NamedTuple):
    """One sound, and where it was written down."""

    label: str
    start_s: float
    end_s: float
    where: str
    """File and line, for messages"""
    source: str | None = None
    """The recording, where the file names it"""


@dataclass(frozen=True)
class AnnotatedRecording:
    """A recording, and what was written down of it."""

    path: Path
    annotations: tuple[Annotation, ...]


def read_annotated(folder: Path) -> tuple[list[AnnotatedRecording], list[Path]]:
    """The recordings under a folder that have annotations, and those that have none; raises DataError."""
    recordings = find_audio(folder) if folder.is_dir() else []
    if not recordings:
        absence = "holds no audio" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {absence}; give a folder of recordings with their annotations")
    shared = _read_shared(folder, recordings)
    annotated, bare = [], []
    for path in recordings:
        file = _find_file(path)
        if file is not None and path in shared:
            raise DataError(f"{path.name} has annotations in {file.name} and in a shared file; keep one of them")
        if file is not None:
            annotated.append(AnnotatedRecording(path, tuple(read_annotations(file))))
        elif path in shared:
            annotated.append(AnnotatedRecording(path, tuple(shared[path])))
        else:
            bare.append(path)
    if not annotated:
        raise DataError(
            f"none of {len(bare)} recordings in {folder} has annotations, such as {bare[0].with_suffix('.csv').name} "
            "with the columns start_s,end_s,label beside it"
        )
    return annotated, bare


def check_annotations(
    recording: AnnotatedRecording, labels: Sequence[str], seconds: float
) -> tuple[list[Annotation], int]:
    """The annotations of a recording of so many seconds, in order, and how many were merged into another.

    Those of one label that overlap become one. Raises DataError for a label that the model lacks, and for times that
    run backwards or lie outside the recording.
    """
    for one in recording.annotations:
        if one.label not in labels:
            raise DataError(
                f"{one.where}: the model does not know {one.label!r}; it knows {preview(labels)}; correct the label, "
                "or remove the line"
            )
        if not 0 <= one.start_s < one.end_s:
            raise DataError(f"{one.where}: {one.start_s:g} s to {one.end_s:g} s is no stretch of time; correct it")
        if one.end_s > seconds + ROUNDING_S:
            raise DataError(
                f"{one.where}: {one.label!r} ends at {one.end_s:g} s, and {recording.path.name} at {seconds:g} s; "
                "is it of another recording?"
            )
    found: list[Annotation] = []
    last: dict[str, int] = {}
    for one in sorted(recording.annotations, key=lambda one: one.start_s):
        place = last.get(one.label)
        if place is not None and one.start_s < found[place].end_s:
            found[place] = found[place]._replace(end_s=min(seconds, max(found[place].end_s, one.end_s)))
        elif one.start_s < seconds:
            last[one.label] = len(found)
            found.append(one._replace(end_s=min(one.end_s, seconds)))
    return found, len(recording.annotations) - len(found)


def read_annotations(file: Path) -> list[Annotation]:
    """The annotations of one file, whatever its format; raises DataError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; annotations are text in UTF-8") from error
    if not text.strip():
        return []
    if file.suffix == ".jsonl":
        return list(_parse_json_lines(text, str(file)))
    first = text.split("\n", 1)[0]
    if "\t" not in first and file.suffix == ".csv":
        return list(_parse_table(text, ",", str(file)))
    if _is_number(first.split("\t", 1)[0]):
        return list(_parse_audacity(text, str(file)))
    return list(_parse_table(text, "\t", str(file)))


def _find_file(recording: Path) -> Path | None:
    beginnings = [f"{name}.{tool}" for name in (recording.name, recording.stem) for tool in ("", "flexiast.")]
    names = [beginning + ending for beginning in beginnings for ending in ENDINGS]
    found = [recording.with_name(name) for name in names if recording.with_name(name).is_file()]
    if len(found) > 1:
        listed = ", ".join(one.name for one in found)
        raise DataError(f"{recording.name} has several annotation files: {listed}; keep one")
    return found[0] if found else None


def _read_shared(folder: Path, recordings: Iterable[Path]) -> dict[Path, list[Annotation]]:
    """Of the files that name their recordings, the annotations of each."""
    found: defaultdict[Path, list[Annotation]] = defaultdict(list)
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for path in recordings:
        by_name[path.name].append(path)
    for name in SHARED:
        for one in read_annotations(folder / name) if (folder / name).is_file() else []:
            if one.source is None:
                raise DataError(f"{one.where} does not say of which recording it is; add a column source")
            path = folder / one.source
            near = by_name[Path(one.source).name]
            if not path.is_file() and len(near) != 1:
                raise DataError(f"{one.where}: {one.source} is {'not' if not near else 'more than once'} in {folder}")
            found[path if path.is_file() else near[0]].append(one)
    return found


def _parse_table(text: str, separator: str, name: str) -> Iterator[Annotation]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    known = {column.strip().lower(): column for column in rows.fieldnames or []}
    columns = {}
    for what, names in COLUMNS.items():
        chosen = next((known[one] for one in names if one in known), None)
        if chosen is None:
            raise DataError(
                f"{name} has no column for the {what}, such as {names[0]!r}; it has {preview(tuple(known)) or 'none'}"
            )
        columns[what] = chosen
    source = next((known[one] for one in SOURCES if one in known), None)
    seen = set()
    for row in rows:
        where = f"{name} line {rows.line_num}"
        start_s, end_s = (_parse_seconds(row[columns[what]], where) for what in ("start", "end"))
        label = (row[columns["label"]] or "").strip()
        if not label:
            raise DataError(f"{where} has no label; remove the line, or name what sounds")
        found = Annotation(label, start_s, end_s, where, row[source] if source else None)
        if found._replace(where="") not in seen:  # Raven writes a line for each view
            seen.add(found._replace(where=""))
            yield found


def _parse_audacity(text: str, name: str) -> Iterator[Annotation]:
    """``start<tab>end<tab>label``; a line that begins with a backslash has the frequencies of the one before."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        where, fields = f"{name} line {number}", line.split("\t")
        if len(fields) < 3 or not fields[2].strip():
            raise DataError(f"{where} is no label of Audacity: start, end and label, with tabs between them")
        yield Annotation(fields[2].strip(), _parse_seconds(fields[0], where), _parse_seconds(fields[1], where), where)


def _parse_json_lines(text: str, name: str) -> Iterator[Annotation]:
    """Our records; those that are no events are passed over."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            record = json.loads(line)
            if record.get("type", "event") == "event":
                yield Annotation(
                    str(record["label"]), float(record["start_s"]), float(record["end_s"]), where, record.get("source")
                )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{where} is no event: {error!r}; give label, start_s and end_s") from error


def _parse_seconds(text: str | None, where: str) -> float:
    if text is None or not _is_number(text):
        raise DataError(f"{where}: {text!r} is no time in seconds, such as 12.5")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)  # NaN is none
    except ValueError:
        return False
