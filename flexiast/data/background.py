"""Background: recordings of any length in which none of the labels sounds, cut into stretches as they are needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from flexiast.arrays import Float
from flexiast.data.audio import BLOCK_FRAMES, Part, check_bad_files, open_audio, span_samples
from flexiast.data.clips import Clip
from flexiast.data.dataset import VALIDATION_SHARE, read_background_csv
from flexiast.data.search import find_audio
from flexiast.data.waveforms import WaveformSequence
from flexiast.errors import DataError

STRETCH_S = 20.0
"""Seconds read at once, up to twice as many: little enough to be cut anywhere soon, enough to make seeking cheap."""


MOST_WINDOWS = 500
"""Windows of background that are measured with the validation clips. Rare sounds need hours: see `calibrate`."""


class Stretch(NamedTuple):
    """Part of a recording."""

    path: Path
    part: Part | None
    start: int
    """First sample, at the recording's own rate"""
    samples: int
    rate_hz: int


@dataclass(frozen=True)
class Stretches(WaveformSequence):
    """Stretches of recordings as mono [samples] at one rate, decoded at each access; reading raises DataError."""

    stretches: tuple[Stretch, ...]
    sample_rate_hz: int

    def __len__(self) -> int:
        return len(self.stretches)

    def _read(self, place: int) -> Float:
        return _read(self.stretches[place], self.sample_rate_hz)

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600

    @property
    def seconds(self) -> list[float]:
        """Length of each stretch."""
        return [stretch.samples / stretch.rate_hz for stretch in self.stretches]

    def __add__(self, other: Stretches) -> Stretches:
        return replace(self, stretches=self.stretches + other.stretches)

    def windows(self, samples: int, most: int) -> Stretches:
        """Windows of so many samples side by side, at most so many of them and then evenly spread.

        A stretch that is shorter than a window is taken as it is; of a longer one what fills none is left out.
        """
        found = [window for stretch in self.stretches for window in _windows(stretch, samples / self.sample_rate_hz)]
        count = min(most, len(found))
        return replace(self, stretches=tuple(found[number * len(found) // count] for number in range(count)))


@dataclass(frozen=True)
class Chain(WaveformSequence):
    """Sequences of waveforms, one after the other."""

    parts: tuple[Sequence[Float], ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _read(self, place: int) -> Float:
        for part in self.parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(place)


def split_stretches(stretches: Stretches) -> tuple[Stretches, Stretches]:
    """The first four fifths, to train on, and the last, to validate on. A single stretch only trains."""
    held_back = max(1, round(VALIDATION_SHARE * len(stretches))) if len(stretches) > 1 else 0
    edge = len(stretches) - held_back
    first, last = stretches.stretches[:edge], stretches.stretches[edge:]
    return replace(stretches, stretches=first), replace(stretches, stretches=last)


def background_clips(paths: Sequence[Path]) -> tuple[Clip, ...]:
    """Every audio file of files and folders, and what a CSV lists, as clips without a label.

    Raises DataError where there is none.
    """
    clips: list[Clip] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist; give an audio file or a folder of them as background")
        if path.suffix.lower() == ".csv":
            clips += sorted(read_background_csv(path), key=lambda clip: (clip.path, clip.span_s or (0.0, 0.0)))
            continue
        found = find_audio(path) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} holds no audio; give recordings in which none of the labels sounds")
        clips += [Clip(file, (), "") for file in found]
    return tuple(clips)


def stretches_of(clips: Sequence[Clip], sample_rate_hz: int) -> tuple[Stretches, list[DataError]]:
    """Recordings as stretches of 20 to 40 s, shorter ones whole, and what was left out and why.

    Every file is decoded once, to know its true length: headers may be wrong. Raises DataError where most are bad.
    """
    found: list[Stretch] = []
    errors: list[DataError] = []
    lengths: dict[tuple[Path, Part | None], tuple[int, int]] = {}  # many clips may be spans of one long recording
    for clip in clips:
        try:
            if (clip.path, clip.part) not in lengths:
                lengths[clip.path, clip.part] = _measure_length(clip)
            found += _stretches(clip, *lengths[clip.path, clip.part])
        except DataError as error:
            errors.append(error)
    if clips:
        check_bad_files(errors, len(clips))
    return Stretches(tuple(found), sample_rate_hz), errors


def _measure_length(clip: Clip) -> tuple[int, int]:
    """Samples of a recording, which is decoded to know how long it really is, and its rate in Hz."""
    with open_audio(clip.path, clip.part) as file:
        return sum(map(len, file.blocks(BLOCK_FRAMES))), file.rate_hz


def _stretches(clip: Clip, samples: int, rate_hz: int) -> list[Stretch]:
    """Equal parts of a recording of so many samples, or of the span of it that the clip is."""
    first, last = span_samples(clip.path, clip.span_s, samples, rate_hz)
    count = max(1, int((last - first) / (STRETCH_S * rate_hz)))
    edges = [first + (last - first) * number // count for number in range(count + 1)]
    return [Stretch(clip.path, clip.part, start, end - start, rate_hz) for start, end in pairwise(edges)]


def _windows(stretch: Stretch, seconds: float) -> list[Stretch]:
    length = round(seconds * stretch.rate_hz)
    count = stretch.samples // length
    if not count:
        return [stretch]
    return [stretch._replace(start=stretch.start + number * length, samples=length) for number in range(count)]


class _Cursor:
    """A recording that is read from front to back. Reading its stretches in order decodes it once.

    A header may lie about a file's length, so nothing seeks in it.
    """

    def __init__(self, path: Path, part: Part | None) -> None:
        self.source, self.position, self._process = (path, part), 0, os.getpid()
        self._blocks = self._decode()
        self._rest: Float = np.empty(0, np.float32)

    def can_give(self, stretch: Stretch) -> bool:
        """Whether it stands before the stretch; a forked process shares its file's place and must not read on."""
        here = self.source == (stretch.path, stretch.part) and self._process == os.getpid()
        return here and self.position <= stretch.start

    def read(self, stretch: Stretch) -> Float:
        """Mono samples of the stretch."""
        while self.position < stretch.start and len(self._take(stretch.start - self.position)):
            pass
        pieces, missing = [], stretch.samples
        while missing and len(piece := self._take(missing)):
            pieces.append(piece)
            missing -= len(piece)
        if missing:
            raise DataError(f"{stretch.path} is shorter than it was when the run began; copy it again")
        return np.concatenate(pieces)

    def _take(self, most: int) -> Float:
        if not len(self._rest):
            self._rest = next(self._blocks, self._rest)
        taken, self._rest = self._rest[:most], self._rest[most:]
        self.position += len(taken)
        return taken

    def _decode(self) -> Iterator[Float]:
        with open_audio(*self.source) as file:
            for samples in file.blocks(BLOCK_FRAMES):
                yield samples.mean(axis=1, dtype=np.float32)


_cursors = threading.local()


def _read(stretch: Stretch, sample_rate_hz: int) -> Float:
    cursor: _Cursor | None = getattr(_cursors, "last", None)
    if cursor is None or not cursor.can_give(stretch):
        cursor = _cursors.last = _Cursor(stretch.path, stretch.part)
    mono = cursor.read(stretch)
    return mono if stretch.rate_hz == sample_rate_hz else soxr.resample(mono, stretch.rate_hz, sample_rate_hz)
