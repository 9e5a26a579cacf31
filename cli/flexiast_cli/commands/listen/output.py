"""What `listen` prints: a screen, lines or JSON on stdout, notes on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import typer

from flexiast_cli.terminal.console import json_line, log, shows_pictures, stderr
from flexiast_cli.terminal.interrupts import StopRequest, yield_until_reader_stalls
from flexiast_runtime.audio.capture import Capture, stop
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Record, Status, Switch

if TYPE_CHECKING:
    from flexiast_cli.web.server import WebPage

STATUS_EVERY_S = 1.0
"""Seconds of audio between two status records of a source in JSON."""

Printer = Callable[[Iterator[Record]], None]


def choose_printer(*, as_json: bool, explain: bool, several: bool, title: Callable[[], str], note: str) -> Printer:
    """JSON if asked for, a picture where the terminal can show one, else lines."""
    if as_json and not explain:
        return print_jsonl
    # rich: a tenth of the start-up, which JSON needs not
    from flexiast_cli.terminal.screen import Screen, print_lines, print_switch

    if as_json:
        return lambda records: print_jsonl(records, partial(print_switch, several=several))

    if shows_pictures():
        return lambda records: Screen(title, note).show(records)
    return lambda records: print_lines(records, explain=explain, several=several)


def print_jsonl(records: Iterator[Record], explain: Callable[[Switch], None] | None = None) -> None:
    """A line for each record; of statuses one per source and ``STATUS_EVERY_S``. ``explain`` prints each switch too."""
    next_status_s: dict[str, float] = {}  # by source: their time lines differ
    for record in records:
        if isinstance(record, Status):
            if record.time_s < next_status_s.get(record.source, 0.0):
                continue
            next_status_s[record.source] = record.time_s + STATUS_EVERY_S
        typer.echo(json_line(record.document()))
        if explain is not None and isinstance(record, Switch):
            explain(record)


def print_records(
    records: Iterator[Record],
    printer: Printer,
    captures: Sequence[Capture],
    request: StopRequest,
    *,
    live: bool,
) -> None:
    """Print as fast as stdout is read; when its reader goes, stop capturing and let the sinks have the rest."""
    try:
        printer(yield_until_reader_stalls(records, request, live=live))
    except BrokenPipeError:
        stop(captures)
        for _ in records:
            pass
        raise


def announce(title: str | None, page: WebPage | None) -> None:
    """Print on stderr that listening begins, once nothing can refuse any more."""
    if title is not None:
        stderr().print(title, style="dim", markup=False)
    if page is not None:
        log(f"the page is at {page.url}")


def report_ineffective_cascade(classifiers: Sequence[StreamClassifier]) -> None:
    """Print which labels kept every window running, once for all sources."""
    if labels := dict.fromkeys(filter(None, (classifier.busiest_label for classifier in classifiers))):
        log(
            f"every window was run: all the time something may have been an event, mostly {', '.join(labels)}; "
            "raise its threshold, or leave it out with --deny"
        )
