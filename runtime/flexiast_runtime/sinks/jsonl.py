"""A file of JSON lines, rotated by size."""

from __future__ import annotations

import json
import os
from pathlib import Path

from flexiast.errors import SinkDownError, SinkError
from flexiast_runtime.detection.records import Record, Status
from flexiast_runtime.sinks.sink import RunContext, file_error

KEEP = 5
"""Rotated files that stay"""
BEGINNING = b'{"schema_version": '
"""Of every line"""
_BLOCK = 1 << 16


class JsonlFile:
    """Appends every record but the status after each window, one JSON document a line.

    A line is written whole or not at all: a half one that a crash left behind is cut off at the next start, and what a
    full disk took of one is taken back.
    """

    def __init__(self, path: Path, rotate_bytes: int | None = None, keep: int = KEEP) -> None:
        """A line that would make the file larger than ``rotate_bytes`` begins a new one; ``keep`` old ones stay."""
        self.name = f"jsonl:{path}"
        self._path, self._rotate_bytes, self._keep = path, rotate_bytes, keep
        self._handle = -1

    def open(self, context: RunContext) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise file_error(error, f"{self._path} cannot be written: {error.strerror}; name another file") from error

    def wants(self, record: Record) -> bool:
        return not isinstance(record, Status)

    def deliver(self, record: Record) -> None:
        line = json.dumps(record.document(), ensure_ascii=False).encode() + b"\n"
        try:
            if self._handle < 0:  # the last rotation broke off
                self._open()
            if self._rotate_bytes is not None and self._size and self._size + len(line) > self._rotate_bytes:
                self._rotate()
            self._append(line)
        except OSError as error:
            raise SinkDownError(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self._handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size, end = whole_lines(self._handle), os.fstat(self._handle).st_size
        left = os.pread(self._handle, len(BEGINNING), self._size)
        if not BEGINNING.startswith(left):
            self.close()
            raise SinkError(
                f"{self._path} ends in something that is no JSON line of flexiast; name another file, or end it with a "
                "new line"
            )
        if end > self._size:
            os.ftruncate(self._handle, self._size)

    def _append(self, line: bytes) -> None:
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            os.ftruncate(self._handle, self._size)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        """FILE becomes FILE.1, FILE.1 becomes FILE.2 and so on; the last one goes."""
        self.close()
        for number in range(self._keep - 1, 0, -1):
            if self._backup_path(number).exists():
                self._backup_path(number).replace(self._backup_path(number + 1))
        self._path.replace(self._backup_path(1))
        self._open()

    def _backup_path(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def whole_lines(handle: int) -> int:
    """Bytes of an open file up to and with its last line end."""
    end = os.fstat(handle).st_size
    while end:
        begin = max(0, end - _BLOCK)
        found = os.pread(handle, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
