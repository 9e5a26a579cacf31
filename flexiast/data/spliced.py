"""Pieces of a file, and bytes of our own between them, read as one file: a header is mended without a copy."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

from typing_extensions import Buffer

Piece = bytes | range
"""Of a spliced file: these bytes, or the bytes of the file below that have these offsets."""

BUFFER_BYTES = 1 << 16


def splice(file: BinaryIO, pieces: Sequence[Piece]) -> BinaryIO:
    """A seekable file that consists of pieces of another; closing it leaves that one open."""
    return io.BufferedReader(_Spliced(file, pieces), BUFFER_BYTES)


class _Spliced(io.RawIOBase):
    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = [piece for piece in pieces if len(piece)]
        self._ends = list(accumulate(map(len, self._pieces)))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._ends[-1] if self._ends else 0
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence])
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        for number in range(bisect_right(self._ends, self._place), len(self._pieces)):
            piece, end = self._pieces[number], self._ends[number]
            begin = self._place - (end - len(piece))
            content = self._read(piece[begin : begin + len(view) - done])
            view[done : done + len(content)] = content
            done += len(content)
            self._place += len(content)
            if self._place < end:  # the buffer is full, or the file below has become shorter
                break
        return done

    def _read(self, piece: Piece) -> bytes:
        if isinstance(piece, bytes):
            return piece
        self._file.seek(piece.start)
        return self._file.read(len(piece))
