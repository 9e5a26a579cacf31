"""Stdout on a disk that fills up: what has no room is left out, whole lines at a time, and the program goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flexiast_cli.terminal.console import count_noun

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
BUFFER_BYTES = 1 << 20
"""More than any record takes, so that each is one write."""


class RoomyFile(io.RawIOBase):
    """Writes to a file; what it has no room for is counted, and tried no more."""

    def __init__(self, handle: int, say: Callable[[str], None]) -> None:
        """``say`` is told at the first write that fails."""
        super().__init__()
        self._handle, self._say = handle, say
        self._is_torn = self._is_abandoned = False  # the last line is half there; nobody reads any more
        self.left_out = 0
        """Lines"""

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | memoryview) -> int:  # type: ignore[override]
        """Write whole lines; before them one that was torn is ended, so that it is a line of its own."""
        lines = bytes(content)
        wanted = b"\n" * self._is_torn + lines
        written = 0
        try:
            while written < len(wanted) and not self._is_abandoned:
                written += os.write(self._handle, wanted[written:])
        except OSError as error:
            if error.errno not in NO_ROOM:
                self._is_abandoned = True  # whoever read it is gone: that is raised once, not again by a buffer
                raise
            if not self.left_out:
                self._say(f"stdout cannot be written: {error.strerror}; what it has no room for is left out")
            self.left_out += lines.count(b"\n") - wanted[:written].count(b"\n") + (self._is_torn and written > 0)
        if written:
            self._is_torn = not wanted[:written].endswith(b"\n")
        return len(lines)


@contextmanager
def surviving_full_disk(say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, ``sys.stdout`` leaves out what its disk has no room for; at the end, how much is said."""
    before = sys.stdout
    try:
        handle = before.fileno()
    except (AttributeError, OSError):  # a shell may close it; a test may have replaced it
        yield
        return
    if os.isatty(handle):
        yield
        return
    before.flush()
    file = RoomyFile(handle, say)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(file, BUFFER_BYTES), before.encoding, before.errors)
    try:
        yield
    finally:
        with suppress(OSError):  # whoever read it is gone, which was raised where it was written
            sys.stdout.close()
        sys.stdout = before
        if file.left_out:
            say(f"stdout had no room for {count_noun(file.left_out, 'line')}")
