"""libsndfile, read from the beginning to the end, and never past what it wrote."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile

from flexiast.arrays import Float

UNKNOWN_FRAMES = 2**62
"""More than any file holds: libsndfile promises 2⁶³ − 1 frames where it cannot know."""


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # python-soundfile has no types
    """A file that is not sought in: python-soundfile seeks after each read to where it is already.

    That breaks off a FLAC of unknown length at its last block, makes an MP3 decoder start anew within a frame, and
    fails for codecs such as GSM that cannot seek.
    """

    def __init__(self, source: Any) -> None:
        with _capture_messages():
            super().__init__(source)
        self.complaints = 0
        """Blocks in which the MP3 decoder found damage"""

    def seekable(self) -> bool:
        return False

    def seeks_to(self, frame: int) -> bool:
        """Go on reading at a frame, where the format finds it exactly; False where nothing has changed."""
        if not self.is_exact or not 0 < frame <= self.frames:
            return False
        self.seek(frame)
        return True

    @property
    def is_exact(self) -> bool:
        """Whether its length is known and any frame can be sought: plain samples, and FLAC."""
        plain = self.subtype.startswith("PCM_") or self.subtype in {"FLOAT", "DOUBLE"}
        return bool(plain and self.frames < UNKNOWN_FRAMES)

    def read_block(self, frames: int) -> Float:
        """[frames, channels], fewer at the end of the file, none after it."""
        block = np.empty((frames, self.channels), np.float32)
        if self.format != "MP3":
            return block[: self.buffer_read_into(block, "float32")]
        with _capture_messages() as messages:
            count = self.buffer_read_into(block, "float32")
        self.complaints += bool(messages)
        return block[:count]


_LOCK = threading.Lock()


@contextmanager
def _capture_messages() -> Iterator[list[str]]:
    """What C libraries print on their stderr meanwhile, in a list that is filled at the end.

    libmpg123 prints every damaged frame, without the file's name. Only the C library's variable is exchanged: Python's
    stderr and the file descriptor, which other threads and processes use, stay as they are.
    """
    messages: list[str] = []
    try:
        libc = ctypes.CDLL(None)
        variable = ctypes.c_void_p.in_dll(libc, "stderr")
        open_memstream, close = libc.open_memstream, libc.fclose
    except (OSError, ValueError, AttributeError):  # a C library that keeps them under other names
        yield messages
        return
    open_memstream.restype, close.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    with _LOCK:
        stream = open_memstream(ctypes.byref(text), ctypes.byref(size))
        before, variable.value = variable.value, stream or variable.value
        try:
            yield messages
        finally:
            variable.value = before
            if stream:
                close(stream)
                messages += (text.value or b"").decode(errors="replace").splitlines()
                libc.free(text)
