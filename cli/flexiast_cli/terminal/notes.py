"""Stderr while a picture fills the terminal: kept, and repeated below it."""

from __future__ import annotations

import io
from collections import deque

import typer

KEPT_NOTES = 100


class Notes(io.TextIOBase):
    """A stream of lines; the last ones are kept."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_NOTES)
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        self._lines.extend(line for line in whole if line.strip())
        return len(text)

    @property
    def last(self) -> str:
        """The newest line; empty where there is none."""
        return self._lines[-1] if self._lines else ""

    def repeat(self) -> None:
        """Print what was kept on stderr."""
        for line in self._lines:
            typer.echo(line, err=True)
