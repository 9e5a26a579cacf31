"""The database of events: its schema, its default path, and queries."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexiast.errors import DataError, SinkError
from flexiast.paths import data_folder
from flexiast_runtime.detection.records import upgrade_event

VERSION = 2
"""Schema of the tables. Version 1 called the column ``began_at_s``; a database of a later version is refused."""
_TABLES = (
    "CREATE TABLE schema_version (version INTEGER NOT NULL)",
    f"INSERT INTO schema_version VALUES ({VERSION})",
    # started_at_s is in Unix seconds, NULL for recordings; document is the whole event as JSON.
    "CREATE TABLE events (id TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT NOT NULL, started_at_s REAL,"
    " score REAL NOT NULL, document TEXT NOT NULL)",
    "CREATE INDEX events_by_time ON events (started_at_s)",
)

_VIEW_OF_VERSION_1 = (
    "CREATE TEMP VIEW events AS"
    " SELECT rowid AS rowid, id, source, label, began_at_s AS started_at_s, score, document FROM main.events"
)
"""Hides the table of a database that is only read, so that every query finds the columns of today."""


def default_database() -> Path:
    """In the user's data folder."""
    return data_folder() / "history.db"


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new database, upgrade those of version 1; raises SinkError for a later version.

    Stored documents stay as they were written: `read_events` gives all of them the keys of today.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # of two programs that begin together one waits
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _TABLES:
                connection.execute(statement)
        version = _version(connection)
        if version == 1:
            connection.execute("ALTER TABLE events RENAME COLUMN began_at_s TO started_at_s")
            connection.execute("UPDATE schema_version SET version = 2")
            version = 2
    if version != VERSION:
        raise SinkError(f"{path} has schema {version}, this flexiast writes {VERSION}; name another file")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an acknowledged event also survives a power cut


def _version(connection: sqlite3.Connection) -> int | None:
    return connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]


@dataclass(frozen=True)
class Query:
    """Which events are meant: those of any of the labels and sources, all for none, in a span of time."""

    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    since_s: float | None = None
    """Unix seconds at which an event begins at the earliest; leaves recordings out"""
    until_s: float | None = None
    """Unix seconds before which it begins; leaves recordings out"""
    limit: int | None = None
    """The newest so many; all for None"""

    def select(self, columns: str) -> tuple[str, list[Any]]:
        """A selection of these columns as SQL, and its values."""
        where, values = self._where()
        if self.limit is None:
            return f"SELECT {columns} FROM events WHERE {where}", values
        order = "ORDER BY started_at_s DESC, rowid DESC LIMIT ?"
        return f"SELECT * FROM (SELECT {columns} FROM events WHERE {where} {order})", [*values, self.limit]

    def _where(self) -> tuple[str, list[Any]]:
        parts: list[tuple[str, Sequence[Any]]] = []
        for column, names in (("label", self.labels), ("source", self.sources)):
            if names:
                parts.append((f"{column} IN ({','.join('?' * len(names))})", names))
        if self.since_s is not None:
            parts.append(("started_at_s >= ?", (self.since_s,)))
        if self.until_s is not None:
            parts.append(("started_at_s < ?", (self.until_s,)))
        return " AND ".join(text for text, _ in parts) or "1", [value for _, values in parts for value in values]


def read_events(path: Path, query: Query = Query()) -> Iterator[dict[str, Any]]:
    """Documents of events in the order of their time; recordings first, in the order they were stored.

    One at a time: a year of them needs no more memory than a day. Raises DataError for a file that is no such database.
    """
    sql, values = query.select("document, started_at_s, rowid AS place")
    with _open_for_reading(path) as connection:
        for document, *_ in connection.execute(f"{sql} ORDER BY started_at_s, place", values):
            yield upgrade_event(json.loads(document))


def labels_and_sources(path: Path, query: Query = Query()) -> tuple[set[str], set[str]]:
    """Those of the events that are meant; raises as ``read_events`` does."""
    sql, values = query.select("label, source")
    with _open_for_reading(path) as connection:
        pairs = connection.execute(f"SELECT DISTINCT label, source FROM ({sql})", values).fetchall()
    return {label for label, _ in pairs}, {source for _, source in pairs}


def list_labels(path: Path) -> list[str]:
    """Every label that ever occurred, sorted; raises as ``read_events`` does."""
    with _open_for_reading(path) as connection:
        return [label for (label,) in connection.execute("SELECT DISTINCT label FROM events ORDER BY label")]


@contextmanager
def _open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist; `flexiast listen --to sqlite:{path}` writes one")
        with _connect_read_only(path.resolve()) as connection:
            version = _version(connection)
            if version == 1:
                connection.execute(_VIEW_OF_VERSION_1)
            elif version != VERSION:
                raise DataError(f"{path} has schema {version}, this flexiast reads {VERSION}; update flexiast")
            yield connection
    except (sqlite3.DatabaseError, OSError) as error:
        raise DataError(f"{path} cannot be read as a database of events: {error}") from error


@contextmanager
def _connect_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, also where nothing may be written: on a read-only disk, as another user.

    SQLite reads a database with a write-ahead log by an index file (-shm), which it creates where there is none.
    Where it may not, nobody writes the database either: with an empty log the file alone is read, as it is; else a copy
    of it and its log, for in the log are the newest events.
    """
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            _version(connection)
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
        else:
            yield connection
            return
    log = path.with_name(f"{path.name}-wal")
    if not (log.exists() and log.stat().st_size):
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="flexiast-history-") as folder:
        copy = Path(folder) / path.name
        for one in (path, log):
            shutil.copyfile(one, copy.with_name(one.name))
        with closing(sqlite3.connect(copy)) as connection:
            yield connection
