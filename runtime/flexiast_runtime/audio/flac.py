"""Mono audio as a FLAC file of 16 bits in memory."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

Float = NDArray[np.float32]


def encode_flac(samples: Float, rate_hz: int, comment: str) -> bytes:
    """The whole file; ``comment``, which is not empty, is stored in it. Samples beyond ±1 are clipped."""
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", rate_hz, 1, "PCM_16", format="FLAC") as file:
        file.comment = comment
        file.write(samples)
    return content.getvalue()
