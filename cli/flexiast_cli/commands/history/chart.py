"""How often each sound occurs at which time of the day, as a picture for a terminal or a file."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

SLOTS = 48
"""Half hours of a day"""
SHOWN = 20
"""Labels in the picture, the most frequent ones"""
BARS = "▁▂▃▄▅▆▇"
RAMP = ("#2a7f62", "#2f8f6c", "#3aa079", "#4fb387", "#6fc79a", "#96dbb3", "#c4f0d3")
"""Colour of each bar, from few to many"""


@dataclass(frozen=True)
class Day:
    """Counts by label and half hour; those of several days are added up."""

    title: str
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    """Label and its count in each half hour, the most frequent label first"""

    @classmethod
    def from_events(cls, events: Iterable[tuple[str, datetime.datetime]]) -> Day:
        """Count labels, each with the local time at which its event began."""
        counts: dict[str, Counter[int]] = {}
        dates: set[datetime.date] = set()
        for label, time in events:
            counts.setdefault(label, Counter())[(60 * time.hour + time.minute) * SLOTS // 1440] += 1
            dates.add(time.date())
        ordered = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
        return cls(
            _span(dates), tuple((label, tuple(slots[slot] for slot in range(SLOTS))) for label, slots in ordered)
        )

    @property
    def total(self) -> int:
        return sum(sum(counts) for _, counts in self.rows)

    def chart(self) -> RenderableType:
        """Labels down, half hours across, a bar for each count; 80 columns hold it."""
        most = max(max(counts) for _, counts in self.rows)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=18, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=SLOTS, no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        for label, counts in self.rows[:SHOWN]:
            grid.add_row(Text(label), _bars(counts, most), Text(f"{sum(counts):,}", "bold"))
        grid.add_row(Text(), Text("".join(f"{hour:<6}" for hour in range(0, 24, 3)), "dim"), Text())
        few, many = (BARS[0], RAMP[0]), (BARS[-1], RAMP[-1])
        scale = Text.assemble(few, (" 1  ", "dim"), many, (f" {most:,} in half an hour", "dim"))
        grid.add_row(Text(), scale, Text())
        title = Text.assemble((self.title, "bold"), (f"   {self.total:,} sounds{self.rest}", "dim"))
        return Group(title, Text(), grid)

    @property
    def rest(self) -> str:
        """What is not shown, for a title; empty where everything is."""
        more = len(self.rows) - SHOWN
        return f"; {more} rarer {'label is' if more == 1 else 'labels are'} not shown" if more > 0 else ""


def _bars(counts: tuple[int, ...], most: int) -> Text:
    """A bar for each count, the highest for ``most``; a dot where there is nothing."""
    bars = Text()
    for count in counts:
        level = -(-count * len(BARS) // most) - 1
        bars.append(BARS[level] if count else "·", RAMP[level] if count else "bright_black")
    return bars


def _span(dates: set[datetime.date]) -> str:
    if not dates:
        return ""
    first, last = (f"{date:%A} {date.day} {date:%B %Y}" for date in (min(dates), max(dates)))
    return first if first == last else f"{first} to {last}, by time of day"
