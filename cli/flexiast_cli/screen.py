"""The live screen: one calm picture of what is heard, at which patch size and why."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flexiast.errors import printable
from flexiast_cli.console import counted, stderr
from flexiast_runtime.records import Event, Record, Status, Summary, Switch

if TYPE_CHECKING:
    from flexiast_runtime.power import Battery

BAR = 28
KEPT_LINES = 6
REDRAW_S = 0.1


class Screen:
    """Shows records as they come; on a terminal of any width."""

    def __init__(self, title: str, note: str = "", console: Console | None = None) -> None:
        self._title, self._note = printable(title), note
        self._console = console or Console(highlight=False)
        self._status: Status | None = None
        self._events: deque[Event] = deque(maxlen=KEPT_LINES)
        self._switches: deque[Switch] = deque(maxlen=KEPT_LINES)

    def show(self, records: Iterator[Record]) -> None:
        """Follow the records to their end, then print the summary below the picture."""
        summary = None
        drawn = time.monotonic()
        # Drawn between windows: a thread that draws by itself would make the latencies shown longer.
        with Live(self._picture(), console=self._console, auto_refresh=False) as live:
            for record in records:
                if isinstance(record, Status):
                    self._status = record
                elif isinstance(record, Event):
                    self._events.append(record)
                elif isinstance(record, Switch):
                    self._switches.append(record)
                elif isinstance(record, Summary):
                    summary = record
                if time.monotonic() - drawn >= REDRAW_S:
                    drawn = time.monotonic()
                    live.update(self._picture(), refresh=True)
            live.update(self._picture(), refresh=True)
        if summary is not None:
            print_summary(summary, self._console)

    def _picture(self) -> RenderableType:
        status = self._status
        if status is None:
            return Panel(
                Text("waiting for the first window …", style="dim"),
                title=Text(self._title),
                title_align="left",
                border_style="dim",
            )
        parts: list[RenderableType] = [_state(status), Text(), _scores(status), Text()]
        columns = Table.grid(expand=True, padding=(0, 2))
        columns.add_column(width=38)
        columns.add_column(ratio=1)
        columns.add_row(Text("events", style="bold"), Text("switches", style="bold"))
        columns.add_row(self._event_lines(), self._switch_lines())
        parts.append(columns)
        if self._note:
            parts += [Text(), Text(self._note, style="dim italic")]
        return Panel(Group(*parts), title=Text(self._title), title_align="left", border_style="green")

    def _event_lines(self) -> RenderableType:
        return _lines(
            (
                Text(f"{event.start_s:.1f}–{event.end_s:.1f} s", "dim"),
                Text(event.label),
                Text(f"{event.score:.2f}", "green"),
            )
            for event in self._events
        )

    def _switch_lines(self) -> RenderableType:
        return _lines(
            (
                Text(f"{switch.time_s:.1f} s", "dim"),
                Text(f"{switch.before} → {switch.after}"),
                Text(switch.reason, "yellow"),
            )
            for switch in self._switches
        )


def _lines(rows: Iterable[tuple[Text, Text, Text]]) -> RenderableType:
    """Three columns, as many lines as are ever shown, so that the picture keeps its height."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        grid.add_row(*row)
    if not grid.row_count:
        grid.add_row(Text("none yet", "dim"))
    while grid.row_count < KEPT_LINES:
        grid.add_row()
    return grid


def _state(status: Status) -> RenderableType:
    share = min(status.latency_s / status.deadline_s, 1.0)
    colour = "red" if status.latency_s > status.deadline_s else "yellow" if share > 0.8 else "green"
    latency, deadline = f"{1000 * status.latency_s:.1f}", f"{1000 * status.deadline_s:.1f} ms"
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        Text.assemble(("time ", "dim"), f"{status.time_s:.1f} s"),
        Text.assemble(("patch ", "dim"), (f"{status.patch}", "bold cyan")),
        Text.assemble(("latency ", "dim"), (latency, colour), " of ", deadline),
        Text.assemble(("battery ", "dim"), _battery(status.battery)),
        Text.assemble(("silent ", "dim"), f"{status.skipped:,}") if status.skipped else Text(),
        Text.assemble(("lost ", "dim"), f"{status.dropped_s:.1f} s") if status.dropped_s else Text(),
    )
    return grid


def _battery(battery: Battery | None) -> str:
    if battery is None:
        return "none"
    return f"{battery.fraction:.0%} {'draining' if battery.discharging else 'plugged in'}"


def _scores(status: Status) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=24, no_wrap=True, overflow="ellipsis")
    for label, score in status.top:
        style = "bold green" if label in status.active else "dim"
        filled = round(BAR * score)
        bar = Text.assemble(("━" * filled, style), ("─" * (BAR - filled), "bright_black"))
        grid.add_row(Text(label, style=style), bar, Text(f"{score:.2f}", style=style))
    return grid


def print_lines(records: Iterator[Record], *, explain: bool) -> None:
    """For pipes and logs: a line for each event on stdout, switches and the summary on stderr."""
    for record in records:
        if isinstance(record, Event):
            typer.echo(
                f"{record.start_s:10.2f} {record.end_s:10.2f}  {record.score:.2f}  {record.label}  {record.patch}"
            )
            sys.stdout.flush()
        elif isinstance(record, Switch) and explain:
            print_switch(record)
        elif isinstance(record, Summary):
            print_summary(record)


def print_switch(switch: Switch) -> None:
    """One switch and its reason, on stderr."""
    typer.echo(f"{switch.time_s:10.2f} s  {switch.before} → {switch.after}: {switch.reason}", err=True)


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """What the run heard and what each variant cost."""
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
    share = summary.cpu_s / summary.audio_s if summary.audio_s else 0.0
    console.print(
        f"\n{summary.audio_s:.1f} s of audio, {counted(summary.windows, 'window')} ({summary.skipped:,} silent), "
        f"{counted(summary.events, 'event')}, {counted(summary.switches, 'switch', 'switches')}; "
        f"deadline missed {counted(summary.misses, 'time')} ({summary.miss_rate:.1%}), "
        f"{summary.dropped_s:.1f} s lost; {summary.cpu_s:.2f} s of CPU in all, {share:.1%} of real time\n",
        soft_wrap=not console.is_terminal,
    )
    console.print(table)
