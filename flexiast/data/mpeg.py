"""How long an MP3 is: decoders believe its header or guess from its first frames, so every frame is counted.

A frame begins with four bytes that say how long it is and how many samples it holds. Between frames may lie tags, and,
where files were cut and joined, anything. Source of the tables: ISO/IEC 11172-3 and 13818-3; of the Xing header: LAME.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from flexiast.data.spliced import Piece

BITRATES_KBPS = {  # of (MPEG 1, layer); MPEG 2 and 2.5 share theirs
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES_HZ = (44_100, 48_000, 32_000)
"""Of MPEG 1; halved in MPEG 2 and quartered in 2.5."""
SYNC = re.compile(rb"\xff[\xe2-\xff]")
CHUNK_BYTES = 1 << 16
LEAD_BYTES = 1 << 20
"""Most that may lie before the first frame"""
FRAMES_IN_A_ROW = 4
"""Tell an MP3 from any other file: frames of one kind, each where the last one ends"""
TAG_BYTES = 128
"""Of an ID3 tag of version 1, at the end of a file"""
LAME_BYTES = 24
"""From an encoder's name to its delay and padding"""


class Kind(NamedTuple):
    """What stays the same from frame to frame of one stream."""

    mpeg: int
    """1 is MPEG 1, 2 is MPEG 2, 4 is MPEG 2.5: what the sample rate is divided by"""
    layer: int
    rate_hz: int
    channels: int

    @property
    def samples(self) -> int:
        """Of a frame."""
        return {1: 384, 2: 1152, 3: 1152 if self.mpeg == 1 else 576}[self.layer]

    @property
    def info_at(self) -> int:
        """Where a Xing header stands in a frame of layer III: behind the side information, which it leaves zero."""
        return 4 + ((17, 32) if self.mpeg == 1 else (9, 17))[self.channels - 1]


class Frame(NamedTuple):
    """What a frame's header says."""

    kind: Kind
    size: int
    """In bytes, its header among them"""


@dataclass
class Stream:
    """Frames of one kind that follow each other, whatever lies between them."""

    kind: Kind
    header: bytes
    """Of its first frame"""
    info: bytes | None = None
    """Its Xing, Info or VBRI frame, which holds no sound"""
    frames: int = 0
    largest: int = 0
    """Frame, in bytes"""
    missing: int = 0
    """Bytes of its last frame that were cut off"""
    ranges: list[range] = field(default_factory=list)

    @property
    def announced(self) -> int | None:
        """Frames that the Xing or VBRI header promises."""
        return None if self.info is None else _parse_frame_count(self.info, self.kind)

    @property
    def encoder(self) -> bytes:
        """What the encoder noted of the samples that it added at both ends; empty where it noted nothing."""
        return b"" if self.info is None else _encoder_tag(self.info, self.kind)

    def pieces(self, file_bytes: int) -> list[Piece]:
        """What makes a decoder read all of it, and leave out what the encoder added.

        Without a note of that there is no header to mend: decoders guess the length from that of the file, and stop
        there. So a stretch beyond the file's end, which nobody can read, makes it long enough for their guess; the
        last bytes can be read, for there they look for a tag.
        """
        frames: list[Piece] = [*self.ranges, bytes(self.missing)]
        if self.encoder:
            return [_info_frame(self), *frames]
        return [*frames, range(file_bytes, file_bytes + self.frames * self.largest), bytes(TAG_BYTES)]


@dataclass
class Scan:
    """An MP3 as it lies in the file."""

    file_bytes: int
    streams: list[Stream] = field(default_factory=list)
    junk_bytes: int = 0
    """Between frames, neither frame nor tag"""
    joins: int = 0
    """Places where tags stand between two frames, as in MP3s that were joined end to end"""


