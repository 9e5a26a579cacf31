"""Where the clip of an event lies, and where the event lies in it."""

from __future__ import annotations

import datetime
import json
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import soundfile

from flexiast.errors import DataError
from flexiast_runtime.history.database import open_for_reading

NAME = re.compile(r"(\d{8}T\d{6}Z|\d{7}\.\d{2}s)_[A-Za-z0-9]+(-[A-Za-z0-9]+)*_(?P<id>[0-9a-f]{16})\.flac")
"""What a clip is called; its end is the event's id."""


class Span(NamedTuple):
    """A stretch of a file, in seconds."""

    start_s: float
    end_s: float


def name_clip(label: str, clip_id: str, started_at_s: float | None, start_s: float) -> str:
    """``20261125T152342Z_dog-bark_0123456789abcdef.flac``: UTC, or seconds of a recording; label; 16 hex digits."""
    if started_at_s is None:
        when = f"{start_s:010.2f}s"
    else:
        when = datetime.datetime.fromtimestamp(started_at_s, datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    words = "-".join(re.findall("[A-Za-z0-9]+", label))[:60].rstrip("-") or "sound"
    return f"{when}_{words}_{clip_id}.flac"


def store_clip_folder(connection: sqlite3.Connection, folder: Path) -> None:
    """Write down that clips of this database's events lie in a folder."""
    connection.execute("INSERT OR IGNORE INTO clip_folders (path) VALUES (?)", (str(folder.resolve()),))


def read_clip_folders(path: Path) -> tuple[Path, ...]:
    """Every folder into which listeners that write this database cut clips; raises DataError."""
    with open_for_reading(path) as connection:
        return tuple(Path(folder) for (folder,) in connection.execute("SELECT path FROM clip_folders ORDER BY path"))


def list_clips(folders: Iterable[Path]) -> dict[str, Path]:
    """The clips in folders, by their event's id. One that cannot be listed holds none; links are no clips."""
    found = {}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = NAME.fullmatch(entry.name)
                    if name and entry.is_file(follow_symlinks=False):
                        found[name["id"]] = Path(entry.path)
        except OSError:
            continue
    return found


def render_span(span: Span) -> str:
    """A comment for a clip's file that says where in it the event lies."""
    return json.dumps({"start_s": round(span.start_s, 4), "end_s": round(span.end_s, 4)})


def read_span(clip: Path) -> Span:
    """Where the event lies in its clip; all of it for a clip that does not say. Raises DataError."""
    try:
        with soundfile.SoundFile(clip) as file:
            seconds, comment = file.frames / file.samplerate, file.comment
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{clip} cannot be read: {error}; it is left out") from error
    try:
        span = Span(**json.loads(comment))
        within = 0 <= span.start_s < span.end_s <= seconds + 0.01
    except (ValueError, TypeError):
        within = False
    return Span(span.start_s, min(span.end_s, seconds)) if within else Span(0.0, seconds)
