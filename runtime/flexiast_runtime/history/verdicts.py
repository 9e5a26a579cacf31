"""What people say of events: whether each was right, and what it was if not."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from flexiast.errors import ChangedError, DataError, UsageError
from flexiast.spec import check_label
from flexiast_runtime.detection.records import upgrade_event
from flexiast_runtime.history.database import open_for_reading, open_for_writing
from flexiast_runtime.history.events import Query


class Verdict(str, Enum):
    """What a person who listened to an event says of it."""

    RIGHT = "right"
    """It was what the model said."""
    WRONG = "wrong"
    """It was not that; what it was is left open."""
    OTHER = "other"
    """It was another label, which is given."""
    NOTHING = "nothing"
    """No sound of interest at all"""


@dataclass(frozen=True)
class Judgement:
    """A verdict, and who gave it when."""

    verdict: Verdict
    label: str | None
    """What it was: the event's label for right, another for other, None where it was no label"""
    decided_at_s: float
    """Unix seconds"""
    reviewer: str

    def document(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "label": self.label,
            "decided_at_s": self.decided_at_s,
            "reviewer": self.reviewer,
        }

    def __str__(self) -> str:
        what = f"{self.verdict.value}: {self.label}" if self.verdict is Verdict.OTHER else self.verdict.value
        return f"{what}, said by {self.reviewer}"


@dataclass(frozen=True)
class ReviewedEvent:
    """An event with what was said of it."""

    event: dict[str, Any]
    """Its document, with the keys of today"""
    judgement: Judgement | None
    model: str | None
    """Name of the model that gave it, None where that was not stored"""

    @property
    def bundle_sha256(self) -> str | None:
        sha256: str | None = self.event["bundle_sha256"]
        return sha256


def give_verdict(
    path: Path,
    event_id: str,
    verdict: Verdict,
    label: str | None = None,
    *,
    reviewer: str,
    instead_of: Judgement | None,
    now_s: float | None = None,
) -> Judgement:
    """Store a verdict on an event and return it with its time.

    ``instead_of`` is the one that the reviewer saw; where another is stored, ChangedError says so, and nothing changes.
    ``label`` is given for ``OTHER`` only. Raises UsageError for a label that cannot be, DataError for an event that is
    not in the database, and what ``open_for_writing`` raises.
    """
    label = _check(verdict, label)
    with open_for_writing(path) as connection:
        found = connection.execute("SELECT label FROM events WHERE id = ?", (event_id,)).fetchone()
        if found is None:
            raise DataError(f"{path} holds no event {event_id}; was it removed, or is it of another database?")
        if verdict is Verdict.RIGHT:
            (label,) = found
        elif label == found[0]:
            raise UsageError(f"{label!r} is what the model said: that is the verdict `right`")
        _check_unchanged(_read_one(connection, event_id), instead_of)
        judgement = Judgement(verdict, label, time.time() if now_s is None else now_s, reviewer)
        row = (event_id, verdict.value, label, judgement.decided_at_s, reviewer)
        columns = "(event_id, verdict, label, decided_at_s, reviewer)"
        connection.execute(f"INSERT OR REPLACE INTO verdicts {columns} VALUES (?, ?, ?, ?, ?)", row)
    return judgement


def withdraw_verdict(path: Path, event_id: str, *, instead_of: Judgement | None) -> None:
    """Remove the verdict on an event; raises as ``give_verdict``."""
    with open_for_writing(path) as connection:
        _check_unchanged(_read_one(connection, event_id), instead_of)
        connection.execute("DELETE FROM verdicts WHERE event_id = ?", (event_id,))


def read_verdicts(path: Path) -> dict[str, Judgement]:
    """By the id of their event; raises DataError."""
    with open_for_reading(path) as connection:
        rows = connection.execute("SELECT event_id, verdict, label, decided_at_s, reviewer FROM verdicts").fetchall()
    return {event_id: parse_judgement(values, path) for event_id, *values in rows}


def read_reviewed(path: Path, query: Query = Query()) -> Iterator[ReviewedEvent]:
    """The events that have a verdict, in the order of their time; raises DataError."""
    sql, values = query.select("id, document, bundle_sha256, started_at_s, rowid AS place")
    joined = (
        f"SELECT document, model, verdict, verdicts.label, decided_at_s, reviewer FROM ({sql}) AS chosen"
        " JOIN verdicts ON verdicts.event_id = chosen.id LEFT JOIN bundles ON bundles.sha256 = chosen.bundle_sha256"
        " ORDER BY chosen.started_at_s, chosen.place"
    )
    with open_for_reading(path) as connection:
        for row in connection.execute(joined, values):
            yield build_reviewed_event(row, path)


