"""``flexiast history``: the events in the database that ``listen --to sqlite`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from flexiast_cli.options.grouping import ungroup


class Format(str, Enum):
    """How events are printed."""

    TABLE = "table"
    CHART = "chart"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True)
class QueryOptions:
    """Which events are shown."""

    labels: Annotated[
        list[str] | None, typer.Option("--label", help="This sound only; may be repeated.", show_default=False)
    ] = None
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="This source only; may be repeated.", show_default=False)
    ] = None
    since: Annotated[
        str | None, typer.Option("--since", help="From then on: 24h, 7d, 14:30, 2026-11-25 or 2026-11-25T14:30.")
    ] = None
    until: Annotated[str | None, typer.Option("--until", help="Before then; written as for --since.")] = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The newest so many only.", show_default="all")
    ] = None


@ungroup
def history(
    database: Annotated[
        Path | None,
        typer.Argument(metavar="[DATABASE]", help="A file that listen wrote.", show_default="the user's own"),
    ] = None,
    *,
    query: QueryOptions,
    form: Annotated[
        Format, typer.Option("--format", help="chart counts by label and time of day; the others list events.")
    ] = Format.TABLE,
    verdicts: Annotated[
        bool,
        typer.Option("--verdicts", help="How often each label was right, by the verdicts of flexiast review."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the chart into a picture (PNG) instead; needs matplotlib.")
    ] = None,
) -> None:
    """Show detected events, the oldest first; times are local."""
    from flexiast_cli.commands.history.run import run

    run(database, query, form, plot, verdicts=verdicts)
