"""``flexiast history``: what was heard, from the database that ``listen --to sqlite`` writes."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flexiast_runtime.history import Query

COLUMNS = ("started_at", "start_s", "end_s", "label", "score", "source", "patch_size", "id")
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
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The newest so many only.", show_default="all")
    ] = None,
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
    from flexiast_runtime.history import Query, default_database, list_labels, read_events

    if plot is not None:
        require("matplotlib", "train")
        check_output(plot)
    now = datetime.datetime.now(datetime.timezone.utc)
    query = Query(
        tuple(labels or ()),
        tuple(sources or ()),
        _moment(since, "--since", now),
        _moment(until, "--until", now),
        limit,
    )
    database = database or default_database()
    _hint(query.labels, list_labels(database) if query.labels else ())
    events = read_events(database, query)
    if plot is not None or form is Format.CHART:
        _show_day(events, plot)
    elif form is Format.JSONL:
        _print_jsonl(events)
    elif form is Format.JSON:
        _print_json(events)
    elif form is Format.CSV:
        _print_csv(events)
    else:
        _print_table(events, database, query)


def _hint(labels: Iterable[str], heard: Sequence[str]) -> None:
    """For labels that never occurred, a word on stderr about those that nearly are called so."""
    import difflib

    from flexiast.text import preview
    from flexiast_cli.terminal.console import say

    for label in labels:
        if heard and label not in heard:
            near = difflib.get_close_matches(label, heard, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {preview(heard)}"
            say(f"{label!r} was never heard; {hint}")


def _moment(text: str | None, option: str, now: datetime.datetime) -> float | None:
    """A time ago, or a local date with or without time → Unix seconds."""
    from flexiast.errors import UsageError
    from flexiast_runtime.units import parse_duration

    if text is None:
        return None
    try:
        return now.timestamp() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text).timestamp()  # a naive one is local
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text!r} is no time; give 24h, 7d, a date as 2026-11-25 or a time as 2026-11-25T14:30"
        ) from None


def _print_jsonl(events: Iterable[dict[str, Any]]) -> None:
    from flexiast_cli.terminal.console import json_line

    for event in events:
        sys.stdout.write(json_line(event) + "\n")


def _print_csv(events: Iterable[dict[str, Any]]) -> None:
    import csv

    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(events)


def _print_json(events: Iterable[dict[str, Any]]) -> None:
    """One document, written as its events come."""
    from flexiast_cli.terminal.console import json_line
    from flexiast_runtime.schema import SCHEMA_VERSION

    begin = f'{{"schema_version": {json.dumps(SCHEMA_VERSION)}, "events": ['
    for event in events:
        sys.stdout.write(begin + json_line(event))
        begin = ", "
    sys.stdout.write((begin if begin != ", " else "") + "]}\n")


def _print_table(events: Iterable[dict[str, Any]], database: Path, query: Query) -> None:
    """A line for each event, as it comes: widths are those of the labels, which are asked for beforehand."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    from flexiast_cli.terminal.console import count_noun, say, stdout
    from flexiast_runtime.history import labels_and_sources

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
            line("heard", "s", "sound", "score", "patch", "source", "bold")
        number += 1
        seconds, score = f"{event['end_s'] - event['start_s']:.1f}", f"{event['score']:.2f}"
        line(_when(event), seconds, event["label"], score, event["patch_size"], event["source"])
    say(f"{count_noun(number, 'event')} in {database}")


def _when(event: dict[str, Any]) -> str:
    """Local time; with its offset in the hour that comes twice when summer time ends."""
    if event["started_at"] is None:
        return f"at {event['start_s']:.1f} s"
    began = datetime.datetime.fromisoformat(event["started_at"])
    local = began.astimezone()
    naive = local.replace(tzinfo=None)
    twice = naive.replace(fold=0).timestamp() != naive.replace(fold=1).timestamp()
    return local.strftime(f"%a %d %b %Y %H:%M:%S{' %z' if twice else ''}")


def _show_day(events: Iterable[dict[str, Any]], plot: Path | None) -> None:
    from flexiast_cli.commands.history.chart import Day
    from flexiast_cli.terminal.console import say, stdout

    undated = 0

    def dated() -> Iterator[tuple[str, datetime.datetime]]:
        nonlocal undated
        for event in events:
            if event["started_at"] is None:
                undated += 1
            else:
                yield event["label"], datetime.datetime.fromisoformat(event["started_at"]).astimezone()

    day = Day.from_events(dated())
    if undated:
        say(f"recordings have no time of day: {undated:,} left out")
    if not day.rows:
        say("nothing was heard in that time")
    elif plot is not None:
        day.draw(plot)
    else:
        stdout().print(day.chart())
