"""Audio files → mono float32 at the model's sample rate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import DataError

if TYPE_CHECKING:
    import soundfile

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
"""What a folder is searched for; libsndfile reads them all."""


RATES_HZ = (1_000, 768_000)
"""Sample rates of audio; a file that claims another is damaged, and resampling it could fill the memory."""


def open_audio(path: Path) -> soundfile.SoundFile:
    """The open file; raises DataError. Names are handed on as bytes, for not all are UTF-8."""
    import soundfile

    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as audio: {error}; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
        ) from error
    if not RATES_HZ[0] <= file.samplerate <= RATES_HZ[1]:
        rate = file.samplerate
        file.close()
        raise DataError(f"{path} claims {rate:,} samples a second; expected {RATES_HZ[0]:,} to {RATES_HZ[1]:,}")
    return file


def read_audio(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """The whole file as mono [samples] in [-1, 1] at ``sample_rate_hz``; raises DataError.

    Channels are averaged; other rates are resampled by soxr at its high quality.
    """
    import soundfile
    import soxr

    with open_audio(path) as file:
        try:
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"{path} breaks off: {error}; record or copy it again") from error
    if not np.isfinite(samples).all():
        raise DataError(f"{path} holds samples that are not numbers (NaN or infinite); export it again")
    mono = samples.mean(axis=1, dtype=np.float32)
    waveform: NDArray[np.float32] = mono if rate == sample_rate_hz else soxr.resample(mono, rate, sample_rate_hz)
    if not len(waveform):
        raise DataError(f"{path} holds no samples; remove it or record it again")
    return waveform


def find_audio(folder: Path) -> list[Path]:
    """Audio files anywhere under a folder, sorted; hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
