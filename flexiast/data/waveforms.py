"""The audio of a data set, in memory as far as it fits."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from flexiast.arrays import Float
from flexiast.data.audio import read_audio
from flexiast.data.clips import Clip


class WaveformSequence(Sequence[Float]):
    """Mono waveforms [samples] that are indexed as a list is; a subclass reads the one at a place from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Float: ...
    @overload
    def __getitem__(self, index: slice) -> list[Float]: ...
    def __getitem__(self, index: int | slice) -> Float | list[Float]:
        places = range(len(self))[index]  # counts from the end and raises IndexError as lists do
        return self._read(places) if isinstance(places, int) else [self._read(place) for place in places]

    @abstractmethod
    def _read(self, place: int) -> Float: ...


class Waveforms(WaveformSequence):
    """Clips as mono [samples] in [-1, 1]: the first ones stand in memory, the others are decoded at each access.

    The same index gives the same samples, however much is in memory: float32 is kept, for rounding to 16 bits would
    raise quiet audio's log-mel floor and make a run depend on the machine's memory. Nothing changes after construction
    and no file stays open, so threads and forked processes may read at once. Reading raises DataError.
    """

    def __init__(self, clips: Sequence[Clip], sample_rate_hz: int, cached: Sequence[Float]) -> None:
        self._clips, self._sample_rate_hz, self._cached = clips, sample_rate_hz, cached

    @property
    def in_memory(self) -> Sequence[Float]:
        """Those of the first clips that need no decoding."""
        return self._cached

    def __len__(self) -> int:
        return len(self._clips)

    def _read(self, place: int) -> Float:
        if place < len(self._cached):
            return self._cached[place]
        clip = self._clips[place]
        return read_audio(clip.path, self._sample_rate_hz, clip.part, span_s=clip.span_s)


def memory_budget() -> int:
    """Bytes of decoded audio that one data set may keep: a quarter of the memory, shared by the processes of torchrun.

    Training and validation clips are held at once, and so are as much of the training clips' log-mels and half as much
    of the validation clips' features. The rest is left to the model and the page cache, which serves what does not fit.
    """
    return _memory_bytes() // 4 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _memory_bytes() -> int:
    """The machine's memory, or what a container (cgroup v2) may use of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical
