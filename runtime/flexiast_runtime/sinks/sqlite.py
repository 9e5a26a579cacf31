"""A database of events, which `flexiast history` reads."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from flexiast.errors import DataError, SinkDownError, SinkError
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.history.clips import store_clip_folder
from flexiast_runtime.history.database import LOCKED_S, default_database, prepare
from flexiast_runtime.history.verdicts import store_bundle
from flexiast_runtime.sinks.sink import RunContext, file_error

PASSING = {5, 6, 13}
"""SQLITE_BUSY, SQLITE_LOCKED and SQLITE_FULL"""
_INSERT = (
    "INSERT OR IGNORE INTO events (id, source, label, started_at_s, score, document, threshold, bundle_sha256)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class SqliteHistory:
    """Stores events, each once by its id; what was acknowledged is on the disk."""

    def __init__(self, path: Path | None = None) -> None:
        """``path``: the user's own database for None."""
        self.path = path or default_database()
        self.name = f"sqlite:{self.path}"

    def open(self, context: RunContext) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened here and used by the outbox's thread, one after the other.
            self._connection = sqlite3.connect(self.path, timeout=LOCKED_S, check_same_thread=False)
            with ExitStack() as on_failure:
                on_failure.callback(self._connection.close)
                prepare(self._connection, self.path)
                self._models, self._known = context.models, set[str | None]()
                with self._connection:
                    for folder in context.clip_folders:
                        store_clip_folder(self._connection, folder)
                on_failure.pop_all()
        except OSError as error:
            raise file_error(error, f"{self.path.parent} cannot be made: {error.strerror}; name another") from error
        except DataError as error:
            raise SinkError(str(error)) from error
        except sqlite3.Error as error:
            kind = SinkDownError if _passes(error) else SinkError
            raise kind(f"{self.path} cannot be used as a database of events: {error}; name another") from error

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, event: Event) -> None:
        document = json.dumps(event.document(), ensure_ascii=False)
        row = (event.id, event.source, event.label, event.started_at_s, event.score, document)
        values = (*row, event.threshold, event.bundle_sha256)
        try:
            with self._connection:
                self._connection.execute(_INSERT, values)
                self._store_bundle(event.bundle_sha256)
            self._known.add(event.bundle_sha256)
        except sqlite3.OperationalError as error:  # locked, full, read-only: may pass
            raise SinkDownError(f"{self.path}: {error}") from error
        except sqlite3.Error as error:
            raise SinkError(f"{self.path}: {error}") from error

    def close(self) -> None:
        self._connection.close()

    def _store_bundle(self, sha256: str | None) -> None:
        """Once for each bundle; a listener may change its bundle while it runs."""
        if sha256 is not None and sha256 not in self._known and (model := self._models.get(sha256)) is not None:
            store_bundle(self._connection, sha256, model.name, model.labels)


def _passes(error: sqlite3.Error) -> bool:
    """Whether the database is only busy or its disk full: primary result codes of SQLite, in the low byte."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python before 3.11 gives the text only
        return any(word in str(error) for word in ("locked", "full"))
    return code & 0xFF in PASSING
