"""How much audio a WAV announces and how much of it is there: decoders pass over what was cut off in silence."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

CHUNKS = 100
"""Looked at before the samples must have come; real files have a handful."""
SLACK_BYTES = 128
"""May be missing: some recorders count their header as samples. At most 4 ms of mono at 16 kHz."""
UNKNOWN_NEAR_BYTES = 65_536
"""So near to 2³¹ or 2³² a size says that it was written into a pipe: sox, arecord and ffmpeg each have their own."""


class DataChunk(NamedTuple):
    """Where a WAV holds its samples; in bytes."""

    size_at: int
    """Place of its size, 32 bits little-endian"""
    announced: int
    found: int
    """From its beginning to the end of the file"""
    at_end: bool
    """The file's own size is as its header says, and what begins here is called like a chunk"""

    @property
    def breaks_off(self) -> bool:
        """Samples are missing that the header promises."""
        piped = any(abs(self.announced - size) <= UNKNOWN_NEAR_BYTES for size in (2**31, 2**32))
        return not piped and self.announced > self.found + SLACK_BYTES

    @property
    def unended(self) -> bool:
        """Its recorder was stopped before it wrote how much it recorded."""
        return not self.announced and self.found > 0 and not self.at_end


def find_data(file: BinaryIO) -> DataChunk | None:
    """The chunk of samples of a WAV (RIFF, or RF64 with its size in ds64); None for what is none or has none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    kind, riff, form = struct.unpack("<4sI4s", file.read(12).ljust(12))
    if kind not in {b"RIFF", b"RF64"} or form != b"WAVE":
        return None
    long = 0
    for _ in range(CHUNKS):
        name, announced = struct.unpack("<4sI", file.read(8).ljust(8))
        begin = file.tell()
        if name == b"data":
            long_form = kind == b"RF64" and announced == 2**32 - 1
            at_end = riff + 8 == size and file.read(4).strip().isalnum()
            return DataChunk(begin - 4, long if long_form else announced, size - begin, at_end)
        if name == b"ds64":
            long = struct.unpack("<8xQ", file.read(16).ljust(16))[0]
        file.seek(begin + announced + announced % 2)
    return None
