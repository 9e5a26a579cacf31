"""How much audio a file announces and how much of it is there, for containers that write it before the samples.

WAV in all its kinds (RIFF, RIFX, RF64, BW64, Wave64), AIFF, CAF and AU. Decoders pass over what was cut off in silence,
and over what lies behind a size that is too small.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Literal, NamedTuple

from flexiast.data.spliced import Piece

CHUNKS = 100
"""Looked at before the samples must have come; real files have a handful."""
SLACK_BYTES = 128
"""May be missing: some recorders count their header as samples. At most 4 ms of mono at 16 kHz."""
UNKNOWN_NEAR_BYTES = 65_536
"""So near to 2³¹ or 2³² a size says that it was written into a pipe: sox, arecord and ffmpeg each have their own."""
ZEROS_BYTES = 1 << 20
"""Read at once to see whether a file ends in zeros"""

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
"""What programs for music append to any file"""
CHUNK_NAMES = frozenset(
    {b"LIST", b"INFO", b"fact", b"bext", b"cue ", b"smpl", b"JUNK", b"junk", b"PAD ", b"FLLR", b"iXML", b"_PMX"}
    | {
        b"id3 ",
        b"ID3 ",
        b"DISP",
        b"PEAK",
        b"axml",
        b"chna",
        b"MARK",
        b"NAME",
        b"ANNO",
        b"COMT",
        b"inst",
        b"acid",
        b"free",
    }
)
"""That may themselves be cut off; of others a size that fits is asked"""


class Form(NamedTuple):
    """How a family of containers writes its chunks."""

    kind: bytes
    """The first four bytes of a file"""
    type: tuple[int, bytes]
    """What else tells the family, and where it stands"""
    head: int
    """Bytes before the first chunk"""
    name_bytes: int
    size: str
    """As struct knows it"""
    samples: bytes
    """What the name of the chunk of samples begins with"""
    skip: int = 0
    """Bytes at its beginning that are no samples"""
    inclusive: bool = False
    """A size counts the chunk's own header"""
    align: int = 2

    @property
    def header_bytes(self) -> int:
        """Of a chunk."""
        return self.name_bytes + struct.calcsize(self.size)


WAVES = tuple(
    Form(kind, (8, b"WAVE"), 12, 4, ">I" if kind == b"RIFX" else "<I", b"data")
    for kind in (b"RIFF", b"RIFX", b"RF64", b"BW64")
)
FORMS = (
    *WAVES,
    Form(b"FORM", (8, b"AIFF"), 12, 4, ">I", b"SSND", skip=8),
    Form(b"FORM", (8, b"AIFC"), 12, 4, ">I", b"SSND", skip=8),
    Form(b"caff", (4, b"\0\1"), 8, 4, ">q", b"data", skip=4, align=1),
    Form(b"riff", (24, b"wave"), 40, 16, "<Q", b"data", inclusive=True, align=8),
)
AU = {
    b".snd": Form(b".snd", (0, b""), 0, 4, ">I", b""),
    b"dns.": Form(b"dns.", (0, b""), 0, 4, "<I", b""),
}
"""Have no chunks: a place and a size, then samples."""

Following = Literal["nothing", "chunks", "zeros", "samples", "file"]


class DataChunk(NamedTuple):
    """Where a file holds its samples; in bytes."""

    form: Form
    format: bytes
    """Content of the fmt chunk of a WAV, or of the COMM chunk of an AIFF"""
    size_at: int
    """Place of the size of the samples"""
    begin: int
    announced: int
    """Of samples; -1 where the header says that nobody knows"""
    found: int
    """From the beginning to the end of the samples, where that can be told, else of the file"""
    follows: Following
    """What lies behind the announced samples"""
    next_file: int | None = None
    """Where another file of this kind begins"""

    @property
    def unknown(self) -> bool:
        """Its recorder was stopped before it wrote how much it recorded, or wrote into a pipe."""
        near = any(abs(self.announced - size) <= UNKNOWN_NEAR_BYTES for size in (2**31, 2**32))
        piped = near and self.form.size[1] == "I"
        unwritten = piped or not self.announced
        return (
            self.announced < 0 or (piped and self.announced > self.found) or (unwritten and self.follows == "samples")
        )

    @property
    def common_frames(self) -> int:
        """Samples of each channel by the COMM chunk of an AIFF; 0 where there is none. AIFC counts packets in it."""
        is_aiff = self.form.type == (8, b"AIFF")
        return int.from_bytes(self.format[2:6], "big") if is_aiff else 0

    @property
    def breaks_off(self) -> bool:
        """Samples are missing that the header promises."""
        return not self.unknown and self.announced > self.found + SLACK_BYTES

    @property
    def goes_on(self) -> bool:
        """There are more samples than the header promises."""
        return not self.unknown and self.follows == "samples"

    def pieces(self) -> list[Piece]:
        """The file with a header that tells the truth, for a decoder to believe."""
        samples = range(self.begin, self.begin + self.found)
        if self.form in WAVES:
            return [_wave_header(self.form, self.format, self.found), samples]
        limit = 2 ** (8 * struct.calcsize(self.form.size)) - 1
        size = self.found + self.form.skip + (self.form.header_bytes if self.form.inclusive else 0)
        mended = struct.pack(self.form.size, min(size, limit))
        return [range(self.size_at), mended, range(self.size_at + len(mended), samples.stop)]


