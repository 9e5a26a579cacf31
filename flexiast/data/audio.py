"""Audio files → mono float32 at the model's sample rate."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from flexiast.arrays import Float
from flexiast.data.decoder import AudioFile
from flexiast.data.spliced import splice
from flexiast.errors import DataError
from flexiast.log import Log, log_nothing
from flexiast.objects import RemoteShard

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".caf"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".voc", ".sph", ".nist", ".iff", ".8svx", ".avr", ".paf", ".pvf"}
    | {".sds", ".sf", ".ircam", ".wve"}
)
"""What libsndfile reads. Names that mostly belong to something else (.mat, .htk, .mpc) and what needs a second file
(.sd2) or has no header (.raw) must be named one by one."""


SPAN_ROUNDING_S = 0.1
"""By so much a span may end after its file, which is where it then ends."""

BLOCK_FRAMES = 65_536
"""Decoded at once of a file that is read as a whole."""

CHECKED_FRAMES = 4_096
"""Decoded of a file to see whether it is audio: a third of the time of a second of Ogg."""

ERRORS_LISTED = 20
"""Bad files that a message names."""


class Part(NamedTuple):
    """Where an audio file lies inside a larger one, such as a shard; in bytes."""

    offset: int
    size: int
    shard: RemoteShard | None = None
    """The larger one, if it is in an object store"""


@contextmanager
def open_audio(
    path: Path,
    part: Part | None = None,
    *,
    name: str | None = None,
    channel: int | None = None,
    keep_cut: bool = False,
    log: Log = log_nothing,
) -> Iterator[AudioFile]:
    """The open file, or the one that lies at ``part`` of it; raises DataError, also for one that was cut short.

    ``name`` is what errors call it, where the path is that of a copy. ``keep_cut`` takes what is left of one that was
    cut short, ``channel`` one channel, counted from 1. ``log`` is given, in words that begin with the file's name, what
    else differs from what its header promises or from what a recording is. Names are handed on as bytes, for not all
    are UTF-8.
    """
    if part is not None and part.shard is not None:
        content, name = part.shard.read(part.offset, part.size), f"{part.shard} at byte {part.offset:,}"
        with closing(AudioFile(io.BytesIO(content), name, None, log, channel=channel)) as audio:
            yield audio
        return
    name = (name or str(path)) + ("" if part is None else f" at byte {part.offset:,}")
    try:
        if path.exists() and not path.is_file():
            raise IsADirectoryError("it is no file")
        file: BinaryIO = path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{name} does not exist; give an audio file") from error
    except (OSError, ValueError) as error:  # a name may hold a zero byte, which the system does not take
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be read as audio: {reason}") from error
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise DataError(f"{name} cannot be read as audio: it is empty; record or copy it again")
    with file:
        whole = None if part is not None else os.fsencode(path)
        view = file if part is None else splice(file, [range(part.offset, part.offset + part.size)])
        audio = AudioFile(view, name, whole, log, channel=channel, keep_cut=keep_cut)
        try:
            yield audio
        finally:
            audio.close()


def check_audio(path: Path, log: Log = log_nothing) -> None:
    """Raise DataError for a file that is no audio, was cut short or holds no samples; a block of it is decoded."""
    with open_audio(path, log=log) as audio:
        next(audio.blocks(CHECKED_FRAMES))


def decode_audio(
    path: Path,
    part: Part | None = None,
    log: Log = log_nothing,
    span_s: tuple[float, float] | None = None,
) -> tuple[Float, int]:
    """The whole file, or a span of it, as mono [samples] in [-1, 1] and its rate in Hz. Channels are averaged.

    Raises DataError, also for a span that the file ends before.
    """
    with open_audio(path, part, log=log) as audio:
        blocks = [samples.mean(axis=1, dtype=np.float32) for samples in audio.blocks(BLOCK_FRAMES)]
        mono, rate_hz = np.concatenate(blocks), audio.rate_hz
    start, end = span_samples(path, span_s, len(mono), rate_hz)
    return mono[start:end], rate_hz


def span_samples(path: Path, span_s: tuple[float, float] | None, samples: int, rate_hz: int) -> tuple[int, int]:
    """First sample of a span and one past its last, in a file of so many samples; raises DataError outside it."""
    if span_s is None:
        return 0, samples
    start, end = (round(seconds * rate_hz) for seconds in span_s)
    if end > samples + round(SPAN_ROUNDING_S * rate_hz) or start >= samples:
        raise DataError(
            f"{path} lasts {samples / rate_hz:.2f} s, and {span_s[0]:g} s to {span_s[1]:g} s of it were named; correct "
            "the times, or name the file that was meant"
        )
    return start, min(end, samples)


def read_audio(
    path: Path,
    sample_rate_hz: int,
    part: Part | None = None,
    log: Log = log_nothing,
    span_s: tuple[float, float] | None = None,
) -> Float:
    """The whole file, or a span of it, as mono [samples] in [-1, 1] at ``sample_rate_hz``; raises DataError.

    Other rates are resampled by soxr at its high quality.
    """
    import soxr

    try:
        mono, rate = decode_audio(path, part, log, span_s)
        waveform: Float = mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz)
    except MemoryError as error:
        raise DataError(f"{path} is too long for this machine's memory; cut it into parts") from error
    if not len(waveform):
        raise DataError(f"{path} is shorter than one sample at {sample_rate_hz:,} Hz; remove it")
    return waveform


def check_bad_files(errors: Sequence[DataError], files: int) -> None:
    """Raise one DataError that lists the bad ones of so many files, where more than half are bad.

    A few are what every folder gathers; so many mean another folder than was meant, or a copy that failed.
    """
    if 2 * len(errors) <= files:
        return
    if files == 1:
        raise errors[0]
    raise DataError(
        f"{len(errors):,} of {files:,} files cannot be used, more than half; check that this is the right folder, mend "
        f"or remove them:\n{list_errors(errors)}"
    )


def list_errors(errors: Sequence[DataError]) -> str:
    """One indented line for each of the first ``ERRORS_LISTED``, and how many there are besides."""
    more = len(errors) - ERRORS_LISTED
    return "\n".join(
        [f"  {error}" for error in errors[:ERRORS_LISTED]] + ([f"  … and {more:,} more"] if more > 0 else [])
    )
