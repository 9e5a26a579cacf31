"""One decoder for every command: an audio file from its first sample to its last, no more and no fewer.

The header is compared with the content. A file that was cut short raises an error, unless the caller wants what is
left of it. Every other difference is reported once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from flexiast.arrays import Float
from flexiast.data.levels import Levels
from flexiast.data.media import extra_hint, open_media
from flexiast.data.spliced import splice
from flexiast.data.structure import Layout, examine
from flexiast.errors import DataError, FlexiastError
from flexiast.log import Log

RATES_HZ = (1_000, 768_000)
"""Sample rates of audio; a file that claims another is damaged, and resampling it could fill the memory."""
KINDS = "expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
TOLERANCE_S = 0.05
"""An error of an MP3's header up to this, a frame or two, is not reported."""
ENCODER_S = 0.3
"""Most that an MP3 encoder adds at both ends, which decoders remove: 1,105 and about 1,152 samples, at 8 kHz."""
POINTER_BYTES = 32
SALVAGE = "copy it again, or hear what is there with `flexiast classify --keep-cut`"
SALVAGE_FRAMES = 1024
"""Block size for a file that may break off: the block in which it does is lost."""


class Decoder(Protocol):
    """One stream of audio, read from its beginning to its end; may raise anything."""

    samplerate: int
    channels: int
    frames: int
    """As its header promises"""
    complaints: int
    """Blocks in which it found damage"""

    def read_block(self, frames: int) -> Float:
        """[frames, channels], fewer at the end of the stream, none after it."""
        ...

    def close(self) -> None: ...


def choose_decoder(source: bytes | BinaryIO, name: str) -> Decoder:
    """The decoder of a file, given by its name or open: libsndfile, or FFmpeg for what that does not know.

    ``name`` is what errors call it. This is the one place where a decoder is chosen.
    """
    import soundfile

    from flexiast.data.libsndfile import SequentialFile

    try:
        decoder: Decoder = SequentialFile(source)
    except soundfile.LibsndfileError:
        file = Path(os.fsdecode(source)).open("rb") if isinstance(source, bytes) else source  # noqa: SIM115 (closed there)
        file.seek(0)
        media = open_media(file, name, Path(name).suffix)
        if media is None:
            raise
        decoder = media
    return decoder


