"""Ctrl-C and SIGTERM stop a command gracefully, so that nothing is lost; a second one ends it at once."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from flexiast.errors import ExitCode, FlexiastError
from flexiast_cli.terminal.console import count_noun, log
from flexiast_runtime.detection.records import Record, Status
from flexiast_runtime.sinks.outbox import CAPACITY

UNREAD_S = 1.0
"""Time after a signal in which stdout's reader may take what is left."""
POLL_S = 0.1


@dataclass
class StopRequest:
    """Whether a signal has asked the command to stop, and which."""

    by: int | None = None
    at_s: float = math.inf
    """Monotonic time of the signal"""

    @property
    def has_expired(self) -> bool:
        """Whether the time for what is left to print has passed."""
        return time.monotonic() > self.at_s + UNREAD_S


@contextmanager
def graceful_shutdown(stop: Callable[[], None], terminated: ExitCode) -> Iterator[StopRequest]:
    """Call ``stop`` at the first signal; after the block, exit with 130 for Ctrl-C or ``terminated`` for SIGTERM."""
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: object) -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)
        request.by, request.at_s = number, time.monotonic()
        stop()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if request.by is not None:
        raise typer.Exit(ExitCode.INTERRUPTED if request.by == signal.SIGINT else terminated)


@contextmanager
def reload_on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    """Call ``reload`` at SIGHUP, as daemons do; where it says that the terminal was closed, it ends the process.

    One that ignores it, under nohup, goes on ignoring it.
    """
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:  # Windows has none
        yield
        return
    had_terminal = _has_terminal()

    def handle(number: int, _: object) -> None:
        if had_terminal and not _has_terminal():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            reload()

    signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _has_terminal() -> bool:
    """Whether the process has a terminal that it is controlled from; a service has none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def yield_until_reader_stalls(records: Iterable[Record], request: StopRequest, *, live: bool) -> Iterator[Record]:
    """Yield records to print when stdout has room for them, because a signal cannot end a write that blocks.

    A recording waits for the reader. Live sound does not: while nobody reads, as many records wait as for a sink, and
    statuses, which the next one replaces, are dropped. After a signal there is ``UNREAD_S`` for what is left to print;
    the records are consumed to their end in any case.
    """
    waiting: deque[Record] = deque()
    unread, failure = 0, None
    try:
        for record in records:
            waiting.append(record)
            while waiting and _has_room(request, wait=not live):
                yield waiting.popleft()
            if waiting and live and isinstance(record, Status):
                waiting.pop()
            if len(waiting) > CAPACITY or (waiting and request.has_expired):
                waiting.popleft()
                unread += 1
    except FlexiastError as error:  # what came before is printed first
        failure = error
    while waiting and _has_room(request, wait=True):
        yield waiting.popleft()
    if unread := unread + len(waiting):
        log(f"stdout was not read; {count_noun(unread, 'record')} not printed")
    if failure is not None:
        raise failure


def _has_room(request: StopRequest, *, wait: bool) -> bool:
    """Whether stdout has room; with ``wait``, poll until it has or the request expires."""
    if sys.stdout is None or not hasattr(select, "poll"):  # a shell may close it; Windows cannot ask
        return True
    stdout = select.poll()
    stdout.register(1, select.POLLOUT)
    while not stdout.poll(1000 * POLL_S if wait else 0):
        if not wait or request.has_expired:
            return False
    return True
