"""The streams in an audio file, found by their structure rather than by what the header promises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from flexiast.data import flac, mpeg, ogg, riff
from flexiast.data.spliced import Piece, splice

FLAC_STREAM = b"fLaC\0\0\0\x22"
"""Begins a FLAC stream: its magic and the header of its first block"""
SEARCH_BYTES = 1 << 20


class Layout(NamedTuple):
    """Streams that follow each other in a file, and how they differ from what the header says."""

    segments: tuple[Sequence[Piece] | None, ...] = (None,)
    """What a decoder is given for each; None is the file as it is"""
    ended: bool = True
    """Whether the last Ogg page is marked as the last one."""
    announced_bytes: int | None = None
    """Bytes of samples by the header; None where it does not say or was never completed."""
    found_bytes: int = 0
    counted_s: float | None = None
    """Seconds of MPEG frames"""
    announced_s: float | None = None
    """By an MP3's header"""
    junk_bytes: int = 0
    """Bytes that are neither MPEG frame nor tag."""
    joins: int = 0
    """Places where tags stand between frames of an MP3."""
    common_frames: int = 0
    """Samples of each channel by the COMM chunk of an AIFF, which decoders do not ask; 0 where there is none."""
    more_frames: int = 0
    """Samples of each channel that are there beyond what a FLAC's header says."""
    cut_s: float = 0.0
    """Seconds of an MP3's last frame, if that was cut off."""


def examine(file: BinaryIO) -> Layout:
    """The layout of an audio file. A file of a kind that is not known here is one whole stream."""
    file.seek(0)
    magic = file.read(4)
    if magic == ogg.MAGIC:
        return _examine_ogg(ogg.find_links(file))
    if magic == FLAC_STREAM[:4]:
        return _examine_flac(file, _find_flac_streams(file))
    data = riff.find_data(file)
    if data is not None:
        return _examine_chunks(file, data)
    scan = mpeg.scan(file)
    return Layout() if scan is None or not any(stream.frames for stream in scan.streams) else _examine_mpeg(scan)


def _examine_ogg(links: list[ogg.Link]) -> Layout:
    if not links:
        return Layout()
    return Layout(_parts([range(link.begin, link.end) for link in links]), ended=links[-1].complete)


def _examine_flac(file: BinaryIO, streams: list[range]) -> Layout:
    """Layout of FLAC streams. A decoder stops where the header says, so one that says too little must not say it."""
    parts: list[Sequence[Piece] | None] = list(_parts(streams))
    counted = announced = 0
    for number, stream in enumerate(streams):
        info = flac.read_stream_info(file, stream.start)
        found = None if info is None or not info.announced else flac.count_samples(file, stream, info.block_size)
        if info is not None and found is not None and found > info.announced:
            start = flac.clear_length(file, stream.start)
            parts[number] = [start, range(stream.start + len(start), stream.stop)]
            counted, announced = counted + found, announced + info.announced
    return Layout(tuple(parts), more_frames=counted - announced)


def _find_flac_streams(file: BinaryIO) -> list[range]:
    size = file.seek(0, os.SEEK_END)
    begins, place = [0], len(FLAC_STREAM)
    while place < size:
        file.seek(place)
        found = file.read(SEARCH_BYTES + len(FLAC_STREAM) - 1).find(FLAC_STREAM)
        if found >= 0:
            begins.append(place + found)
        place += SEARCH_BYTES if found < 0 else found + len(FLAC_STREAM)
    return [range(begin, end) for begin, end in zip(begins, [*begins[1:], size], strict=True)]


def _examine_chunks(file: BinaryIO, data: riff.DataChunk) -> Layout:
    """Layout of a WAV or a related container. Files that were joined by `cat` are streams in a row."""
    size, begin, whole = file.seek(0, os.SEEK_END), 0, []
    while data.next_file is not None:
        whole.append([range(begin, begin + data.next_file)])
        begin += data.next_file
        following = riff.find_data(splice(file, [range(begin, size)]))
        if following is None:
            break
        data = following
    if not (data.found or data.unknown or whole):  # libsndfile would take what follows for samples
        raise ValueError("it holds no samples")
    rest: Sequence[Piece] | None = [range(begin, size)] if begin else None
    if data.unknown or data.goes_on or data.form.kind == b"BW64" or (data.breaks_off and data.form.kind == b"caff"):
        rest = [piece if isinstance(piece, bytes) else _shift(piece, begin) for piece in data.pieces()]
    compared = data.breaks_off or data.goes_on
    return Layout(
        (*whole, rest),
        announced_bytes=data.announced if compared else None,
        found_bytes=data.found,
        common_frames=0 if compared or whole else data.common_frames,
    )


def _examine_mpeg(scan: mpeg.Scan) -> Layout:
    streams = [stream for stream in scan.streams if stream.frames]
    counted_s = sum(stream.frames * stream.kind.samples / stream.kind.rate_hz for stream in streams)
    first, announced_s = streams[0], None
    if first.announced is not None:
        announced_s = first.announced * first.kind.samples / first.kind.rate_hz
    plain = len(streams) == 1 and len(first.ranges) == 1 and not first.missing
    trusted = plain and bool(first.encoder) and first.announced == first.frames
    segments = (None,) if trusted else tuple(stream.pieces(scan.file_bytes) for stream in streams)
    last = streams[-1].kind
    return Layout(
        segments,
        counted_s=counted_s,
        announced_s=announced_s,
        junk_bytes=scan.junk_bytes,
        joins=scan.joins,
        cut_s=last.samples / last.rate_hz if streams[-1].missing else 0.0,
    )


def _parts(parts: list[range]) -> tuple[Sequence[Piece] | None, ...]:
    return (None,) if len(parts) == 1 else tuple([part] for part in parts)


def _shift(piece: range, offset: int) -> range:
    return range(piece.start + offset, piece.stop + offset)
