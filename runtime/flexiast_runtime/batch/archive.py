"""Tasks of an archive: a group of recordings, or a piece of a long one.

Whoever runs a group writes its results and marks it as done, so nothing but counts comes back. Of a piece the scores
come back, to be joined with those of the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from flexiast.errors import DataError, RemoteError
from flexiast.log import Log
from flexiast.objects import ObjectCache
from flexiast.spec import PatchSize
from flexiast.storage import Folder, RemotePath, Stored, is_url
from flexiast_runtime.batch.formats import Format, Result, render
from flexiast_runtime.batch.ledger import EVENTS, Entry, Recording, group_id, write_entry
from flexiast_runtime.batch.parquet import write_events
from flexiast_runtime.batch.runner import Job, classify_file, error_result
from flexiast_runtime.batch.splitting import Piece, PieceScores, classify_piece
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.backends import load_engines
from flexiast_runtime.inference.engine import Engines


class Task(NamedTuple):
    """What one worker does at once."""

    recordings: tuple[Recording, ...]
    """Classified together; one where it is long"""
    piece: Piece | None = None
    """Of that one; None where each is classified whole"""
    pieces: int = 1
    """That it consists of"""

    @property
    def size(self) -> float:
        """Bytes that it reads, about."""
        return sum(recording.size for recording in self.recordings) / self.pieces

    def to_json(self) -> str:
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Task:
        recordings, piece, pieces = json.loads(text)
        return cls(tuple(Recording(*each) for each in recordings), None if piece is None else Piece(*piece), pieces)


@dataclass(frozen=True)
class Report:
    """What came of a task."""

    task: Task
    audio_s: float = 0.0
    cpu_s: float = 0.0
    busy_s: float = 0.0
    """Seconds on the clock"""
    events: int = 0
    patch: PatchSize | None = None
    failed: tuple[tuple[str, str], ...] = ()
    """Recordings and why they have no result"""
    notices: tuple[str, ...] = ()
    scores: PieceScores | None = None
    """Of a piece; its events come of all pieces"""


@dataclass(frozen=True)
class Archive:
    """How an archive is classified, and where its results go."""

    job: Job
    place: str
    output_format: Format
    model: str
    """As it was named"""
    sizes: tuple[PatchSize, ...] = ()
    """That a task may be given instead of the job's"""

    def identity(self) -> dict[str, str]:
        """Everything that the results depend on besides the recordings."""
        sizes = {"patch size": ", ".join(map(str, self.sizes))} if self.sizes else {}
        return {"format": self.output_format.value, **self.job.identity(), **sizes}

    def load(self, log: Log) -> Worker:
        """Load the engines, once in a process; raises what ``load_engines`` raises."""
        job = self.job
        sizes = self.sizes or (job.patch,)
        return Worker(self, load_engines(Bundle.open(job.bundle), sizes, job.precision, job.backend, log))

    def write(self, recordings: Sequence[Recording], results: Sequence[Result], cpu_s: float) -> Entry:
        """Write the results of a group and mark it as done; raises RemoteError where that cannot be."""
        folder, name = Folder(self.place), group_id(recordings)
        good = [(recording, result) for recording, result in zip(recordings, results, strict=True) if not result.error]
        outputs = []
        if self.output_format is Format.PARQUET:
            events = [result for _, result in good if result.events]
            contents = {f"{EVENTS}/{name}.parquet": write_events(events, self.model)} if events else {}
        else:
            contents = {
                f"{recording.name}.flexiast.{self.output_format.suffix}": "".join(
                    render(self.output_format, [result], self.model)
                ).encode()
                for recording, result in good
            }
        for output, content in contents.items():
            folder.write(output, content)
            outputs.append(output)
        entry = Entry(
            recordings=[recording[:3] for recording, _ in good],
            failed=[(str(result.path), result.error) for result in results if result.error],
            outputs=outputs,
            events=sum(len(result.events) for _, result in good),
            audio_s=sum(result.audio_s for _, result in good),
            cpu_s=cpu_s,
        )
        write_entry(folder, name, entry)
        return entry


class Worker:
    """Runs tasks with engines that were loaded once."""

    def __init__(self, archive: Archive, engines: Engines) -> None:
        self._archive, self.engines, self.job = archive, engines, archive.job
        self.sizes = archive.sizes or (archive.job.patch,)
        self._cache = ObjectCache()

    def __call__(self, task: Task, patch: PatchSize | None = None) -> Report:
        """Classify a task, at another size than the job's if one is given; raises RemoteError for the results place."""
        job = self._archive.job if patch is None else replace(self._archive.job, patch=patch)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        if task.piece is not None:
            report = self._classify_piece(job, task, task.piece)
        else:
            results = [self._classify(job, recording) for recording in task.recordings]
            entry = self._archive.write(task.recordings, results, time.process_time() - started_cpu_s)
            report = Report(
                task,
                entry.audio_s,
                events=entry.events,
                failed=tuple(entry.failed),
                notices=tuple(notice for result in results for notice in result.notices),
            )
        cpu_s, busy_s = time.process_time() - started_cpu_s, time.perf_counter() - started_s
        return replace(report, cpu_s=cpu_s, busy_s=busy_s, patch=job.patch)

    def _classify(self, job: Job, recording: Recording) -> Result:
        try:
            with self._local(recording) as path:
                return classify_file(self.engines, job, path, original=original_of(recording))
        except RemoteError as error:
            return error_result(RemotePath(recording.path), str(error))

    def _classify_piece(self, job: Job, task: Task, piece: Piece) -> Report:
        (recording,) = task.recordings
        try:
            with self._local(recording) as path:
                scores = classify_piece(self.engines, job, path, piece, original=original_of(recording))
        except DataError as error:
            return Report(task, failed=((recording.path, str(error)),))
        windows_s = scores.windows * job.settings.step_s
        return Report(task, windows_s, notices=scores.notices, scores=scores)

    def _local(self, recording: Recording) -> AbstractContextManager[Path]:
        stored = Stored(*recording[:3])
        return self._cache.open(stored) if is_url(recording.path) else nullcontext(Path(recording.path))


def original_of(recording: Recording) -> RemotePath | None:
    """What a local file is a copy of."""
    return RemotePath(recording.path) if is_url(recording.path) else None
