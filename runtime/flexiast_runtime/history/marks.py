"""Sounds that were missed: a person says what sounded when, and the audio of it stays."""

from __future__ import annotations

import secrets
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from flexiast.errors import DataError, UsageError
from flexiast.files import write_atomically
from flexiast.spec import check_label
from flexiast_runtime.audio.flac import encode_flac
from flexiast_runtime.history.clips import Span, name_clip, render_span
from flexiast_runtime.history.database import check_exists, open_for_reading, open_for_writing
from flexiast_runtime.history.events import Query
from flexiast_runtime.history.stored_audio import Stretch

CONTEXT_S = 2.0
"""Seconds before and after a sound that are stored with it"""
SHORTEST_S, LONGEST_S = 0.1, 60.0
"""Of a mark: all of its stretch is learnt as its label"""


@dataclass(frozen=True)
class Mark:
    """A sound that no event reported."""

    id: str
    source: str
    label: str
    started_at_s: float
    """Unix seconds at which it began"""
    audio: str
    """Name of its file in the folder of marks"""
    start_s: float
    """Where it lies in that file"""
    end_s: float
    marked_at_s: float
    """Unix seconds"""
    reviewer: str


def marks_folder(database: Path) -> Path:
    """Where the audio of a database's marks lies: ``history.marks`` with ``history.db``."""
    return database.with_suffix(".marks")


def mark_sound(path: Path, label: str, stretch: Stretch, *, reviewer: str, now_s: float | None = None) -> Mark:
    """Store that a label sounded in a stretch of kept audio, which is copied into the folder of marks.

    Raises UsageError for a label that cannot be, and what ``open_for_writing`` raises; then no file is left.
    """
    try:
        check_label(label)
    except ValueError as error:
        raise UsageError(str(error)) from None
    mark_id = secrets.token_hex(8)
    name = name_clip(label, mark_id, stretch.started_at_s, 0.0)
    now_s = time.time() if now_s is None else now_s
    spans = round(stretch.start_s, 4), round(stretch.end_s, 4)
    mark = Mark(mark_id, stretch.source, label, stretch.started_at_s, name, *spans, now_s, reviewer)
    columns = "id, source, label, started_at_s, audio, start_s, end_s, marked_at_s, reviewer"
    audio = marks_folder(path) / name
    check_exists(path)
    audio.parent.mkdir(mode=0o700, exist_ok=True)  # what is said in a room is for its owner only
    write_atomically(audio, encode_flac(stretch.samples, stretch.rate_hz, render_span(Span(*spans))))
    try:
        with open_for_writing(path) as connection:
            connection.execute(f"INSERT INTO marks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(mark))
    except BaseException:
        audio.unlink()
        raise
    return mark


def read_marks(path: Path, query: Query = Query()) -> list[Mark]:
    """Those that a query means, in the order of their time; raises DataError."""
    columns = "id, source, label, started_at_s, audio, start_s, end_s, marked_at_s, reviewer"
    sql, values = query.select(columns, "marks")
    with open_for_reading(path) as connection:
        return [Mark(*row) for row in connection.execute(f"{sql} ORDER BY started_at_s, id", values)]


def remove_mark(path: Path, mark_id: str) -> None:
    """Forget a mark and its audio; raises DataError for one that is not there."""
    with open_for_writing(path) as connection:
        found = connection.execute("SELECT audio FROM marks WHERE id = ?", (mark_id,)).fetchone()
        if found is None:
            raise DataError(f"{path} holds no mark {mark_id}; `flexiast review marks` lists them")
        connection.execute("DELETE FROM marks WHERE id = ?", (mark_id,))
    (marks_folder(path) / Path(found[0]).name).unlink(missing_ok=True)
