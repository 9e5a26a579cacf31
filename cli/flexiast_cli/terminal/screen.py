"""The live screen: what is detected, at which patch size and why."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flexiast.text import printable
from flexiast_cli.terminal.console import count_noun, stderr
from flexiast_cli.terminal.encoding import preserve_widths
from flexiast_cli.terminal.notes import Notes
from flexiast_cli.terminal.panes import Pane
from flexiast_runtime.detection.records import (
    EngineFailure,
    Event,
    Overload,
    Record,
    SourceNotice,
    Status,
    Summary,
    Switch,
)
from flexiast_runtime.governor.types import Policy

if TYPE_CHECKING:
    from flexiast_runtime.hardware.battery import Battery

REDRAW_S = 0.1
"""At most ten pictures a second."""
MAX_LINES = 6
HIGHEST = 14
"""Lines for one source on a terminal that has room for more."""
SWITCH = 22
"""Columns of a switch without its reason."""


class Screen:
    """Draws records as they come, on a terminal of any size."""

    def __init__(self, title: Callable[[], str], note: str = "", console: Console | None = None) -> None:
        """``title`` is asked for each picture: the model may have been swapped."""
        self._title, self._note = title, note
        self._console = console or Console(highlight=False)
        self._panes: dict[str, Pane] = {}
        self._events: deque[Event] = deque(maxlen=MAX_LINES)
        self._switches: deque[Switch] = deque(maxlen=MAX_LINES)
        self._notes = Notes()

    def show(self, records: Iterator[Record]) -> None:
        """Draw the records to their end, then leave the last picture, the notes and the summary."""
        summaries = []
        drawn = time.monotonic()
        try:
            # Drawn between windows: a thread that draws by itself would make the latencies shown longer.
            with (
                preserve_widths(),
                redirect_stderr(self._notes),
                Live(
                    self._picture(),
                    console=self._console,
                    screen=True,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=False,
                ) as live,
            ):
                for record in records:
                    if isinstance(record, Summary):
                        summaries.append(record)
                        continue
                    if isinstance(record, EngineFailure):
                        print_failure(record, several=len(self._panes) > 1)  # on stderr, which the notes hold
                        continue
                    if isinstance(record, Overload):
                        print_overload(record, several=len(self._panes) > 1)
                        continue
                    self._update(record)
                    if isinstance(record, SourceNotice) or time.monotonic() - drawn >= REDRAW_S:
                        drawn = time.monotonic()
                        live.update(self._picture(), refresh=True)
        finally:
            with preserve_widths():
                self._console.print(self._picture())
            self._notes.repeat()
        for summary in summaries:
            print_summary(summary, self._console, several=len(summaries) > 1)

    def _update(self, record: Event | Switch | Status | SourceNotice) -> None:
        self._panes.setdefault(record.source, Pane(record.source)).update(record)
        if isinstance(record, Event):
            self._events.append(record)
        elif isinstance(record, Switch):
            self._switches.append(record)
            for pane in self._panes.values():  # the sources share the controller, so a switch is one for all
                pane.update(record)

    def _picture(self) -> RenderableType:
        width, height = self._console.size.width - 2, self._console.size.height
        note = Text(self._notes.last or self._note, "yellow" if self._notes.last else "dim italic")
        below = 1 + len(note.wrap(self._console, width)) if note and height >= 20 else 0
        panes, gap = list(self._panes.values()), [Text()] * (height >= 20)
        several = len(panes) > 1
        lines = min(max(height // (7 if several else 5), 2), MAX_LINES)
        around = 2 + several + lines + below + (1 + max(len(panes), 1)) * len(gap)
        each = (height - around) // max(len(panes), 1)
        parts = [self._render_heading()]
        if several:  # they share the controller: one line for all
            parts.append(next((pane for pane in panes if pane.status is not None), panes[0]).size())
        parts += gap
        if not panes:
            parts += [Text("waiting for the first window …", "dim"), *gap]
        for pane in panes:
            parts += [pane.draw(width, min(each, HIGHEST), alone=not several), *gap]
        parts += [self._render_recent(width, lines)]
        parts += [*gap, note] if below else []
        return Padding(Group(*parts), (0, 1))

    def _render_heading(self) -> RenderableType:
        grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(no_wrap=True)
        statuses = [pane.status for pane in self._panes.values() if pane.status is not None]
        grid.add_row(Text(printable(self._title()), "bold green"), _machine(statuses[0]) if statuses else Text())
        return grid

    def _render_recent(self, width: int, lines: int) -> RenderableType:
        """The last events and, where there is room, the last switches next to them."""
        several = len(self._panes) > 1
        rows = [_event(event, several=several) for event in list(self._events)[-lines:]]
        most = max(74, width - 45) if several else max(54, width // 2)
        needed = sum(2 + max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)) - 2
        side = min(max(needed, 36), most) + 2
        if width - side < SWITCH:
            side = width
        events = _lines("events", [_fit_to_window(row, rows, side - 2 * (side < width)) for row in rows], lines)
        if side == width:
            return Group(*events)
        switches = [_switch(switch, width - side) for switch in self._switches]
        grid = Table.grid()
        grid.add_column(width=side)
        grid.add_column(width=width - side)
        for left, right in zip(events, _lines("switches", switches, lines), strict=True):
            grid.add_row(left, right)
        return grid


def _event(event: Event, *, several: bool) -> list[Text]:
    """When, how long, what, its score and, where there are several, its source."""
    source = [Text(printable(event.source), "dim")] if several else []
    when, long = f"{event.start_s:.1f}–{event.end_s:.1f} s", []
    if event.started_at_s is not None:
        began = datetime.fromtimestamp(event.started_at_s)
        when = f"{began:%H:%M:%S}" if began.date() == datetime.now().date() else f"{began:%d %b %H:%M}"
        long = [Text(f"{event.end_s - event.start_s:.1f} s".rjust(6), "dim")]
    return [Text(when, "dim"), *long, Text(printable(event.label)), Text(f"{event.score:.2f}", "green"), *source]


def _fit_to_window(row: list[Text], rows: list[list[Text]], width: int) -> Text:
    """One event in columns as wide as the rows need; if that is too wide, shorten the source, then the label."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    label = next(place for place, cell in enumerate(row) if not cell.style)
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0 and label + 2 < len(widths):
        given = min(over, max(widths[-1] - max(width // 5, 8), 0))
        widths[-1] -= given
        over -= given
    widths[label] = max(widths[label] - max(over, 0), 1)
    row[0].align("right", widths[0])
    return _columns(row, widths)


def _switch(switch: Switch, width: int) -> Text:
    """When, from which size to which and, where there is room for some words, why."""
    row = [Text(f"{switch.time_s:.1f} s".rjust(7), "dim"), Text(f"{switch.before} → {switch.after}")]
    widths = [cell.cell_len for cell in row]
    if (room := width - sum(widths) - 4) >= 12:
        row.append(Text(printable(switch.reason), "yellow"))
        widths.append(room)
    return _columns(row, widths)


def _columns(row: list[Text], widths: list[int]) -> Text:
    for cell, width in zip(row, widths, strict=True):
        cell.truncate(width, overflow="ellipsis", pad=True)
    return Text("  ", no_wrap=True, overflow="crop").join(row)


def _lines(title: str, rows: list[Text], count: int) -> list[Text]:
    """The title and always ``count`` lines, so that the picture keeps its height."""
    shown = rows[-count:] or [Text("none yet", "dim")]
    return [Text(title, "bold"), *shown, *[Text()] * (count - len(shown))]


def _machine(status: Status) -> Text:
    """Thermal headroom and battery, if known."""
    room = status.thermal_headroom_c
    heat = (
        None
        if room is None
        else Text.assemble((f"{room:.0f} K", "red" if room < Policy.hot_headroom_c else ""), (" to throttling", "dim"))
    )
    known = (heat, None if status.battery is None else _battery(status.battery))
    return Text("   ").join(text for text in known if text is not None)


def _battery(battery: Battery) -> Text:
    style = "red" if battery.discharging and battery.fraction < 0.2 else ""
    return Text.assemble(
        ("battery ", "dim"), (f"{battery.fraction:.0%} {'draining' if battery.discharging else 'plugged in'}", style)
    )


def print_lines(records: Iterator[Record], *, explain: bool, several: bool) -> None:
    """Print for pipes and logs: a line for each event on stdout; source notices, switches and the summary on stderr.

    Where there are several sources, each line names its own.
    """
    for record in records:
        if isinstance(record, Event):
            line = f"{record.start_s:10.2f} {record.end_s:10.2f}  {record.score:.2f}  {record.label}  {record.patch}"
            typer.echo(f"{line}  {printable(record.source)}" if several else line)
        elif isinstance(record, Switch) and explain:
            print_switch(record, several=several)
        elif isinstance(record, SourceNotice):
            print_notice(record)
        elif isinstance(record, EngineFailure):
            print_failure(record, several=several)
        elif isinstance(record, Overload):
            print_overload(record, several=several)
        elif isinstance(record, Summary):
            print_summary(record, several=several)


def print_switch(switch: Switch, *, several: bool) -> None:
    """One switch and its reason, on stderr."""
    _note(switch, f"{switch.before} → {switch.after}: {switch.reason}", named=several)


def print_notice(notice: SourceNotice) -> None:
    """A lost or recovered source, on stderr."""
    _note(notice, f"{notice.state}: {notice.reason}", named=True)


def print_failure(failure: EngineFailure, *, several: bool) -> None:
    """An engine that failed, on stderr."""
    _note(failure, f"the engine of {failure.patch} failed and is not used for now: {failure.reason}", named=several)


def print_overload(overload: Overload, *, several: bool) -> None:
    """The deadline is missed even by the cheapest size; on stderr."""
    latency = f"{1000 * overload.latency_s:.1f} of {1000 * overload.deadline_s:.1f} ms"
    text = f"even {overload.patch}, the cheapest patch size, misses the deadline: {latency}"
    _note(overload, text, named=several)


def _note(record: Switch | SourceNotice | EngineFailure | Overload, text: str, *, named: bool) -> None:
    source = f"{record.source} " if named else ""
    typer.echo(printable(f"{record.time_s:10.2f} s  {source}{text}"), err=True)


def print_summary(summary: Summary, console: Console | None = None, *, several: bool) -> None:
    """Totals of the run and the cost of each variant."""
    console = console or stderr()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "windows", "misses", "p50 ms", "p95 ms", "CPU s"):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for use in summary.variants:
        table.add_row(
            str(use.patch),
            f"{use.windows:,}",
            f"{use.misses:,}",
            f"{1000 * use.latency_p50_s:.2f}",
            f"{1000 * use.latency_p95_s:.2f}",
            f"{use.cpu_s:.2f}",
        )
    source = f"{printable(summary.source)}: " if several else ""
    share = summary.cpu_s / summary.audio_s if summary.audio_s else 0.0
    console.print(
        f"\n{source}{summary.audio_s:.1f} s of audio, {count_noun(summary.windows, 'window')} "
        f"({summary.skipped:,} not run), {count_noun(summary.events, 'event')}, "
        f"{count_noun(summary.switches, 'switch', 'switches')}; deadline missed {count_noun(summary.misses, 'time')} "
        f"({summary.miss_rate:.1%}), {summary.dropped_s:.1f} s lost; "
        f"{summary.cpu_s:.2f} s of CPU in all, {share:.1%} of real time\n",
        markup=False,
        soft_wrap=not console.is_terminal,
    )
    console.print(table)
    if summary.overloads:
        console.print(f"\nEven the cheapest patch size was too slow {count_noun(summary.overloads, 'time')}.")
