"""Stdout on a disk that fills up: lines without room are dropped whole, and the program goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from flexiast.errors import ExitCode
from flexiast.log import Log
from flexiast_cli.terminal.console import count_noun

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
BUFFER_BYTES = 1 << 20
"""More than any record takes, so that each is one write."""


class LossyFile(io.RawIOBase):
    """Writes to a file, and counts the lines that it has no room for."""

    def __init__(self, handle: int, log: Log) -> None:
        """``log`` is called at the first write that fails."""
        super().__init__()
        self._handle, self._log = handle, log
        self._is_torn = self._is_abandoned = False  # the last line is incomplete; the reader is gone
        self.dropped_lines = 0

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | memoryview) -> int:  # type: ignore[override]
        """Write whole lines, after a line end for one that is torn; returns as if all had been written."""
        lines = bytes(content)
        pending = b"\n" * self._is_torn + lines
        written = 0
        try:
            while written < len(pending) and not self._is_abandoned:
                written += os.write(self._handle, pending[written:])
        except OSError as error:
            if error.errno not in NO_ROOM:
                self._is_abandoned = True  # the reader is gone: that is raised once, not again by a buffer
                raise
            if not self.dropped_lines:
                self._log(f"stdout cannot be written: {error.strerror}; lines without room are dropped")
            self.dropped_lines += lines.count(b"\n") - pending[:written].count(b"\n") + (self._is_torn and written > 0)
        if written:
            self._is_torn = not pending[:written].endswith(b"\n")
        return len(lines)


@contextmanager
def surviving_full_disk(log: Log) -> Iterator[None]:
    """Within the block, ``sys.stdout`` drops lines that its disk has no room for; a note at the end counts them.

    Then the exit code is that of lost records.
    """
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
    file = LossyFile(handle, log)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(file, BUFFER_BYTES), before.encoding, before.errors)
    try:
        yield
    finally:
        with suppress(OSError):  # the reader is gone, which was raised where it was written
            sys.stdout.close()
        sys.stdout = before
        if file.dropped_lines:
            log(f"stdout had no room for {count_noun(file.dropped_lines, 'line')}")
    if file.dropped_lines:
        raise typer.Exit(ExitCode.LOST)
