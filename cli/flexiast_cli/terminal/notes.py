"""Stderr while a picture fills the terminal: its lines are held back and printed below the last picture."""

from __future__ import annotations

import io
from collections import deque

import typer

MAX_NOTES = 100


class Notes(io.TextIOBase):
    """A text stream that holds its last lines."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_NOTES)
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
        """Print the held lines on stderr."""
        for line in self._lines:
            typer.echo(line, err=True)
