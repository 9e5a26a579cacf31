"""Ctrl-C and SIGTERM ask a command to come to its end, so that nothing is lost; a second one ends it at once."""

from __future__ import annotations

import math
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from flexiast.errors import ExitCode, FlexiastError
from flexiast_cli.terminal.console import count_noun, say

if TYPE_CHECKING:
    from flexiast_runtime.detection.records import Record

UNREAD_S = 1.0
"""After a signal, whoever reads stdout gets so long for what was written before."""
LOOK_S = 0.1


@dataclass
class StopRequest:
    """Whether a signal has asked the command to end."""

    by: int | None = None
    at_s: float = math.inf
    """Monotonic time of the signal"""

    @property
    def over(self) -> bool:
        """Whoever reads stdout has had the time that there is after a signal."""
        return time.monotonic() > self.at_s + UNREAD_S


@contextmanager
def graceful_shutdown(stop: Callable[[], None], terminated: ExitCode) -> Iterator[StopRequest]:
    """Call ``stop`` at the first signal; when the block has ended, exit with 130 for Ctrl-C or as told for SIGTERM."""
    asked = StopRequest()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)
        asked.by, asked.at_s = number, time.monotonic()
        stop()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked.by is not None:
        raise typer.Exit(ExitCode.INTERRUPTED if asked.by == signal.SIGINT else terminated)


def until_reader_stalls(records: Iterable[Record], asked: StopRequest, *, live: bool) -> Iterator[Record]:
    """What is to be printed, one at a time when stdout takes it: a write that blocks could not be ended by a signal.

    A recording waits for whoever reads. Sound that is ``live`` does not: while nobody reads, as many records wait as
    for a sink, but no status, which the next one betters. After a signal there is ``UNREAD_S`` for what is left to
    print; all records are drawn even so.
    """
    from flexiast_runtime.detection.records import Status
    from flexiast_runtime.sinks.outbox import CAPACITY

    held: deque[Record] = deque()
    unread, failure = 0, None
    try:
        for record in records:
            held.append(record)
            while held and _has_room(asked, wait=not live):
                yield held.popleft()
            if held and live and isinstance(record, Status):
                held.pop()
            if len(held) > CAPACITY or (held and asked.over):
                held.popleft()
                unread += 1
    except FlexiastError as error:  # what came before is printed first
        failure = error
    while held and _has_room(asked, wait=True):
        yield held.popleft()
    if unread := unread + len(held):
        say(f"stdout was not read; {count_noun(unread, 'record')} not printed")
    if failure is not None:
        raise failure


def _has_room(asked: StopRequest, *, wait: bool) -> bool:
    """Whether stdout has room; may be waited for, as long as there is time."""
    if sys.stdout is None or not hasattr(select, "poll"):  # a shell may close it; Windows cannot ask
        return True
    stdout = select.poll()
    stdout.register(1, select.POLLOUT)
    while not stdout.poll(1000 * LOOK_S if wait else 0):
        if not wait or asked.over:
            return False
    return True