def find_event(path: Path, event_id: str) -> ReviewedEvent:
    """One event with what was said of it; raises DataError for one that is not in the database."""
    sql = (
        "SELECT document, model, verdict, verdicts.label, decided_at_s, reviewer FROM events"
        " LEFT JOIN verdicts ON verdicts.event_id = events.id"
        " LEFT JOIN bundles ON bundles.sha256 = events.bundle_sha256 WHERE events.id = ?"
    )
    with open_for_reading(path) as connection:
        row = connection.execute(sql, (event_id,)).fetchone()
    if row is None:
        raise DataError(f"{path} holds no event {event_id}; was it removed, or is it of another database?")
    return build_reviewed_event(row, path)


def build_reviewed_event(row: Sequence[Any], path: Path) -> ReviewedEvent:
    """From the columns document, model, verdict, label, decided_at_s, reviewer."""
    document, model, *judgement = row
    event = upgrade_event(json.loads(document))
    return ReviewedEvent(event, None if judgement[0] is None else parse_judgement(judgement, path), model)


def find_reviewed(path: Path, event_ids: Sequence[str]) -> set[str]:
    """Those of the events that have a verdict; raises DataError."""
    with open_for_reading(path) as connection:
        rows = connection.execute(
            "SELECT event_id FROM verdicts WHERE event_id IN (SELECT value FROM json_each(?))", (json.dumps(event_ids),)
        ).fetchall()
    return {event_id for (event_id,) in rows}


def store_bundle(connection: sqlite3.Connection, sha256: str, model: str, labels: Sequence[str]) -> None:
    """Write down which model a hash is, and what it knows."""
    row = (sha256, model, json.dumps(list(labels), ensure_ascii=False))
    connection.execute("INSERT OR IGNORE INTO bundles (sha256, model, labels) VALUES (?, ?, ?)", row)


@dataclass(frozen=True)
class KnownBundle:
    """A bundle that gave events."""

    sha256: str
    model: str
    """As the user named it"""
    labels: tuple[str, ...]


def read_bundles(path: Path) -> dict[str, KnownBundle]:
    """Every bundle that gave events, by its hash; the last one that was used first comes last. Raises DataError."""
    with open_for_reading(path) as connection:
        rows = connection.execute("SELECT sha256, model, labels FROM bundles ORDER BY rowid").fetchall()
    return {row[0]: _build_bundle(*row) for row in rows}


def find_last_bundle(path: Path) -> KnownBundle | None:
    """The bundle that gave the last event; without events the last one that was used first. Raises DataError."""
    last = "SELECT bundle_sha256 FROM events WHERE bundle_sha256 IS NOT NULL ORDER BY rowid DESC LIMIT 1"
    sql = f"SELECT sha256, model, labels FROM bundles ORDER BY sha256 = ({last}) DESC, rowid DESC LIMIT 1"
    with open_for_reading(path) as connection:
        row = connection.execute(sql).fetchone()
    return None if row is None else _build_bundle(*row)


def _build_bundle(sha256: str, model: str, labels: str) -> KnownBundle:
    return KnownBundle(sha256, model, tuple(json.loads(labels)))


def _check(verdict: Verdict, label: str | None) -> str | None:
    if (verdict is Verdict.OTHER) != (label is not None):
        raise UsageError(f"the verdict {verdict.value!r} and the label {label!r} do not fit; `other` alone has one")
    try:
        return None if label is None else check_label(label)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_unchanged(stored: Judgement | None, seen: Judgement | None) -> None:
    if stored != seen:
        now = "has no verdict any more" if stored is None else f"meanwhile has the verdict {stored}"
        raise ChangedError(f"the event {now}; look at it again")


def _read_one(connection: sqlite3.Connection, event_id: str) -> Judgement | None:
    sql = "SELECT verdict, label, decided_at_s, reviewer FROM verdicts WHERE event_id = ?"
    row = connection.execute(sql, (event_id,)).fetchone()
    return None if row is None else parse_judgement(row, None)


def parse_judgement(values: Sequence[Any], path: Path | None) -> Judgement:
    """From the columns verdict, label, decided_at_s, reviewer; raises DataError for a verdict that is not known."""
    verdict, label, decided_at_s, reviewer = values
    try:
        return Judgement(Verdict(verdict), label, decided_at_s, reviewer)
    except ValueError:
        place = path or "the database"
        text = f"{place} holds the verdict {verdict!r}, which this flexiast does not know; update flexiast"
        raise DataError(text) from None
