"""Which event to listen to next: those that teach most come first."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from flexiast_runtime.detection.rules import THRESHOLD
from flexiast_runtime.history.database import open_for_reading
from flexiast_runtime.history.events import Query
from flexiast_runtime.history.verdicts import ReviewedEvent, build_reviewed_event


class Order(str, Enum):
    """In which order events are shown."""

    LEAST_SURE = "least-sure"
    """Near the threshold, and of labels with few verdicts; every second one of a label is its surest"""
    NEWEST = "newest"
    OLDEST = "oldest"


class Reviewed(str, Enum):
    """Whether events with a verdict are shown."""

    NO = "no"
    YES = "yes"
    ANY = "any"


@dataclass(frozen=True)
class QueueQuery:
    """Which events are shown, and in which order."""

    query: Query = Query()
    reviewed: Reviewed = Reviewed.NO
    order: Order = Order.LEAST_SURE
    min_score: float = 0.0
    max_score: float = 1.0
    with_clip: Collection[str] | None = None
    """Only events of these ids, whose clips are there; all for None"""


@dataclass(frozen=True)
class Queue:
    """Events to listen to."""

    events: tuple[ReviewedEvent, ...]
    unreviewed: int
    """Of all that the query means, those without a verdict"""
    reviewed: int


_CHOSEN = """
WITH chosen AS (
    SELECT found.*, verdicts.verdict, verdicts.label AS true_label, decided_at_s, reviewer, model
    FROM ({found}) AS found
    LEFT JOIN verdicts ON verdicts.event_id = found.id
    LEFT JOIN bundles ON bundles.sha256 = found.bundle_sha256
    WHERE score BETWEEN :min_score AND :max_score {with_clip}
)
"""
# The least sure event of each label comes first, then the surest of each, then the second least sure, and so on. A
# label that is often reported does not hide a rare one, and a mistake that the model is sure of is heard, too:
# docs/benchmarks/place.md. A label's verdicts so far count as if its events had been shown.
_LEAST_SURE = """
, given AS (
    SELECT events.label, count(*) AS number FROM verdicts JOIN events ON events.id = verdicts.event_id
    GROUP BY events.label
), ranked AS (
    SELECT chosen.*, coalesce(given.number, 0) AS number,
        (score - coalesce(threshold, :threshold)) / max(1e-6, 1 - coalesce(threshold, :threshold)) AS margin
    FROM chosen LEFT JOIN given ON given.label = chosen.label
    WHERE {shown}
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY label ORDER BY margin, place) AS least,
        row_number() OVER (PARTITION BY label ORDER BY margin DESC, place DESC) AS surest
    FROM ranked
)
SELECT {columns} FROM placed
ORDER BY number + CASE number % 2 WHEN 0 THEN min(2 * least - 1, 2 * surest) ELSE min(2 * surest - 1, 2 * least) END,
    margin, place
"""
_BY_TIME = " SELECT {columns} FROM chosen WHERE {shown} ORDER BY started_at_s {direction}, place {direction}"
_SHOWN = {Reviewed.NO: "verdict IS NULL", Reviewed.YES: "verdict IS NOT NULL", Reviewed.ANY: "1"}
_COLUMNS = "document, model, verdict, true_label, decided_at_s, reviewer"


def read_queue(path: Path, wanted: QueueQuery = QueueQuery()) -> Queue:
    """The events to show next, at most as many as the query's limit; raises DataError."""
    unlimited, limit = replace(wanted.query, limit=None), wanted.query.limit
    columns = "id, label, started_at_s, score, document, threshold, bundle_sha256, rowid AS place"
    found, values = unlimited.select_named(columns)
    with_clip = "" if wanted.with_clip is None else "AND id IN (SELECT value FROM json_each(:ids))"
    values |= {"min_score": wanted.min_score, "max_score": wanted.max_score, "threshold": THRESHOLD}
    values |= {"ids": json.dumps(list(wanted.with_clip or ())), "limit": -1 if limit is None else limit}
    chosen = _CHOSEN.format(found=found, with_clip=with_clip)
    shown = {"columns": _COLUMNS, "shown": _SHOWN[wanted.reviewed]}
    if wanted.order is Order.LEAST_SURE:
        listed = _LEAST_SURE.format(**shown)
    else:
        listed = _BY_TIME.format(**shown, direction="DESC" if wanted.order is Order.NEWEST else "ASC")
    with open_for_reading(path) as connection:
        counts = f"{chosen} SELECT count(*) - count(verdict), count(verdict) FROM chosen"
        unreviewed, reviewed = connection.execute(counts, values).fetchone()
        rows = connection.execute(f"{chosen}{listed} LIMIT :limit", values).fetchall()
    return Queue(tuple(build_reviewed_event(row, path) for row in rows), unreviewed, reviewed)


def read_neighbours(path: Path, event: dict[str, Any], span_s: float = 30.0) -> list[ReviewedEvent]:
    """Events of the same source that began within so many seconds of this one, in order; none for recordings."""
    sql = (
        "SELECT other.document, model, verdict, verdicts.label, decided_at_s, reviewer FROM events AS this"
        " JOIN events AS other ON other.source = this.source AND other.id <> this.id"
        " AND other.started_at_s BETWEEN this.started_at_s - :span AND this.started_at_s + :span"
        " LEFT JOIN verdicts ON verdicts.event_id = other.id"
        " LEFT JOIN bundles ON bundles.sha256 = other.bundle_sha256"
        " WHERE this.id = :id ORDER BY other.started_at_s"
    )
    with open_for_reading(path) as connection:
        rows = connection.execute(sql, {"id": event["id"], "span": span_s}).fetchall()
    return [build_reviewed_event(row, path) for row in rows]
