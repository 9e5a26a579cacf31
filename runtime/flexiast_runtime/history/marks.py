"""Sounds that were missed: a person says what sounded when, and the audio of it stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexiast.errors import DataError, UsageError
from flexiast.spec import check_label
from flexiast_runtime.history.database import open_for_reading, open_for_writing


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


def add_mark(path: Path, mark: Mark) -> None:
    """Store a mark whose audio lies in the folder of marks.

    Raises UsageError for a label that cannot be, and what ``open_for_writing`` raises.
    """
    try:
        check_label(mark.label)
    except ValueError as error:
        raise UsageError(str(error)) from None
    row = (mark.id, mark.source, mark.label, mark.started_at_s, mark.audio, mark.start_s, mark.end_s)
    columns = "(id, source, label, started_at_s, audio, start_s, end_s, marked_at_s, reviewer)"
    with open_for_writing(path) as connection:
        values = (*row, mark.marked_at_s, mark.reviewer)
        connection.execute(f"INSERT INTO marks {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def read_marks(path: Path) -> list[Mark]:
    """In the order of their time; raises DataError."""
    columns = "id, source, label, started_at_s, audio, start_s, end_s, marked_at_s, reviewer"
    with open_for_reading(path) as connection:
        return [Mark(*row) for row in connection.execute(f"SELECT {columns} FROM marks ORDER BY started_at_s, id")]


def remove_mark(path: Path, mark_id: str) -> None:
    """Forget a mark and its audio; raises DataError for one that is not there."""
    with open_for_writing(path) as connection:
        found = connection.execute("SELECT audio FROM marks WHERE id = ?", (mark_id,)).fetchone()
        if found is None:
            raise DataError(f"{path} holds no mark {mark_id}")
        connection.execute("DELETE FROM marks WHERE id = ?", (mark_id,))
    (marks_folder(path) / Path(found[0]).name).unlink(missing_ok=True)
