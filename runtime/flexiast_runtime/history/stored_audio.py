"""All sound of the last hours, as `listen --keep-audio` keeps it: files of some seconds, and any stretch of them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from flexiast.errors import DataError

Float = NDArray[np.float32]

SEGMENT_S = 20.0
"""Seconds of one file. What has just sounded can be read once its file is complete."""
JOINED_S = 0.25
"""Seconds by which a file may be dated beside the end of the one before it: dates follow how audio arrives."""
SEGMENT_NAME = re.compile(r"(?P<when>\d{8}T\d{6}\.\d{3})Z_(?P<source>[0-9a-f]{8})\.flac")
"""What a file is called: UTC of its first sample, and a hash of its source, whose name is in its comment."""
_WHEN = "%Y%m%dT%H%M%S"


class Segment(NamedTuple):
    """A file of unbroken audio of one source."""

    started_at_s: float
    """Unix seconds of its first sample"""
    path: Path


@dataclass(frozen=True)
class Stretch:
    """Audio of one source with some of what was before and after it."""

    source: str
    samples: Float
    rate_hz: int
    started_at_s: float
    """Unix seconds at which the stretch itself begins"""
    start_s: float
    """Where it lies in the samples"""
    end_s: float


def audio_folder(database: Path) -> Path:
    """Where the sound of a database's listeners is kept: ``history.audio`` with ``history.db``."""
    return database.with_suffix(".audio")


def name_segment(source: str, started_at_s: float) -> str:
    """``20261125T152342.500Z_0f1e2d3c.flac``."""
    moment = datetime.datetime.fromtimestamp(round(started_at_s, 3), datetime.timezone.utc)
    return f"{moment:{_WHEN}}.{moment.microsecond // 1000:03d}Z_{_hash_source(source)}.flac"


def render_source(source: str) -> str:
    """A comment for a file that names its source."""
    return json.dumps({"source": source})


def list_sources(folder: Path) -> list[str]:
    """The sources of which sound is kept, sorted; one whose files cannot be read is left out."""
    newest = {_parse_name(path)[1]: path for path in sorted(folder.glob("*.flac")) if _is_segment(path)}
    return sorted(filter(None, map(_read_source, newest.values())))


def find_stored_span(folder: Path, source: str) -> tuple[float, float] | None:
    """Unix seconds at which the kept sound of a source begins and ends; None where there is none."""
    segments = _list_segments(folder, source)
    for newest in reversed(segments):
        if (length_s := _read_length(newest.path)) is not None:
            return segments[0].started_at_s, newest.started_at_s + length_s
    return None


def cut_stretch(folder: Path, source: str, start_s: float, end_s: float, *, context_s: float) -> Stretch:
    """A stretch between two times in Unix seconds, with at most so much before and after it.

    Raises DataError unless all of it is kept without a gap.
    """
    near = [
        one
        for one in _list_segments(folder, source)
        if start_s - context_s - SEGMENT_S - 1 < one.started_at_s < end_s + context_s
    ]
    for started_at_s, samples, rate_hz in _join(near):
        first, last = (round((moment - started_at_s) * rate_hz) for moment in (start_s, end_s))
        tolerated = round(JOINED_S * rate_hz)
        if first < -tolerated or last > len(samples) + tolerated:
            continue
        first, last = max(0, first), min(last, len(samples))
        begin, context = max(0, first - round(context_s * rate_hz)), round(context_s * rate_hz)
        return Stretch(
            source,
            samples[begin : last + context],
            rate_hz,
            start_s,
            (first - begin) / rate_hz,
            (last - begin) / rate_hz,
        )
    raise DataError(_explain_missing(folder, source, start_s, end_s))


def _explain_missing(folder: Path, source: str, start_s: float, end_s: float) -> str:
    first, last = _describe(start_s), _describe(end_s)
    text = f"the sound of {source} from {first} to {last} is not kept"
    if first == last:
        text = f"nothing was kept of {source} at {first}"
    span = find_stored_span(folder, source)
    if span is None:
        return f"{text}; listen with --keep-audio"
    if start_s < span[0] or end_s > span[1]:
        return f"{text}; there is what sounded from {_describe(span[0])} to {_describe(span[1])}"
    return f"{text}: there is a gap, in which the microphone was gone or flexiast did not run; choose another stretch"


def _describe(moment_s: float) -> str:
    """Local time."""
    return f"{datetime.datetime.fromtimestamp(moment_s):%a %d %b %H:%M:%S}"


def _join(segments: list[Segment]) -> Iterator[tuple[float, Float, int]]:
    """When unbroken audio began, its samples and their rate, in the order of time."""
    began_s, pieces, rate = 0.0, list[Float](), 0
    for started_at_s, path in segments:
        try:
            samples, rate_hz = soundfile.read(path, dtype="float32")
        except (soundfile.LibsndfileError, OSError):
            continue  # removed meanwhile, or damaged: a gap
        end_s = began_s + sum(map(len, pieces)) / max(1, rate)
        if pieces and (rate_hz != rate or abs(started_at_s - end_s) > JOINED_S):
            yield began_s, np.concatenate(pieces), rate
            pieces = []
        if not pieces:
            began_s, rate = started_at_s, rate_hz
        pieces.append(samples)
    if pieces:
        yield began_s, np.concatenate(pieces), rate


def _list_segments(folder: Path, source: str) -> list[Segment]:
    """In the order of time."""
    paths = (path for path in folder.glob(f"*_{_hash_source(source)}.flac") if _is_segment(path))
    return sorted(Segment(_parse_name(path)[0], path) for path in paths)


def _is_segment(path: Path) -> bool:
    """A link is none: it may lead anywhere."""
    return SEGMENT_NAME.fullmatch(path.name) is not None and not path.is_symlink()


def _parse_name(path: Path) -> tuple[float, str]:
    """Unix seconds of the first sample, and the hash of the source."""
    found = SEGMENT_NAME.fullmatch(path.name)
    assert found is not None, "only segments are listed"
    moment = datetime.datetime.strptime(found["when"], f"{_WHEN}.%f").replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp(), found["source"]


def _hash_source(source: str) -> str:
    return sha256(source.encode()).hexdigest()[:8]


def _read_source(path: Path) -> str | None:
    try:
        with soundfile.SoundFile(path) as file:
            source = json.loads(file.comment)["source"]
    except (soundfile.LibsndfileError, OSError, ValueError, KeyError, TypeError):
        return None
    return source if isinstance(source, str) else None


def _read_length(path: Path) -> float | None:
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, OSError):
        return None
