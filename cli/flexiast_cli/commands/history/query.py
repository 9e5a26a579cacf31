"""From options to the events that they mean."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Sequence

from flexiast.errors import UsageError
from flexiast.text import preview
from flexiast_cli.commands.history.command import QueryOptions
from flexiast_cli.terminal.console import log
from flexiast_runtime.history.events import Query
from flexiast_runtime.units import parse_duration

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?")


def build_query(options: QueryOptions) -> Query:
    """Raises UsageError for what is no time."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return Query(
        tuple(options.labels or ()),
        tuple(options.sources or ()),
        parse_moment(options.since, "--since", now),
        parse_moment(options.until, "--until", now),
        options.limit,
    )


def hint_unknown(labels: Iterable[str], known: Sequence[str]) -> None:
    """Print the most similar known labels for each label that never occurred."""
    for label in labels:
        if known and label not in known:
            near = difflib.get_close_matches(label, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {preview(known)}"
            log(f"{label!r} was never detected; {hint}")


def parse_moment(text: str | None, option: str, now: datetime.datetime) -> float | None:
    """A time ago, a local time of day, which is the last one, or a local date with or without time → Unix seconds."""
    if text is None:
        return None
    try:
        return now.timestamp() - parse_duration(text)
    except ValueError:
        pass
    if _TIME_OF_DAY.fullmatch(text):
        return _find_last(datetime.time.fromisoformat(f"0{text}" if text[1] == ":" else text), now)
    try:
        return datetime.datetime.fromisoformat(text).timestamp()  # a naive one is local
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text!r} is no time; give 24h, 7d, 14:30, a date as 2026-11-25 or a time as 2026-11-25T14:30"
        ) from None


def _find_last(time_of_day: datetime.time, now: datetime.datetime) -> float:
    """Unix seconds at which a local clock last showed a time."""
    today = now.astimezone().date()
    days = (datetime.datetime.combine(today - datetime.timedelta(days=ago), time_of_day) for ago in (0, 1))
    return next(moment_s for day in days if (moment_s := day.timestamp()) <= now.timestamp())
