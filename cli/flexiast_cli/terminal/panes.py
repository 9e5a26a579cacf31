"""One source's part of the screen: its state, its spectrogram, and the labels detected in it."""

from __future__ import annotations

from collections import deque

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexiast.text import printable
from flexiast_cli.spectrogram import Spectrogram
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import Record, SourceNotice, Status, Switch

FLOOR_DBFS = -60.0
"""Where the level meter begins."""
SHORTEST_BAR = 12
"""Columns of a score and its bar, next to a long label."""
HOLD_S = 2.0
"""Seconds that a meter keeps its highest peak."""


class Pane:
    """Follows one source."""

    def __init__(self, source: str) -> None:
        self.source = printable(source)
        self.status: Status | None = None
        self._switch: Switch | None = None
        self._notice: SourceNotice | None = None
        self._spectrogram = Spectrogram()
        self._peaks: deque[tuple[float, float]] = deque()
        self._name_width = 0

    def update(self, record: Record) -> None:
        if isinstance(record, Status):
            self.status = record
            self._spectrogram.push(record.frames)
            if record.signal is not None:
                self._peaks.append((record.time_s, record.signal.peak_dbfs))
                while self._peaks[0][0] < record.time_s - HOLD_S:
                    self._peaks.popleft()
        elif isinstance(record, Switch):
            self._switch = record
        elif isinstance(record, SourceNotice):
            self._notice = record

    def draw(self, width: int, height: int, *, alone: bool) -> RenderableType:
        """``height`` lines: state, reason for the patch size if it is ``alone``, spectrogram next to scores."""
        parts: list[RenderableType] = [self._state(width)]
        if self._notice is not None and self._notice.state in {"lost", "no signal"}:
            parts.append(Text(printable(self._notice.reason), "yellow", no_wrap=True, overflow="ellipsis"))
        elif alone:
            parts.append(self.size())
        if (rest := height - len(parts)) > 0:
            side = min(46, width * 9 // 20)
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(width=width - side - 2)
            grid.add_column(width=side)
            grid.add_row(self._spectrogram.with_height(rest), self._render_side(side, rest))
            parts.append(grid)
        return Group(*parts)

    def _state(self, width: int) -> RenderableType:
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(no_wrap=True)
        grid.add_row(Text(self.source, "bold"), self._signal(24 if width >= 90 else 12))
        return grid

    def _signal(self, width: int) -> Text:
        if self._notice is not None and self._notice.state == "lost":
            return Text(" LOST ", "bold white on red")
        if self.status is None:
            return Text("waiting for the first window …", "dim")
        if self.status.signal is None:
            return Text(f"{self.status.time_s:.1f} s", "dim")
        silent = self._notice is not None and self._notice.state == "no signal"
        warning = Text(" NO SIGNAL ", "bold black on yellow") if silent else Text()
        return Text.assemble(warning, " ", self._level(self.status.signal, width))

    def _level(self, signal: Signal, width: int) -> Text:
        held = max(peak for _, peak in self._peaks)
        style = "red" if held >= -0.1 else "yellow" if held > -6 else "green"
        meter = bar(_level_share(signal.level_dbfs), width, style, mark=_level_share(held))
        return Text.assemble(meter, f" {signal.level_dbfs:4.0f} dBFS")

    def size(self) -> Text:
        """The patch size and why it runs."""
        if self.status is None:
            return Text()
        patch = self.status.patch if self._switch is None else self._switch.after
        why = "from the start"
        if self._switch is not None:
            why = f"since {self._switch.time_s:.1f} s: {printable(self._switch.reason)}"
        return Text.assemble(
            ("patch ", "dim"), (f"{patch}", "bold cyan"), (f" {why}", "dim"), no_wrap=True, overflow="ellipsis"
        )

    def _render_side(self, width: int, height: int) -> RenderableType:
        """The best labels from the top, losses, faults and latency at the bottom; always one label at least."""
        if self.status is None:
            return Text()
        longest = max((cell_len(printable(label)) for label, _ in self.status.top), default=0)
        self._name_width = max(self._name_width, min(2 + longest, width - SHORTEST_BAR))
        name_width = min(max(self._name_width, width // 2), width - SHORTEST_BAR)
        wrong = [*_render_losses(self.status), *_faults(self.status)]
        facts = [_latency(self.status, width, name_width), *wrong] if height > 1 + len(wrong) else wrong
        facts = facts[: height - 1]
        shown = self.status.top[: height - len(facts)]
        scores = [_score(self.status, label, score, width, name_width) for label, score in shown]
        blank = [Text()] * (height - len(facts) - len(scores))
        return Group(*scores, *blank, *facts)


def _score(status: Status, label: str, score: float, width: int, name_width: int) -> Text:
    active = label in status.active
    style = "bold green" if active else "dim"
    name = Text(f"{'▸' if active else ' '} {printable(label)}", style)
    name.truncate(name_width, overflow="ellipsis", pad=True)
    return Text.assemble(name, " ", bar(score, width - name_width - 6, style), (f" {score:.2f}", style), no_wrap=True)


def _level_share(dbfs: float) -> float:
    return min(max(1 - dbfs / FLOOR_DBFS, 0.0), 1.0)


def _latency(status: Status, width: int, name_width: int) -> Text:
    share = status.latency_s / status.deadline_s
    style = "bold red" if share > 1 else "yellow" if share > 0.8 else "green"
    name = Text("too late" if share > 1 else "latency", style if share > 1 else "dim")
    figures = f" {_ms(status.latency_s)} of {_ms(status.deadline_s)} ms"
    name.truncate(min(name_width, max(width - len(figures) - 7, 8)), pad=True)
    line = bar(min(share, 1.0), max(width - len(name) - len(figures) - 1, 0), style)
    return Text.assemble(name, " ", line, figures, no_wrap=True)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _render_losses(status: Status) -> list[Text]:
    if not status.dropped_s:
        return []
    return [Text(f"lost {status.dropped_s:.1f} s of audio", "yellow", no_wrap=True, overflow="ellipsis")]


def _faults(status: Status) -> list[Text]:
    faults = () if status.signal is None else status.signal.faults()
    return [Text(" · ".join(faults), "yellow", no_wrap=True, overflow="ellipsis")] if faults else []


def bar(share: float, width: int, style: str, mark: float | None = None) -> Text:
    """A share of 1 as a line; ``mark`` sets a tick on it."""
    filled = round(2 * share * width)
    line = "━" * (filled // 2) + "╸" * (filled % 2)
    text = Text.assemble((line, style), ("─" * (width - len(line)), "bright_black"))
    if mark is None:
        return text
    place = min(round(mark * width), width - 1)
    return Text.assemble(text[:place], ("┃", style), text[place + 1 :])
