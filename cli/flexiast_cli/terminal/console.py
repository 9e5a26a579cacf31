"""Printing for every command: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flexiast_cli.terminal.encoding import shows_unicode
from flexiast_runtime.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def stderr() -> Console:
    """The console for progress, notes and warnings."""
    return _create_console(stderr=True)


def stdout() -> Console:
    """The console for tables; a pipe gets plain text, 200 columns wide."""
    console = _create_console()
    return console if console.is_terminal else _create_console(width=200)


def _create_console(**options: Any) -> Console:
    from rich.console import Console

    return Console(highlight=False, **options)


def shows_pictures() -> bool:
    """Whether stdout is a terminal that can move its cursor; it is None where a shell closed it."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def log(text: str) -> None:
    """Print a note on stderr without interpreting markup, because it may hold names of any kind."""
    stderr().print(text, markup=False, soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One JSON object on stdout, with the schema version first."""
    typer.echo(json_line({"schema_version": SCHEMA_VERSION} | document))


def json_line(document: dict[str, Any]) -> str:
    """One JSON object for stdout, in ASCII where that cannot show everything."""
    return json.dumps(document, ensure_ascii=not shows_unicode(sys.stdout))


def track(items: Sequence[T] | Iterable[T], description: str) -> Iterable[T]:
    """The items, with a progress bar on a terminal and nothing elsewhere."""
    from rich.progress import track

    console = stderr()
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


def count_noun(number: int, noun: str, plural: str | None = None) -> str:
    """``1 plan``, ``2 plans``, ``1,000 plans``; irregular plurals are passed as ``plural``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
