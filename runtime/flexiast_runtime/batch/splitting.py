"""Long recordings in pieces, which classify anywhere and give the events of the whole.

A piece is a range of windows. It reads a little more before its first one, so that the resampler and the smoothing have
settled, and answers with smoothed scores instead of events: those that could begin or continue one. One detector then
takes the scores of all pieces in order, so every rule sees the whole recording. What a piece answers differs from the
scores of the whole by rounding alone, about 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast.spec import PatchSize, Spec
from flexiast.storage import RemotePath
from flexiast.text import printable, printable_line
from flexiast_runtime.audio.source import Chunk, FileSource, chunks
from flexiast_runtime.batch.formats import Result
from flexiast_runtime.batch.runner import BLOCK_S, Job, create_classifier
from flexiast_runtime.detection.detector import Detection
from flexiast_runtime.detection.framer import Window
from flexiast_runtime.detection.listener import create_detector
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

SETTLE_S = 0.1
"""Of audio before a piece: the resampler's filter is some milliseconds long."""
SETTLED = 16.0
"""Time constants after which what a smoothed score began with is a ten millionth of it, less than float32 holds."""
TRUST_S = 1.0
"""Of audio that a header may promise too much; the last piece, which reads to the end, has room for it."""


class Piece(NamedTuple):
    """Windows of a recording."""

    first: int
    """Number of its first window"""
    stop: int | None
    """One past its last; None where it ends with the recording"""


@dataclass(frozen=True)
class PieceScores:
    """The scores of a piece that matter to a detector."""

    windows: int
    """Classified, silent ones included"""
    window: NDArray[np.int32]
    """[scores], counted from the first one of the piece"""
    class_index: NDArray[np.int16]
    """[scores]"""
    score: Float
    """[scores], smoothed"""
    end_sample: int
    """One past the last sample that was read, at the model's rate"""
    rate_hz: int
    """Of the file"""
    patch: PatchSize
    bundle_sha256: str | None
    notices: tuple[str, ...] = ()


