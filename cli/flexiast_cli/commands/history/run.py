"""The work of `flexiast history`."""

from __future__ import annotations

import csv
import datetime
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flexiast.errors import UsageError
from flexiast.extras import require
from flexiast.files import check_output
from flexiast_cli.commands.history.chart import Day
from flexiast_cli.commands.history.command import Format, QueryOptions
from flexiast_cli.commands.history.query import build_query, hint_unknown
from flexiast_cli.commands.history.verdicts import print_verdicts
from flexiast_cli.terminal.console import count_noun, json_line, log, stdout
from flexiast_runtime.history.database import default_database
from flexiast_runtime.history.events import Query, labels_and_sources, list_labels, read_events
from flexiast_runtime.schema import SCHEMA_VERSION

COLUMNS = (
    *("started_at", "start_s", "end_s", "label", "score", "source", "patch_size", "id"),
    *("threshold", "bundle_sha256"),
)
"""Columns of the CSV; new ones are added at the end, so that scripts may count on their places."""


def run(
    database: Path | None, options: QueryOptions, form: Format, plot: Path | None, *, verdicts: bool = False
) -> None:
    """Read the events, or the verdicts on them, and print them in the form asked for."""
    if verdicts and plot is not None:
        raise UsageError("--plot draws events, and --verdicts prints how often they were right; give one of them")
    if plot is not None:
        require("matplotlib", "train")
        check_output(plot)
    database = database or default_database()
    query = build_query(options)
    if query.labels:
        hint_unknown(query.labels, list_labels(database))
    if verdicts:
        print_verdicts(database, query, form)
        return
    events = read_events(database, query)
    if plot is not None or form is Format.CHART:
        _print_chart(events, plot)
    elif form is Format.JSONL:
        _print_jsonl(events)
    elif form is Format.JSON:
        _print_json(events)
    elif form is Format.CSV:
        _print_csv(events)
    else:
        _print_table(events, database, query)


def _print_jsonl(events: Iterable[dict[str, Any]]) -> None:
    for event in events:
        sys.stdout.write(json_line(event) + "\n")


def _print_csv(events: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(events)


def _print_json(events: Iterable[dict[str, Any]]) -> None:
    """One document, written as its events come."""
    begin = f'{{"schema_version": {json.dumps(SCHEMA_VERSION)}, "events": ['
    for event in events:
        sys.stdout.write(begin + json_line(event))
        begin = ", "
    sys.stdout.write((begin if begin != ", " else "") + "]}\n")


def _print_table(events: Iterable[dict[str, Any]], database: Path, query: Query) -> None:
    """A line for each event, as it comes; a query beforehand gives the width of the labels."""
    labels, sources = labels_and_sources(database, query)
    width, several = max(cell_len(label) for label in (*labels, "sound")), len(sources) > 1
    console, number = stdout(), 0

    def line(when: str, seconds: str, label: str, score: str, patch: str, source: str, style: str = "") -> None:
        cells = [
            (f"{when:<24}", style or "dim"),
            (f"{seconds:>7}", style),
            (set_cell_size(label, width), style or "green"),
            (f"{score:>5}", style),
            (f"{patch:<7}" if several else patch, style or "cyan"),
            *([(source, style or "dim")] if several else []),
        ]
        if console.is_terminal:
            console.print(Text("  ").join(Text(*cell) for cell in cells), soft_wrap=True)
        else:  # much faster, and files may be long
            sys.stdout.write("  ".join(text for text, _ in cells).rstrip() + "\n")

    for event in events:
        if not number:
            line("time", "s", "sound", "score", "patch", "source", "bold")
        number += 1
        seconds, score = f"{event['end_s'] - event['start_s']:.1f}", f"{event['score']:.2f}"
        line(describe_time(event), seconds, event["label"], score, event["patch_size"], event["source"])
    log(f"{count_noun(number, 'event')} in {database}")


def describe_time(event: dict[str, Any]) -> str:
    """Local time; with its offset in the hour that comes twice when summer time ends."""
    if event["started_at"] is None:
        return f"at {event['start_s']:.1f} s"
    began = datetime.datetime.fromisoformat(event["started_at"])
    local = began.astimezone()
    naive = local.replace(tzinfo=None)
    twice = naive.replace(fold=0).timestamp() != naive.replace(fold=1).timestamp()
    return local.strftime(f"%a %d %b %Y %H:%M:%S{' %z' if twice else ''}")


def _print_chart(events: Iterable[dict[str, Any]], plot: Path | None) -> None:
    undated = 0

    def select_dated() -> Iterator[tuple[str, datetime.datetime]]:
        nonlocal undated
        for event in events:
            if event["started_at"] is None:
                undated += 1
            else:
                yield event["label"], datetime.datetime.fromisoformat(event["started_at"]).astimezone()

    day = Day.from_events(select_dated())
    if undated:
        log(f"recordings have no time of day: {undated:,} left out")
    if not day.rows:
        log("no event in that time")
    elif plot is not None:
        from flexiast_cli.commands.history.plot import draw  # needs matplotlib

        draw(day, plot)
    else:
        stdout().print(day.chart())
