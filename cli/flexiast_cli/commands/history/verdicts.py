"""`flexiast history --verdicts`: how often each label was right, with intervals."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexiast.errors import UsageError
from flexiast_cli.commands.history.command import Format
from flexiast_cli.terminal.console import count_noun, json_line, log, print_json, stdout
from flexiast_runtime.history.events import Query
from flexiast_runtime.history.precision import Precision, PrecisionReport, measure_precision
from flexiast_runtime.history.queue import QueueQuery, read_queue
from flexiast_runtime.history.verdicts import read_reviewed

COLUMNS = ("by", "value", "right", "reviewed", "precision", "low", "high")
BAR = 20
"""Characters of an interval's picture"""


def print_verdicts(database: Path, query: Query, form: Format) -> None:
    """Raises UsageError for a form that verdicts have not, DataError for a file that is no such database."""
    if form is Format.CHART:
        raise UsageError("--verdicts has no chart; give --format table, json, jsonl or csv")
    report = measure_precision(read_reviewed(database, query))
    rows = list(_rows(report))
    if form is Format.JSON:
        print_json(report.document())
    elif form is Format.JSONL:
        for row in rows:
            sys.stdout.write(json_line(row) + "\n")
    elif form is Format.CSV:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif report.total is None:
        log(f"no event has a verdict in {database}; give some with `flexiast review`")
    else:
        stdout().print(_draw(report))
        unreviewed = read_queue(database, QueueQuery(query)).unreviewed
        log(
            f"{count_noun(report.total.reviewed, 'verdict')} in {database}, {count_noun(unreviewed, 'event')} without "
            "one; intervals are of 95 %. For a fair figure review all events of a day"
        )


def _rows(report: PrecisionReport) -> Iterator[dict[str, Any]]:
    if report.total is not None:
        yield _row("total", "", report.total)
    for label, one in report.by_label.items():
        yield _row("label", label, one)
    for hour, one in report.by_hour.items():
        yield _row("hour", hour, one)
    for (_, sha256), one in report.by_bundle.items():
        yield _row("bundle_sha256", sha256, one)


def _row(by: str, value: str | int | None, one: Precision) -> dict[str, Any]:
    low, high = one.interval
    figures = (round(one.share, 4), round(low, 4), round(high, 4))
    return dict(zip(COLUMNS, (by, value, one.right, one.reviewed, *figures), strict=True))


def _draw(report: PrecisionReport) -> RenderableType:
    hours = {f"{hour}:00": one for hour, one in report.by_hour.items()}
    parts = [_table("label", report.by_label), _table("hour", hours)]
    if len(report.by_bundle) > 1:
        names = {f"{model or 'unknown'} {(sha256 or '')[:8]}": one for (model, sha256), one in report.by_bundle.items()}
        parts.append(_table("model", names))
    if report.mistaken_for:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_row(Text("reported", "bold"), Text("and was", "bold"), Text("events", "bold"))
        for (label, other), count in report.mistaken_for.items():
            table.add_row(Text(label, "green"), Text(other, "green"), Text(f"{count:,}"))
        parts.append(table)
    return Group(*(line for part in parts if part.row_count for line in (part, Text())))


def _table(what: str, rows: dict[str, Precision]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "right", "right", "left", "left"):
        table.add_column(justify=justify)
    if rows:
        table.add_row(*(Text(name, "bold") for name in (what, "right", "of", "precision", "", "95 %")))
    for name, one in rows.items():
        low, high = one.interval
        table.add_row(
            Text(name, "green"),
            Text(f"{one.right:,}"),
            Text(f"{one.reviewed:,}"),
            Text(f"{100 * one.share:.0f} %", "bold"),
            _interval(low, one.share, high),
            Text(f"{100 * low:.0f} … {100 * high:.0f} %", "dim"),
        )
    return table


def _interval(low: float, share: float, high: float) -> Text:
    """The interval as a line from 0 to 100 %, with a mark at the share."""
    places = range(BAR)
    first, mark, last = (min(BAR - 1, int(value * BAR)) for value in (low, share, high))
    line = Text()
    for place in places:
        if place == mark:
            line.append("█", "green")
        elif first <= place <= last:
            line.append("─", "green")
        else:
            line.append("·", "bright_black")
    return line
