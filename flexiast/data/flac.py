"""How long a FLAC stream is: decoders stop where its first block says, so that is compared with the last frame.

Source: RFC 9639, FLAC.
"""

from __future__ import annotations

from functools import cache
from typing import BinaryIO, NamedTuple

STREAMINFO_AT = 8
"""Behind the magic and the header of the first block"""
STREAMINFO_BYTES = 34
TAILS_BYTES = (1 << 16, 1 << 22)
"""At the end of a file, in which two frames are looked for; a frame is at most some 2 MB"""
MOST_HEADER_BYTES = 16
BLOCK_SIZES = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}
"""Of the codes that name one; 6 and 7 are followed by it"""


class StreamInfo(NamedTuple):
    """What the first block says."""

    block_size: int
    """Of streams of a fixed one: the largest"""
    announced: int
    """Samples of each channel; 0 where it is not known"""


def read_stream_info(file: BinaryIO, begin: int) -> StreamInfo | None:
    """The first block of the stream at ``begin``; None where there is none."""
    file.seek(begin + STREAMINFO_AT)
    content = file.read(STREAMINFO_BYTES)
    if len(content) < STREAMINFO_BYTES:
        return None
    return StreamInfo(int.from_bytes(content[2:4], "big"), int.from_bytes(content[13:18], "big") & (1 << 36) - 1)


def clear_length(file: BinaryIO, begin: int) -> bytes:
    """The stream's beginning up to the end of its first block, with a length that is not known."""
    file.seek(begin)
    content = bytearray(file.read(STREAMINFO_AT + STREAMINFO_BYTES))
    at = STREAMINFO_AT + 13
    content[at] &= 0xF0
    content[at + 1 : at + 5] = bytes(4)
    return bytes(content)


def count_samples(file: BinaryIO, stream: range, block_size: int) -> int | None:
    """Samples of each channel up to the end of the last frame, by its header; None where none is found.

    A frame is one that begins where another ends: compressed audio looks like a header once in some thousand frames.
    """
    for length in TAILS_BYTES:
        begin = max(stream.start, stream.stop - length)
        file.seek(begin)
        tail = file.read(stream.stop - begin)
        starts: dict[int, int] = {}  # of later frames → where they end
        place = len(tail)
        while (place := tail.rfind(b"\xff", 0, place)) >= 0:
            frame = _parse_frame(tail[place : place + MOST_HEADER_BYTES], block_size)
            if frame is None:
                continue
            if frame.stop in starts:
                return starts[frame.stop]
            starts.setdefault(frame.start, frame.stop)
        if begin == stream.start:
            return starts.get(0)
    return None


def _parse_frame(header: bytes, fixed_size: int) -> range | None:
    """The samples of a frame, None where these bytes begin none."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    code, rate = header[2] >> 4, header[2] & 15
    number, size = _parse_number(header[4:])
    if not size:
        return None
    at = 4 + size
    samples = BLOCK_SIZES.get(code, 0)
    if code in {6, 7}:
        samples, at = int.from_bytes(header[at : at + code - 5], "big") + 1, at + code - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not samples or at >= len(header) or _crc8(header[:at]) != header[at]:
        return None
    start = number if header[1] & 1 else number * fixed_size
    return range(start, start + samples)


def _parse_number(content: bytes) -> tuple[int, int]:
    """A number coded as UTF-8 codes characters, up to 36 bits, and its bytes; 0 bytes where it is none."""
    first = content[0]
    size = 1 if first < 0x80 else 8 - (0xFF ^ first).bit_length()
    rest = content[1:size]
    is_whole = 1 <= size <= 7 and len(rest) == size - 1 and not 0x80 <= first < 0xC0
    if not is_whole or any(byte & 0xC0 != 0x80 for byte in rest):
        return 0, 0
    number = first if size == 1 else first & (0x7F >> size)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, size


@cache
def _table() -> bytes:
    values = list(range(256))
    for _ in range(8):
        values = [value << 1 ^ (0x107 if value & 0x80 else 0) for value in values]
    return bytes(values)


def _crc8(content: bytes) -> int:
    value = 0
    for byte in content:
        value = _table()[value ^ byte]
    return value
