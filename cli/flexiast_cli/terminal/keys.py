"""Single keys from a terminal; lines where stdin is none, so that a program can press them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

if sys.platform != "win32":
    import termios
    import tty

ARROWS = {"\x1b[C": "right", "\x1b[D": "left", "\x1bOC": "right", "\x1bOD": "left"}
LONGEST = 8
"""Bytes that one key may send"""


class Keys:
    """Reads from stdin."""

    def __init__(self, *, single: bool) -> None:
        self._single = single

    def read(self) -> str | None:
        """The next key: a character, ``left`` or ``right``; None at the end."""
        if not self._single:
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        key = os.read(sys.stdin.fileno(), LONGEST).decode(errors="ignore")
        return ARROWS.get(key, key[:1]) or None

    def read_line(self) -> str:
        """A line that the user types and sees; empty at the end."""
        if not self._single:
            return sys.stdin.readline().strip()
        with _line_mode():
            return sys.stdin.readline().strip()


@contextmanager
def open_keys() -> Iterator[Keys]:
    """While the block runs, a terminal gives each key at once and does not print it."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield Keys(single=False)
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield Keys(single=True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _line_mode() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    now = termios.tcgetattr(sys.stdin)
    now[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, now)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
