"""The database of events, verdicts and marks: its tables, its default path, and how it is opened."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flexiast.errors import DataError, LockedError
from flexiast.paths import data_folder

VERSION = 3
"""Schema of the tables. Version 1 called a column ``began_at_s``, 2 knew no verdicts; a later one is refused."""
NO_INDEX = ("unable to open", "readonly", "disk I/O error", "disk is full")
"""In SQLite's errors where its index file could not be written; the last two on a full disk"""
LOCKED_S = 2.0
"""Seconds that a program waits for another's write"""
_EVENTS = (
    # started_at_s is in Unix seconds, NULL for recordings; document is the whole event as JSON.
    "CREATE TABLE events (id TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT NOT NULL, started_at_s REAL,"
    " score REAL NOT NULL, document TEXT NOT NULL, threshold REAL, bundle_sha256 TEXT)",
    "CREATE INDEX events_by_time ON events (started_at_s)",
)
_REVIEW = (
    # labels is a JSON list
    "CREATE TABLE bundles (sha256 TEXT PRIMARY KEY, model TEXT NOT NULL, labels TEXT NOT NULL)",
    "CREATE TABLE clip_folders (path TEXT PRIMARY KEY)",
    # verdict is right, wrong, other or nothing; label is what it was, NULL but for right and other
    "CREATE TABLE verdicts (event_id TEXT PRIMARY KEY REFERENCES events (id), verdict TEXT NOT NULL, label TEXT,"
    " decided_at_s REAL NOT NULL, reviewer TEXT NOT NULL)",
    # a sound that was missed; audio is a file's name in the folder of marks, start_s and end_s its place in it
    "CREATE TABLE marks (id TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT NOT NULL, started_at_s REAL NOT NULL,"
    " audio TEXT NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, marked_at_s REAL NOT NULL,"
    " reviewer TEXT NOT NULL)",
)
_UPGRADES = {
    1: ("ALTER TABLE events RENAME COLUMN began_at_s TO started_at_s",),
    2: ("ALTER TABLE events ADD COLUMN threshold REAL", "ALTER TABLE events ADD COLUMN bundle_sha256 TEXT", *_REVIEW),
}
"""From each earlier version to the next"""


def _hide_earlier_tables(version: int) -> tuple[str, ...]:
    """What stands before the tables of a database that is only read: every query finds the columns of today."""
    started = "began_at_s" if version == 1 else "started_at_s"
    view = (
        "CREATE TEMP VIEW events AS SELECT rowid AS rowid, id, source, label,"
        f" {started} AS started_at_s, score, document, NULL AS threshold, NULL AS bundle_sha256 FROM main.events"
    )
    return view, *(statement.replace("CREATE TABLE", "CREATE TEMP TABLE", 1) for statement in _REVIEW)


def default_database() -> Path:
    """In the user's data folder."""
    return data_folder() / "history.db"


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new database, upgrade those of an earlier version; raises DataError for a later one.

    Stored documents stay as they were written: `read_events` gives all of them the keys of today.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # of two programs that begin together one waits
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            connection.execute("INSERT INTO schema_version VALUES (?)", (VERSION,))
            for statement in (*_EVENTS, *_REVIEW):
                connection.execute(statement)
        version = _version(connection)
        while version in _UPGRADES:
            for statement in _UPGRADES[version]:
                connection.execute(statement)
            version += 1
            connection.execute("UPDATE schema_version SET version = ?", (version,))
    if version != VERSION:
        raise DataError(f"{path} has schema {version}, this flexiast writes {VERSION}; name another file")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged also survives a power cut


def _version(connection: sqlite3.Connection) -> int | None:
    return connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]


@contextmanager
def open_for_writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a database that exists; what raises inside leaves it as it was.

    Raises LockedError while another program writes for longer than ``LOCKED_S``, DataError for a file that is no such
    database or may not be written.
    """
    try:
        check_exists(path)
        with closing(sqlite3.connect(path, timeout=LOCKED_S)) as connection:
            prepare(connection, path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
    except (sqlite3.DatabaseError, OSError) as error:
        if "locked" in str(error):
            raise LockedError(f"another program is writing {path}; try again in a moment") from error
        raise DataError(f"{path} cannot be written as a database of events: {error}") from error


def check_exists(path: Path) -> None:
    """Raise DataError for a database that is not there."""
    if not path.is_file():
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the file of a database, such as {path / 'history.db'}")
        raise DataError(f"{path} does not exist; `flexiast listen --to sqlite:{path}` writes one")


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing.

    Raises DataError for a file that is no such database, LockedError where another program holds it for itself alone.
    """
    try:
        check_exists(path)
        with _connect_read_only(path.resolve()) as connection:
            version = _version(connection)
            if version in _UPGRADES:
                for statement in _hide_earlier_tables(version):
                    connection.execute(statement)
            elif version != VERSION:
                raise DataError(f"{path} has schema {version}, this flexiast reads {VERSION}; update flexiast")
            yield connection
    except (sqlite3.DatabaseError, OSError) as error:
        if "locked" in str(error):
            raise LockedError(f"another program holds {path}; end it, or try again in a moment") from error
        if "no such table: schema_version" in str(error):
            raise DataError(f"{path} is no database of events; `flexiast listen --to sqlite:…` writes one") from error
        raise DataError(f"{path} cannot be read as a database of events: {error}") from error


@contextmanager
def _connect_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, also where nothing can be written: on a full or read-only disk, as another user.

    SQLite reads a database with a write-ahead log by an index file (-shm), which it creates where there is none.
    Where it cannot, nobody writes the database either: with an empty log the file alone is read, as it is; else a copy
    of it and its log, for in the log are the newest events.
    """
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCKED_S)) as connection:
        try:
            _version(connection)
        except sqlite3.OperationalError as error:
            if not any(reason in str(error) for reason in NO_INDEX):
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
