"""Ctrl-C and SIGTERM ask a command to come to its end, so that nothing is lost; a second one ends it at once."""

from __future__ import annotations

import math
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import typer

from flexiast.errors import ExitCode
from flexiast_cli.console import counted, say

Item = TypeVar("Item")

UNREAD_S = 1.0
"""After a signal, whoever reads stdout gets so long for what was written before."""
LOOK_S = 0.1


@dataclass
class Asked:
    """Whether a signal has asked the command to end."""

    by: int | None = None
    at_s: float = math.inf
    """Monotonic time of the signal"""


@contextmanager
def ending_gently(stop: Callable[[], None], terminated: ExitCode) -> Iterator[Asked]:
    """Call ``stop`` at the first signal; when the block has ended, exit with 130 for Ctrl-C or as told for SIGTERM."""
    asked = Asked()
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


def while_read(items: Iterable[Item], asked: Asked) -> Iterator[Item]:
    """What is to be printed, one at a time when stdout takes it: a write that blocks could not be ended by a signal.

    Once a signal has asked for the end, a reader that takes nothing is not waited for; all items are drawn even so.
    """
    unread = 0
    for item in items:
        if _taken(asked):
            yield item
        else:
            unread += 1
    if unread:
        say(f"stdout was not read; {counted(unread, 'record')} not printed")


def _taken(asked: Asked) -> bool:
    """Whether stdout has room, waited for as long as there is time."""
    if sys.stdout is None:  # a shell may close it
        return True
    stdout = select.poll()
    stdout.register(1, select.POLLOUT)
    while not stdout.poll(1000 * LOOK_S):
        if time.monotonic() > asked.at_s + UNREAD_S:
            return False
    return True


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind like an error, so that commands clean up after themselves."""

    def unwind(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise SystemExit(ExitCode.TERMINATED)

    signal.signal(signal.SIGTERM, unwind)