def find_data(file: BinaryIO) -> DataChunk | None:
    """The chunk of samples; None for a file of another kind, or without one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(40)
    if head[:4] in AU and len(head) >= 12:
        return _find_in_au(file, size, AU[head[:4]], head)
    for form in FORMS:
        at, name = form.type
        if head[:4] == form.kind and head[at : at + len(name)] == name:
            return _find_in_chunks(file, size, form)
    return None


def _find_in_au(file: BinaryIO, size: int, form: Form, head: bytes) -> DataChunk | None:
    begin, announced = struct.unpack(form.size[0] + "II", head[4:12])
    found = size - begin
    if found < 0:
        return None
    if announced == 2**32 - 1:
        return DataChunk(form, b"", 8, begin, -1, found, "nothing")
    follows, _ = _look_behind(file, begin + announced, size, None)
    return DataChunk(form, b"", 8, begin, announced, found if follows == "samples" else min(found, announced), follows)


def _find_in_chunks(file: BinaryIO, size: int, form: Form) -> DataChunk | None:
    long, wave_format, place = 0, b"", form.head
    for _ in range(CHUNKS):
        file.seek(place)
        header = file.read(form.header_bytes)
        if len(header) < form.header_bytes:
            return None
        name = header[: form.name_bytes]
        (announced,) = struct.unpack(form.size, header[form.name_bytes :])
        if form.inclusive:
            announced = max(0, announced - form.header_bytes)
        begin = place + form.header_bytes
        if name.startswith(form.samples):
            if form.kind in {b"RF64", b"BW64"} and announced == 2**32 - 1:
                announced = long
            return _measure(file, size, form, wave_format, begin, announced)
        if name == b"ds64":
            long = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name in {b"fmt ", b"COMM"}:
            wave_format = file.read(min(announced, 4096))
        if announced < 0:
            return None
        place = begin + announced + -announced % form.align
    return None


def _measure(
    file: BinaryIO, size: int, form: Form, wave_format: bytes, chunk_begin: int, chunk_announced: int
) -> DataChunk:
    """How long the samples are that a chunk holds, by what lies behind them."""
    begin = chunk_begin + form.skip
    announced = chunk_announced if chunk_announced < 0 else max(0, chunk_announced - form.skip)
    size_at, found = chunk_begin - struct.calcsize(form.size), max(0, size - begin)
    if announced < 0 or announced >= found:
        return DataChunk(form, wave_format, size_at, begin, announced, found, "nothing")
    for wrapped in range(announced + 2**32, found + 1, 2**32):  # a size of 32 bits that began anew
        if _look_behind(file, begin + wrapped + -wrapped % form.align, size, form)[0] in {"nothing", "chunks"}:
            return DataChunk(form, wave_format, size_at, begin, announced, wrapped, "samples")
    follows, second = _look_behind(file, begin + announced + -announced % form.align, size, form)
    if follows != "samples":
        return DataChunk(form, wave_format, size_at, begin, announced, announced, follows, second)
    return DataChunk(form, wave_format, size_at, begin, announced, found, "samples")


def _look_behind(file: BinaryIO, begin: int, size: int, form: Form | None) -> tuple[Following, int | None]:
    """What stands from here to the end, and where the next file begins; without a form there are no chunks."""
    if size - begin <= SLACK_BYTES and form is None:
        return "nothing", None
    place = begin
    while place < size:
        file.seek(place)
        head = file.read(40)
        if head.startswith(TAGS):
            return "chunks", None
        length = None if form is None else _chunk_bytes(head, form, size - place)
        if length is None:
            if place > begin or size - place <= SLACK_BYTES:
                return "nothing" if place == begin else "chunks", None
            return "zeros" if _all_zeros(file, place) else "samples", None
        if form is not None and head[:4] == form.kind and head[form.type[0] :].startswith(form.type[1]):
            return "file", place
        place += length
    return "nothing" if place == begin else "chunks", None


def _chunk_bytes(head: bytes, form: Form, left: int) -> int | None:
    """The whole length of a chunk that begins so, None where none does."""
    name, field = head[:4], head[form.name_bytes : form.header_bytes]
    if len(head) < form.header_bytes or not name.strip().isalnum():
        return None
    (length,) = struct.unpack(form.size, field)
    length += 0 if form.inclusive else form.header_bytes
    if length < form.header_bytes or (length > left and name not in CHUNK_NAMES):
        return None
    return int(length + -length % form.align)


def _all_zeros(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    while content := file.read(ZEROS_BYTES):
        if content.strip(b"\0"):
            return False
    return True


def _wave_header(form: Form, wave_format: bytes, samples: int) -> bytes:
    """Of a WAV that holds nothing but samples; RF64 where their size does not fit into 32 bits."""
    order = form.size[0]
    chunk = b"fmt " + struct.pack(order + "I", len(wave_format)) + wave_format + bytes(len(wave_format) % 2)
    if samples + len(chunk) + 16 < 2**32 and form.kind not in {b"RF64", b"BW64"}:
        head = form.kind + struct.pack(order + "I", 4 + len(chunk) + 8 + samples) + b"WAVE"
        return head + chunk + b"data" + struct.pack(order + "I", samples)
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 36 + len(chunk) + 8 + samples, samples, 0, 0)
    head = b"RF64" + struct.pack("<I", 2**32 - 1) + b"WAVE" + ds64
    return head + chunk + b"data" + struct.pack("<I", 2**32 - 1)
