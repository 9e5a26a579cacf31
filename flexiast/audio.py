"""Audio files → mono float32 at the model's sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import DataError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
"""What a folder is searched for; libsndfile reads them all."""


def read_audio(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """The whole file as mono [samples] in [-1, 1] at ``sample_rate_hz``; raises DataError.

    Channels are averaged; other rates are resampled by soxr at its high quality.
    """
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as audio: {error}; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
        ) from error
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
