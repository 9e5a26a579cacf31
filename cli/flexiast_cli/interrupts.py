"""Ctrl-C and SIGTERM ask a command to come to its end, so that nothing is lost; a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from flexiast.errors import ExitCode


@dataclass
class _Asked:
    by: int | None = None


@contextmanager
def ending_gently(stop: Callable[[], None], terminated: ExitCode) -> Iterator[None]:
    """Call ``stop`` at the first signal; when the block has ended, exit with 130 for Ctrl-C or as told for SIGTERM."""
    asked = _Asked()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)
        asked.by = number
        stop()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked.by is not None:
        raise typer.Exit(ExitCode.INTERRUPTED if asked.by == signal.SIGINT else terminated)


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind like an error, so that commands clean up after themselves."""

    def unwind(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise SystemExit(ExitCode.TERMINATED)

    signal.signal(signal.SIGTERM, unwind)
