"""Which events a database holds: queries, and the events themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexiast_runtime.detection.records import upgrade_event
from flexiast_runtime.history.database import open_for_reading


@dataclass(frozen=True)
class Query:
    """Which events, or marks, are meant: those of any of the labels and sources, all for none, in a span of time."""

    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    since_s: float | None = None
    """Unix seconds at which an event begins at the earliest; leaves recordings out"""
    until_s: float | None = None
    """Unix seconds before which it begins; leaves recordings out"""
    limit: int | None = None
    """The newest so many; all for None"""

    def select(self, columns: str, table: str = "events") -> tuple[str, list[Any]]:
        """A selection of these columns as SQL, and its values."""
        where, values = self._where()
        if self.limit is None:
            return f"SELECT {columns} FROM {table} WHERE {where}", values
        order = "ORDER BY started_at_s DESC, rowid DESC LIMIT ?"
        return f"SELECT * FROM (SELECT {columns} FROM {table} WHERE {where} {order})", [*values, self.limit]

    def select_named(self, columns: str) -> tuple[str, dict[str, Any]]:
        """The same for a statement whose other values have names."""
        sql, values = self.select(columns)
        parts = sql.split("?")
        named = "".join(f"{part}:chosen_{number}" for number, part in enumerate(parts[:-1])) + parts[-1]
        return named, {f"chosen_{number}": value for number, value in enumerate(values)}

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
    with open_for_reading(path) as connection:
        for document, *_ in connection.execute(f"{sql} ORDER BY started_at_s, place", values):
            yield upgrade_event(json.loads(document))


def labels_and_sources(path: Path, query: Query = Query()) -> tuple[set[str], set[str]]:
    """Those of the events that are meant; raises as ``read_events`` does."""
    sql, values = query.select("label, source")
    with open_for_reading(path) as connection:
        pairs = connection.execute(f"SELECT DISTINCT label, source FROM ({sql})", values).fetchall()
    return {label for label, _ in pairs}, {source for _, source in pairs}


def list_labels(path: Path) -> list[str]:
    """Every label that ever occurred, sorted; raises as ``read_events`` does."""
    with open_for_reading(path) as connection:
        return [label for (label,) in connection.execute("SELECT DISTINCT label FROM events ORDER BY label")]
