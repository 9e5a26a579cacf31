"""Audio files → mono float32 at the model's sample rate."""

from __future__ import annotations

import io
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast.media import MediaFile, extra_hint, open_media
from flexiast.riff import DataChunk, find_data

if TYPE_CHECKING:
    import soundfile

Content = TypeVar("Content", io.BytesIO, mmap.mmap)

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".caf"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".voc", ".sph", ".nist", ".iff", ".8svx", ".avr", ".paf", ".pvf"}
    | {".sds", ".sf", ".ircam", ".wve"}
)
"""What libsndfile reads. Names that mostly belong to something else (.mat, .htk, .mpc) and what needs a second file
(.sd2) or has no header (.raw) must be named one by one."""


RATES_HZ = (1_000, 768_000)
"""Sample rates of audio; a file that claims another is damaged, and resampling it could fill the memory."""


LOUDEST = 1e6
"""Of samples that belong into −1 … 1; integers that were stored as floats are borne, what no recorder wrote is not."""


class Part(NamedTuple):
    """Where an audio file lies inside a larger one, such as a shard; in bytes."""

    offset: int
    size: int


def open_audio(path: Path, part: Part | None = None) -> soundfile.SoundFile | MediaFile:
    """The open file, or the one that lies at ``part`` of it; raises DataError, also for a WAV that was cut short.

    One whose recorder was stopped before it wrote the length is read to its end. Names are handed on as bytes, for not
    all are UTF-8.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(_whole(path, part))
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        if isinstance(error, soundfile.LibsndfileError) and (media := _open_media(path, part)) is not None:
            return media
        raise DataError(
            f"{_named(path, part)} cannot be read as audio: {error}; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
            f"{extra_hint(path.suffix)}"
        ) from error
    if not RATES_HZ[0] <= file.samplerate <= RATES_HZ[1]:
        rate = file.samplerate
        file.close()
        raise DataError(
            f"{_named(path, part)} claims {rate:,} samples a second; expected {RATES_HZ[0]:,} to {RATES_HZ[1]:,}"
        )
    return file


def check_audio(path: Path) -> None:
    """Raise DataError for a file whose header is no audio's or promises no samples; nothing is decoded."""
    with open_audio(path) as file:
        if not file.frames:
            raise DataError(f"{path} holds no samples; remove it or record it again")


def decode_audio(path: Path, part: Part | None = None) -> tuple[NDArray[np.float32], int]:
    """The whole file as mono [samples] in [-1, 1] and its rate in Hz; raises DataError. Channels are averaged."""
    import soundfile

    with open_audio(path, part) as file:
        try:
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"{_named(path, part)} breaks off: {error}; record or copy it again") from error
    if not np.isfinite(samples).all():
        raise DataError(f"{_named(path, part)} holds samples that are not numbers (NaN or infinite); export it again")
    if len(samples) and (peak := float(np.abs(samples).max())) > LOUDEST:
        raise DataError(f"{_named(path, part)} holds samples up to {peak:.3g}, expected -1 … 1; export it again")
    if not len(samples):
        raise DataError(f"{_named(path, part)} holds no samples; remove it or record it again")
    return samples.mean(axis=1, dtype=np.float32), rate


def read_audio(path: Path, sample_rate_hz: int, part: Part | None = None) -> NDArray[np.float32]:
    """The whole file as mono [samples] in [-1, 1] at ``sample_rate_hz``; raises DataError.

    Other rates are resampled by soxr at its high quality.
    """
    import soxr

    mono, rate = decode_audio(path, part)
    waveform: NDArray[np.float32] = mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz)
    if not len(waveform):
        raise DataError(f"{_named(path, part)} is shorter than one sample at {sample_rate_hz:,} Hz; remove it")
    return waveform


def find_audio(folder: Path) -> list[Path]:
    """Audio files anywhere under a folder, sorted, as ``search.search_folder`` finds them."""
    from flexiast.search import search_folder  # which imports this module

    return list(search_folder(folder).files)


def check_bad_files(errors: Sequence[DataError], files: int, *, skip_bad: bool | None) -> None:
    """Raise one DataError that lists the bad ones of so many files, unless they are to be skipped and some remain.

    ``skip_bad`` is None where a command needs them all.
    """
    if errors and not skip_bad:
        listed = "\n".join(f"  {error}" for error in errors[:20])
        raise DataError(
            f"{len(errors)} of {files} files cannot be used; mend or remove them"
            + ("" if skip_bad is None else ", or skip them with --skip-bad")
            + f":\n{listed}"
        )
    if len(errors) == files:
        raise DataError("none of the files could be read")


def _named(path: Path, part: Part | None) -> str:
    return str(path) if part is None else f"{path} at byte {part.offset:,}"


def _whole(path: Path, part: Part | None) -> bytes | BinaryIO | mmap.mmap:
    """What libsndfile can open: a name, or the content where it lies in another file or lacks its length."""
    if part is not None:
        content = _read_part(path, part)
        data = _checked(content, path, part)
        return content if data is None else _ended(content, data)
    with path.open("rb") as file:
        data = _checked(file, path, part)
        # The file stays as it is: what is written goes into this process's copy.
        return os.fsencode(path) if data is None else _ended(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), data)


def _checked(file: BinaryIO, path: Path, part: Part | None) -> DataChunk | None:
    """The samples of a WAV that lacks their length, None for any other file; raises DataError for one cut short."""
    data = find_data(file)
    file.seek(0)
    if data is not None and data.breaks_off:
        raise DataError(
            f"{_named(path, part)} breaks off: its header announces {data.announced:,} bytes of samples, "
            f"{data.found:,} are there; copy it again, or convert it to keep what is there"
        )
    return data if data is not None and data.unended else None


def _ended(content: Content, data: DataChunk) -> Content:
    """The content with the length that nobody wrote."""
    content.seek(data.size_at)
    content.write(struct.pack("<I", min(data.found // 2 * 2, 2**32 - 2)))
    content.seek(0)
    return content


def _open_media(path: Path, part: Part | None) -> MediaFile | None:
    file = path.open("rb") if part is None else _read_part(path, part)
    return open_media(file, _named(path, part), path.suffix)


def _read_part(path: Path, part: Part) -> io.BytesIO:
    with path.open("rb") as file:
        file.seek(part.offset)
        return io.BytesIO(file.read(part.size))
