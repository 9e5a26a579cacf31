"""Audio that libsndfile does not know, such as AAC, WMA and WebM, decoded by FFmpeg where PyAV is installed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer


MEDIA_SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".wma", ".asf", ".webm", ".weba", ".mka", ".mkv"}
    | {".amr", ".ac3", ".eac3", ".wv", ".tta", ".avi", ".flv"}
)
"""What is named so is searched for where PyAV is installed; the content decides how it is read."""

EXTRA = "pip install 'flexiast[media]'"

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,amr,ac3,eac3,caf,wv,tta,avi,flv,ogg,wav"
"""FFmpeg's names of what is opened. Playlists are not among them: one could make FFmpeg open an address on the net."""

SHARED_CONTAINERS, LIBSNDFILE_CODECS = ("ogg", "wav"), ("vorbis", "opus", "pcm_")
"""What libsndfile reads too, unless the codec is another, such as FLAC or Speex in Ogg. Its own codecs it refuses for a
reason."""

LENGTH_KNOWN = ("mov", "matroska", "asf", "caf", "wv", "tta")
"""Containers that store their length; FFmpeg estimates that of the others."""

SLACK_S = 0.5
"""May be missing: a codec's padding, and rounding of the stored length."""


def is_available() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def open_media(file: BinaryIO, name: str, suffix: str = "") -> MediaFile | None:
    """The open file, or None where PyAV is missing or the content is none of ``CONTAINERS``.

    ``file`` must be seekable and is closed with the result. ``suffix`` is what its name ends with: content that cannot
    be opened, though its name promises a medium, raises DataError.
    """
    if not is_available():
        file.close()
        return None
    import av

    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(file, "r", options=options)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        file.close()
        if suffix.lower() in MEDIA_SUFFIXES:
            raise DataError(
                f"{name} cannot be read as audio: {_reason(error)}; it may be damaged or protected against copying"
            ) from error
        return None
    if container.format.name in SHARED_CONTAINERS and _codec(container).startswith(LIBSNDFILE_CODECS):
        container.close()
        file.close()
        return None
    return MediaFile(container, file, name)


def extra_hint(suffix: str) -> str:
    """What an error adds for a file that PyAV would read; empty for others and where PyAV is installed."""
    if suffix.lower() not in MEDIA_SUFFIXES or is_available():
        return ""
    return f". For {suffix} install PyAV ({EXTRA}), or convert the file to FLAC"


class MediaFile:
    """The first sound of an open medium, read once from its beginning to its end.

    Raises DataError for a file without sound, one that breaks
    off, and whatever else FFmpeg refuses.
    """

    frames = 0
    """Its length is compared here, by the end, with what its header promises."""
    complaints = 0

    def __init__(self, container: InputContainer, file: BinaryIO, name: str) -> None:
        self._container, self._file, self._name = container, file, name
        decoded = self._decode()
        try:
            first = next(decoded)
        except BaseException:
            self.close()
            raise
        self._decoded = chain((first,), decoded)
        self.channels: int = first.shape[1]
        self._pending: list[Float] = []
        self._held = 0

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def read_block(self, frames: int) -> Float:
        """Samples [at most ``frames``, channels] in [-1, 1]; none at the end."""
        while self._held < frames and (samples := next(self._decoded, None)) is not None:
            self._pending.append(samples)
            self._held += len(samples)
        joined = np.concatenate(self._pending) if self._pending else np.zeros((0, self.channels), np.float32)
        self._pending, self._held = [joined[frames:]], max(0, len(joined) - frames)
        return joined[:frames]

    def _decode(self) -> Iterator[Float]:
        import av

        if not self._container.streams.audio:
            raise DataError(f"{self._name} holds no sound; remove it")
        stream = self._container.streams.audio[0]
        resampler: Any = None
        length_s = Fraction(0)
        try:
            for frame in self._container.decode(stream):
                if resampler is None:  # by a decoded frame: a header may name half its rate (HE-AAC)
                    self.samplerate: int = frame.sample_rate
                    resampler = av.AudioResampler("fltp", frame.layout, frame.sample_rate)
                for converted in resampler.resample(frame):
                    samples = np.ascontiguousarray(converted.to_ndarray().T, dtype=np.float32)
                    length_s += Fraction(len(samples), self.samplerate)
                    yield samples
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise DataError(
                f"{self._name} breaks off: {_reason(error)}; copy it again or convert it to FLAC"
            ) from error
        if not length_s:
            raise DataError(f"{self._name} holds no samples; remove it or record it again")
        announced_s = self._header_duration_s()
        if announced_s is not None and announced_s > length_s + SLACK_S:
            raise DataError(
                f"{self._name} breaks off: its header announces {announced_s:.2f} s, {float(length_s):.2f} are there; "
                "copy it again, or convert it to keep what is there"
            )

    def _header_duration_s(self) -> float | None:
        """Seconds of sound that the header promises, None where it promises none."""
        stream = self._container.streams.audio[0]
        if not self._container.format.name.startswith(LENGTH_KNOWN):
            return None
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if self._container.duration is not None and not self._container.streams.video:  # a picture may last longer
            return self._container.duration / 1e6
        return None


def _codec(container: InputContainer) -> str:
    """Of the first sound; empty where there is none."""
    return str(container.streams.audio[0].codec_context.name) if container.streams.audio else ""


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