def plan_pieces(file: BinaryIO, job: Job, spec: Spec, piece_s: float) -> tuple[Piece, ...]:
    """Pieces of about so many seconds of an open recording, of which the header is read.

    One piece where it is shorter, where it cannot be sought in, or where pieces would differ from the whole: how
    several channels are mixed depends on all that came before, so they are split only where one is chosen.
    """
    import soundfile

    from flexiast.data.libsndfile import SequentialFile

    try:
        decoder = SequentialFile(file)
    except soundfile.LibsndfileError:  # whoever classifies it says what is wrong with it
        return (Piece(0, None),)
    with decoder:
        seconds = decoder.frames / decoder.samplerate
        if not decoder.is_exact or (decoder.channels > 1 and _one_channel(job) is None):
            return (Piece(0, None),)
    step = round(job.settings.step_s * spec.frontend.sample_rate_hz)
    samples = int((seconds - TRUST_S) * spec.frontend.sample_rate_hz) - spec.frontend.window_samples
    windows = max(1, samples // step)
    each = max(1, round(piece_s / job.settings.step_s))
    return split_windows([*range(each, windows - each // 2, each)])


def split_windows(borders: Sequence[int]) -> tuple[Piece, ...]:
    """The pieces between these windows, and after the last."""
    return tuple(map(Piece, (0, *borders), (*borders, None)))


def classify_piece(
    engines: Engines, job: Job, path: Path, piece: Piece, *, original: RemotePath | None = None
) -> PieceScores:
    """Scores of the windows of a piece; raises DataError where the recording cannot be read."""
    notices: list[str] = []
    frontend = engines.spec.frontend
    step = round(job.settings.step_s * frontend.sample_rate_hz)
    begin = max(0, piece.first - _settling_windows(job.settings, engines.spec))
    name = None if original is None else str(original)
    source = FileSource(path, BLOCK_S, name=name, channel=_one_channel(job), keep_cut=job.keep_cut, log=notices.append)
    end = math.inf if piece.stop is None else (piece.stop - 1) * step + frontend.window_samples
    recorder = _ScoreRecorder(job.settings, engines.spec, piece)
    classifier = create_classifier(engines, job, source, recorder)
    for _ in classifier.run(_chunks_between(source, frontend.sample_rate_hz, begin * step, end)):
        pass
    if piece.stop is not None and recorder.windows != piece.stop - piece.first:
        raise DataError(f"{source.name} ends before its header says; copy it again")
    return recorder.answer(source.rate_hz, job.patch, engines.bundle_sha256, tuple(map(printable, notices)))


def join_pieces(pieces: Sequence[PieceScores], job: Job, spec: Spec, path: Path | RemotePath) -> Result:
    """The result of a recording from the scores of all its pieces, in order."""
    rate_hz, source = spec.frontend.sample_rate_hz, printable_line(str(path))
    step = round(job.settings.step_s * rate_hz)
    detector, end = create_detector(spec, job.settings), pieces[-1].end_sample
    found: list[Detection] = []
    nothing = np.empty((0, spec.frontend.mel_bins), np.float32)
    first = 0
    for piece in pieces:
        for number, scores in enumerate(_dense(piece, len(spec.labels)), first):
            start = number * step
            window = Window(start, min(start + spec.frontend.window_samples, end), nothing, number == 0, nothing)
            found += detector.push(window, scores, piece.patch)
        first += piece.windows
    found += detector.flush(end)
    events = tuple(
        Event(
            source,
            spec.labels[each.class_index],
            each.start,
            each.end,
            rate_hz,
            each.score,
            each.patch,
            channel=_one_channel(job),
            threshold=each.threshold,
            bundle_sha256=pieces[-1].bundle_sha256,
        )
        for each in found
    )
    notices = tuple(dict.fromkeys(notice for piece in pieces for notice in piece.notices))
    return Result(path, source, pieces[-1].rate_hz, end / rate_hz, events, notices=notices)


def _one_channel(job: Job) -> int | None:
    """The channel that was chosen; None where all are mixed, or where each is a recording of its own."""
    return None if job.channel == "each" else job.channel


class _ScoreRecorder:
    """Stands where a detector would, and keeps the scores of a piece instead."""

    active: dict[int, float] = {}  # noqa: RUF012 (no event is open here)

    def __init__(self, settings: DetectionSettings, spec: Spec, piece: Piece) -> None:
        self._piece = piece
        self._step = round(settings.step_s * spec.frontend.sample_rate_hz)
        self._lowest = np.float32(settings.rules.release) * settings.rules.thresholds(spec.labels)
        """Below it [classes], a score is the end of an event whatever it is."""
        self._end = 0
        self._scores: list[tuple[NDArray[np.intp], Float]] = []

    @property
    def windows(self) -> int:
        return len(self._scores)

    def push(self, window: Window, scores: Float, patch: PatchSize) -> Iterator[Detection]:
        number = window.start // self._step
        if number >= self._piece.first and (self._piece.stop is None or number < self._piece.stop):
            classes = np.flatnonzero(scores >= self._lowest)
            self._scores.append((classes, scores[classes]))
        return iter(())

    def flush(self, end: int) -> Iterator[Detection]:
        self._end = end
        return iter(())

    def answer(
        self, rate_hz: int, patch: PatchSize, bundle_sha256: str | None, notices: tuple[str, ...]
    ) -> PieceScores:
        """What was kept, once the stream has ended."""
        counts = [len(classes) for classes, _ in self._scores]
        return PieceScores(
            len(self._scores),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            np.concatenate([np.empty(0, np.int16), *(classes.astype(np.int16) for classes, _ in self._scores)]),
            np.concatenate([np.empty(0, np.float32), *(scores for _, scores in self._scores)]),
            self._end,
            rate_hz,
            patch,
            bundle_sha256,
            notices,
        )


def _dense(piece: PieceScores, classes: int) -> Iterator[Float]:
    """The scores of each window [classes], 0 where they do not matter."""
    borders = np.searchsorted(piece.window, np.arange(piece.windows + 1))
    for begin, end in pairwise(borders):
        scores = np.zeros(classes, np.float32)
        scores[piece.class_index[begin:end]] = piece.score[begin:end]
        yield scores


def _settling_windows(settings: DetectionSettings, spec: Spec) -> int:
    """Windows before a piece, so that its own are smoothed as in the whole and hold no sample without a past."""
    overlapping = math.ceil(spec.frontend.window_s / settings.step_s)
    return 1 + max(overlapping, math.ceil(SETTLED * settings.smoothing_s / settings.step_s))


def _chunks_between(source: FileSource, rate_hz: int, start: int, end: float) -> Iterator[Chunk]:
    """Mono chunks of samples ``start`` … ``end`` at ``rate_hz``, numbered as in the whole recording.

    Reading begins at a frame of the file that falls on a sample at ``rate_hz``, some time before.
    """
    common = math.gcd(source.rate_hz, rate_hz)
    unit = max(0, start - round(SETTLE_S * rate_hz)) * common // rate_hz
    source.start_frame, base = unit * (source.rate_hz // common), unit * (rate_hz // common)
    for chunk in chunks(source, rate_hz):
        first = base + chunk.start
        last = first + len(chunk.samples)
        if last > start and first < end:
            samples = chunk.samples[max(0, start - first) : int(min(end, last)) - first]
            yield Chunk(max(start, first), samples, chunk.notices)
        if last >= end:
            return