@lru_cache(maxsize=4096)
def parse_header(header: bytes) -> Frame | None:
    """The frame that four bytes begin, None where they begin none; frames of free format count as none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in {0, 15} or rate == 3:
        return None
    mpeg = {3: 1, 2: 2, 0: 4}[version]
    rate_hz = RATES_HZ[rate] // mpeg
    kind = Kind(mpeg, layer, rate_hz, 1 if header[3] >> 6 == 3 else 2)
    bits_per_s = 1000 * BITRATES_KBPS[mpeg == 1, layer][bitrate - 1]
    slot_bytes = 4 if layer == 1 else 1
    return Frame(kind, (kind.samples // 8 // slot_bytes * bits_per_s // rate_hz + padding) * slot_bytes)


def scan(file: BinaryIO) -> Scan | None:
    """All frames of an MPEG audio file; None for any other file.

    One that was cut may begin inside a frame, so some frames in a row are asked of it, near its beginning.
    """
    size = file.seek(0, os.SEEK_END)
    found = Scan(size)
    place = _find_first(file, found, size)
    if place is None:
        return None
    broken = tagged = False
    while place < size:
        frame = _frame_at(file, place)
        if frame is None or not (_fits(found, frame) or _continues(file, place, frame, size)):
            behind = _skip_tags(file, place, size)
            tagged = behind > place
            if not tagged:
                behind, broken = _resume(file, found, place, size), True
            place = behind
            continue
        file.seek(place)
        content = file.read(frame.size)
        found.joins += tagged and bool(found.streams)
        if broken:  # its sound begins in frames that are lost: decoded, it would be noise
            found.junk_bytes += len(content)
        elif not (tagged and found.streams and _is_info(content, frame.kind)):  # the header of a file that was joined
            _add(found, frame, place, content)
        broken = tagged = False
        place += frame.size
    return found


def _find_first(file: BinaryIO, found: Scan, size: int) -> int | None:
    """The first frame, behind tags."""
    begin = _skip_tags(file, 0, size)
    frame = _frame_at(file, begin)
    if frame is not None and _continues(file, begin, frame, size):
        return begin
    file.seek(begin)
    for match in SYNC.finditer(file.read(LEAD_BYTES)):
        place = begin + match.start()
        for _ in range(FRAMES_IN_A_ROW):
            frame = _frame_at(file, place)
            if frame is None or not _continues(file, place, frame, size):
                break
            place += frame.size
        else:
            found.junk_bytes += match.start()
            return begin + match.start()
    return None


def _fits(found: Scan, frame: Frame) -> bool:
    return bool(found.streams) and found.streams[-1].kind == frame.kind


def _add(found: Scan, frame: Frame, place: int, content: bytes) -> None:
    if not _fits(found, frame):
        found.streams.append(Stream(frame.kind, content[:4]))
        if _is_info(content, frame.kind):
            found.streams[-1].info = content
            return
    stream = found.streams[-1]
    stream.frames += 1
    stream.largest = max(stream.largest, frame.size)
    stream.missing = frame.size - len(content)
    if stream.ranges and stream.ranges[-1].stop == place:
        stream.ranges[-1] = range(stream.ranges[-1].start, place + len(content))
    else:
        stream.ranges.append(range(place, place + len(content)))


def _resume(file: BinaryIO, found: Scan, place: int, size: int) -> int:
    """The next frame after something else, or the end of the file."""
    begin = place
    while begin < size:
        file.seek(begin)
        content = file.read(CHUNK_BYTES + 1)
        for match in SYNC.finditer(content):
            candidate = begin + match.start()
            frame = _frame_at(file, candidate)
            if frame is not None and _continues(file, candidate, frame, size):
                found.junk_bytes += candidate - place
                return candidate
        begin += CHUNK_BYTES
    found.junk_bytes += size - place
    return size


def _continues(file: BinaryIO, place: int, frame: Frame, size: int) -> bool:
    """Whether a frame is followed by another one of its kind, by a tag or by the end: two bytes alone are no proof."""
    after = place + frame.size
    if after >= size:
        return after == size
    following = _frame_at(file, after)
    return (following is not None and following.kind == frame.kind) or _skip_tags(file, after, size) > after


def _frame_at(file: BinaryIO, place: int) -> Frame | None:
    file.seek(place)
    return parse_header(file.read(4))


def _skip_tags(file: BinaryIO, place: int, size: int) -> int:
    """Behind the ID3 and APE tags that begin here, where some do; one that reaches beyond the file is none."""
    while True:
        behind = _skip_tag(file, place)
        if behind == place or behind > size:
            return place
        place = behind


def _skip_tag(file: BinaryIO, place: int) -> int:
    """Behind the tag that begins here, or here where none does."""
    file.seek(place)
    head = file.read(32)
    if head[:3] == b"ID3" and len(head) >= 10 and not any(byte & 0x80 for byte in head[6:10]):
        length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return place + 10 + length + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return place + TAG_BYTES
    if head[:8] == b"APETAGEX" and len(head) == 32:
        length, _, flags = struct.unpack("<III", head[12:24])
        return place + 32 + (length if flags & 1 << 29 else 0)  # of a footer that stands alone only itself is left
    return place


def _is_info(content: bytes, kind: Kind) -> bool:
    at = kind.info_at
    return kind.layer == 3 and (content[at : at + 4] in {b"Xing", b"Info"} or content[36:40] == b"VBRI")


def _parse_frame_count(info: bytes, kind: Kind) -> int | None:
    at = kind.info_at
    if info[36:40] == b"VBRI":
        at, flags, value = 36, 1, info[50:54]
    else:
        flags, value = int.from_bytes(info[at + 4 : at + 8], "big"), info[at + 8 : at + 12]
    return int.from_bytes(value, "big") if flags & 1 and len(value) == 4 else None


def _info_frame(stream: Stream) -> bytes:
    """A Xing header with the true number of frames, and the encoder's note; no padding where the end was cut off."""
    kind, at, encoder = stream.kind, stream.kind.info_at, stream.encoder
    if stream.announced != stream.frames:
        delay_padding = int.from_bytes(encoder[21:24], "big") & 0xFFF000
        encoder = encoder[:21] + delay_padding.to_bytes(3, "big")
    content = struct.pack(">4sII", b"Xing", 1, stream.frames) + encoder + bytes(12)
    first = bytearray(stream.header)
    first[1] |= 1  # no checksum
    for bitrate in range(1, 15):
        first[2] = bitrate << 4 | first[2] & 0x0C
        frame = parse_header(bytes(first))
        if frame is not None and frame.size >= at + len(content):
            return (bytes(first) + bytes(at - 4) + content).ljust(frame.size, b"\0")
    raise AssertionError(f"no frame of {kind} holds a Xing header")


def _encoder_tag(info: bytes, kind: Kind) -> bytes:
    """From the encoder's name to its delay and padding, in the extension that LAME and FFmpeg write; else nothing."""
    if info[36:40] == b"VBRI":
        return b""
    at = kind.info_at
    flags = int.from_bytes(info[at + 4 : at + 8], "big")
    tag_at = at + 8 + sum(length for bit, length in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    tag = info[tag_at : tag_at + LAME_BYTES]
    return tag if len(tag) == LAME_BYTES and any(tag[21:]) else b""