class AudioFile:
    """An open audio file, mono or with all its channels; raises DataError however it is damaged.

    ``log`` receives each other fault as a message that begins with the file's name.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        path: bytes | None,
        log: Log,
        *,
        channel: int | None = None,
        keep_cut: bool = False,
    ) -> None:
        """``path`` is what libsndfile may open by itself, if there is no more to it; ``channel`` counts from 1."""
        self._file, self._name, self._path, self._log, self._keep_cut = file, name, path, log, keep_cut
        with self._translate_errors("cannot be read as audio"):
            self._layout: Layout = examine(file)
        self._decoder = self._open(0)
        self._passed = 0
        """Frames that were sought over"""
        self.rate_hz: int = self._decoder.samplerate
        self._channel = channel
        self.channels: int = self._decoder.channels
        """Of the file, also if one was chosen"""
        try:
            self._check_header(self._decoder, channel)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Blocks can no longer be read."""
        self._decoder.close()

    def blocks(self, frames: int, start: int = 0) -> Iterator[Float]:
        """[at most ``frames``, channels] in −1 … 1, or [.., 1] of the channel that was chosen; none is empty.

        They begin at frame ``start``: it is sought where that is exact, else what comes before is decoded.
        """
        levels, delivered = Levels(1 if self._channel else self.channels), self._seek(start)
        for block in filter(len, self._segments(frames)):
            if delivered + len(block) <= start:
                delivered += len(block)
                continue
            whole = block[max(0, start - delivered) :]
            delivered += len(block) - len(whole)
            samples = whole if self._channel is None else whole[:, self._channel - 1 : self._channel]
            try:
                levels.push(samples)
            except DataError as error:
                raise DataError(f"{self._name} {error}") from None
            delivered += len(samples)
            yield samples
        if delivered <= start:
            after = f" after {start / self.rate_hz:.2f} s" if start else ""
            raise DataError(f"{self._name} holds no samples{after}; remove it or record it again")
        self._check_length(delivered)
        for warning in levels.warnings():
            self._log(f"{self._name} {warning}")

    def _seek(self, start: int) -> int:
        """Seek in a file that is one stream of plain samples or FLAC; returns the frame where decoding begins."""
        from flexiast.data.libsndfile import SequentialFile

        decoder = self._decoder
        if len(self._layout.segments) == 1 and isinstance(decoder, SequentialFile) and decoder.seeks_to(start):
            self._passed = start
        return self._passed

    def _open(self, number: int) -> Decoder:
        pieces = self._layout.segments[number]
        expected = _describe_pointer(self._file) or KINDS + extra_hint(Path(self._name).suffix)
        with self._translate_errors("cannot be read as audio", expected):
            if pieces is None and self._path is not None:
                return choose_decoder(self._path, self._name)
            if pieces is None:
                self._file.seek(0)
            return choose_decoder(self._file if pieces is None else splice(self._file, pieces), self._name)

    def _segments(self, frames: int) -> Iterator[Float]:
        """All streams of the file, as if they were one of the first one's kind."""
        for number in range(len(self._layout.segments)):
            if number:
                self._decoder.close()
                try:
                    self._decoder = self._open(number)
                except DataError as error:
                    self._refuse_or_report(
                        f"its stream {number + 1} of {len(self._layout.segments)} cannot be read ({error})"
                    )
                    continue
            yield from self._convert(self._decoder, frames)

    def _convert(self, decoder: Decoder, frames: int) -> Iterator[Float]:
        import soxr

        same_rate, same_channels = decoder.samplerate == self.rate_hz, decoder.channels == self.channels
        resampler = None
        if not same_rate:
            resampler = soxr.ResampleStream(decoder.samplerate, self.rate_hz, self.channels, dtype="float32")
        for block in self._decode(decoder, frames):
            mix = block.mean(axis=1, keepdims=True, dtype=np.float32)
            samples = block if same_channels else np.repeat(mix, self.channels, axis=1)
            yield samples if resampler is None else resampler.resample_chunk(samples)
        if resampler is not None:
            yield resampler.resample_chunk(np.empty((0, self.channels), np.float32), last=True)

    def _decode(self, decoder: Decoder, frames: int) -> Iterator[Float]:
        """Blocks of one stream, as far as it can be decoded."""
        from flexiast.data.libsndfile import UNKNOWN_FRAMES

        size = min(frames, SALVAGE_FRAMES) if self._keep_cut else frames  # a block that breaks off is lost
        delivered = self._passed
        while True:
            try:
                with self._translate_errors("broke off while it was read", None if self._keep_cut else SALVAGE):
                    block = decoder.read_block(size)
            except DataError as error:
                if not self._keep_cut:
                    raise
                self._log(f"{error}; what came before is kept")
                return
            if not len(block):
                break
            delivered += len(block)
            yield block
        if decoder.complaints:
            self._log(f"{self._name} holds damaged MP3 frames; what is heard in their place may be noise")
        rate_hz = decoder.samplerate
        if (
            self._layout.counted_s is None
            and delivered + self._count_padding(rate_hz) < decoder.frames < UNKNOWN_FRAMES
        ):
            self._refuse_or_report(
                f"its header announces {decoder.frames / rate_hz:.2f} s, {delivered / rate_hz:.2f} s are there"
            )

    def _count_padding(self, rate_hz: int) -> int:
        """Frames that a header may count and a decoder remove: an encoder's, where every byte is there (MP3 in WAV).

        Also of an MP3 of free format, whose frames nothing here counts.
        """
        whole = self._layout.found_bytes > 0 and self._layout.announced_bytes is None
        whole = whole or getattr(self._decoder, "format", None) == "MP3"
        return round(ENCODER_S * rate_hz) if whole else 0

    def _check_header(self, decoder: Decoder, channel: int | None) -> None:
        """Check what is known before anything is decoded."""
        if not RATES_HZ[0] <= self.rate_hz <= RATES_HZ[1]:
            raise DataError(
                f"{self._name} claims {self.rate_hz:,} samples a second; expected {RATES_HZ[0]:,} to {RATES_HZ[1]:,}"
            )
        if channel is not None and not 1 <= channel <= decoder.channels:
            raise DataError(f"{self._name} has no channel {channel}; give one from 1 to {decoder.channels}")
        layout = self._layout
        if not layout.ended:
            self._refuse_or_report("its last page is missing, so it was cut off or never finished")
        if layout.announced_bytes is not None and layout.announced_bytes != layout.found_bytes:
            frames_per_byte = decoder.frames / layout.found_bytes if layout.found_bytes else 0.0
            announced_s = layout.announced_bytes * frames_per_byte / self.rate_hz
            found_s = decoder.frames / self.rate_hz
            if layout.announced_bytes > layout.found_bytes:
                announced, found = f"{layout.announced_bytes:,} bytes of samples", f"{layout.found_bytes:,} bytes"
                if decoder.frames:  # FFmpeg does not tell them before it has decoded all
                    announced, found = f"{announced_s:.2f} s ({announced})", f"{found_s:.2f} s ({found})"
                self._refuse_or_report(f"its header announces {announced}, {found} are there")
            else:
                self._log(
                    f"{self._name}: its header announces {announced_s:.2f} s, {found_s:.2f} s are there and heard"
                )
        self._report_structure(decoder)

    def _report_structure(self, decoder: Decoder) -> None:
        """Report what was found in the file that its header does not tell, or tells otherwise."""
        layout = self._layout
        counted_s, promised_s = layout.counted_s, layout.announced_s
        if counted_s is not None and promised_s is not None and abs(promised_s - counted_s) > TOLERANCE_S:
            self._log(f"{self._name}: its header announces {promised_s:.2f} s, {counted_s:.2f} s are there and heard")
        if layout.common_frames not in {0, decoder.frames}:
            announced_s, found_s = layout.common_frames / self.rate_hz, decoder.frames / self.rate_hz
            self._log(f"{self._name}: its header announces {announced_s:.2f} s, {found_s:.2f} s are there and heard")
        if layout.joins:  # the decoders of others read the tags as the beginning of a frame, which they then give up
            places = "in one place" if layout.joins == 1 else f"in {layout.joins} places"
            self._log(
                f"{self._name} holds tags between its frames {places}, as MP3s do that were joined end to end; all of "
                "it is heard, other players may skip a frame there"
            )
        if layout.cut_s:
            self._log(
                f"{self._name} ends inside a frame, so it was cut off; its last {layout.cut_s:.2f} s are in doubt"
            )
        if layout.more_frames:
            self._log(
                f"{self._name}: its header leaves out the last {layout.more_frames / self.rate_hz:.2f} s; all is heard"
            )
        if layout.junk_bytes:
            self._log(
                f"{self._name} holds {layout.junk_bytes:,} bytes of no MPEG audio or of frames cut in two; they are "
                "passed over, and times behind them may be wrong by some frames"
            )

    def _check_length(self, delivered: int) -> None:
        """Report an MP3 that decodes to another length than that of its frames, allowing for its encoder's padding."""
        counted_s, decoded_s = self._layout.counted_s, delivered / self.rate_hz
        if counted_s is not None and not counted_s - ENCODER_S <= decoded_s <= counted_s + TOLERANCE_S:
            self._log(f"{self._name} holds frames of {counted_s:.2f} s, {decoded_s:.2f} s of it can be decoded")

    def _refuse_or_report(self, what: str) -> None:
        """Raise DataError for a recording that was cut short; only report it if the caller keeps what is left."""
        if not self._keep_cut:
            raise DataError(f"{self._name} breaks off: {what}; {SALVAGE}")
        self._log(f"{self._name} is cut short: {what}")

    @contextmanager
    def _translate_errors(self, what: str, expected: str | None = None) -> Iterator[None]:
        """Turn whatever a decoder raises, MemoryError included, into a DataError that names the file."""
        try:
            yield
        except FlexiastError:
            raise
        except Exception as error:
            # libsndfile's own words name the path that it was given, which may be that of a copy.
            reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
            reason = (
                "it is of no known kind" if reason.startswith(("File does not exist", "Internal error")) else reason
            )
            raise DataError(
                f"{self._name} {what}: {reason.rstrip('.')}" + (f"; {expected}" if expected else "")
            ) from error


def _describe_pointer(file: BinaryIO) -> str:
    """What to do about a file that stands for one which was not fetched; empty for any other."""
    file.seek(0)
    head = file.read(POINTER_BYTES)
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: fetch the audio with git lfs pull"
    if head.startswith(b"/annex/objects/"):
        return "it is a pointer of git-annex: fetch the audio with git annex get"
    return ""
