"""``flexiast history``: what was heard, from the database that ``listen --to sqlite`` writes."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

COLUMNS = ("began_at", "start_s", "end_s", "label", "score", "source", "patch_size", "id")
"""Of the CSV; new ones are added at the end."""


class Format(str, Enum):
    """How events are printed."""

    TABLE = "table"
    CHART = "chart"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def history(
    database: Annotated[
        Path | None,
        typer.Argument(metavar="[DATABASE]", help="A file that listen wrote.", show_default="the user's own"),
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="This sound only; may be repeated.", show_default=False)
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="This source only; may be repeated.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="From then on: 24h, 7d, 2026-11-25 or 2026-11-25T14:30.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before then; written as for --since.")] = None,
    form: Annotated[
        Format, typer.Option("--format", help="chart counts by label and time of day; the others list events.")
    ] = Format.TABLE,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the chart into a picture (PNG) instead; needs matplotlib.")
    ] = None,
) -> None:
    """Show what was heard, the oldest first; times are local."""
    from flexiast.extras import require
    from flexiast.files import check_output
    from flexiast_cli.console import print_json, say
    from flexiast_runtime.history import Query, default_database, heard_labels, read_events

    if plot is not None:
        require("matplotlib", "train")
        check_output(plot)
    now = datetime.datetime.now(datetime.timezone.utc)
    query = Query(
        tuple(labels or ()), tuple(sources or ()), _moment(since, "--since", now), _moment(until, "--until", now)
    )
    database = database or default_database()
    _hint(query.labels, heard_labels(database) if query.labels else ())
    events = read_events(database, query)
    if plot is not None or form is Format.CHART:
        _show_day(list(events), plot)
    elif form is Format.JSONL:
        _print_jsonl(events)
    elif form is Format.JSON:
        print_json({"events": list(events)})
    elif form is Format.CSV:
        _print_csv(events)
    else:
        found = list(events)
        _print_table(found)
        say(f"{len(found):,} {'event' if len(found) == 1 else 'events'} in {database}")


def _hint(labels: Iterable[str], heard: Sequence[str]) -> None:
    """For labels that never occurred, a word on stderr about those that nearly are called so."""
    import difflib

    from flexiast.data import preview
    from flexiast_cli.console import say

    for label in labels:
        if heard and label not in heard:
            near = difflib.get_close_matches(label, heard, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {preview(heard)}"
            say(f"{label!r} was never heard; {hint}")


def _moment(text: str | None, option: str, now: datetime.datetime) -> float | None:
    """A time ago, or a local date with or without time → Unix seconds."""
    from flexiast.errors import UsageError
    from flexiast_runtime.units import duration

    if text is None:
        return None
    try:
        return now.timestamp() - duration(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text).timestamp()  # a naive one is local
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text!r} is no time; give 24h, 7d, a date as 2026-11-25 or a time as 2026-11-25T14:30"
        ) from None


def _print_jsonl(events: Iterable[dict[str, Any]]) -> None:
    from flexiast_cli.console import json_line

    for event in events:
        sys.stdout.write(json_line(event) + "\n")


def _print_csv(events: Iterable[dict[str, Any]]) -> None:
    import csv

    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(events)


def _print_table(events: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from flexiast_cli.console import stdout

    several = len({event["source"] for event in events}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("heard", "s", "sound", "score", "patch", *(["source"] if several else [])):
        table.add_column(name, justify="right" if name in {"s", "score"} else "left")
    for event in events:
        cells = (
            Text(_when(event), "dim"),
            Text(f"{event['end_s'] - event['start_s']:.1f}"),
            Text(event["label"], "green"),
            Text(f"{event['score']:.2f}"),
            Text(event["patch_size"], "cyan"),
            Text(event["source"], "dim"),
        )
        table.add_row(*(cells if several else cells[:-1]))
    if events:
        stdout().print(table)


def _when(event: dict[str, Any]) -> str:
    """Local time; its zone tells the two 02:30s of the night in which summer time ends apart."""
    if event["began_at"] is None:
        return f"at {event['start_s']:.1f} s"
    return datetime.datetime.fromisoformat(event["began_at"]).astimezone().strftime("%a %d %b %Y %H:%M:%S %Z")


def _show_day(events: list[dict[str, Any]], plot: Path | None) -> None:
    from flexiast_cli.console import say, stdout
    from flexiast_cli.day import Day

    dated = [event for event in events if event["began_at"] is not None]
    if undated := len(events) - len(dated):
        say(f"recordings have no time of day: {undated:,} left out")
    day = Day.of((event["label"], datetime.datetime.fromisoformat(event["began_at"]).astimezone()) for event in dated)
    if not day.rows:
        say("nothing was heard in that time")
    elif plot is not None:
        day.draw(plot)
    else:
        stdout().print(day.chart())
