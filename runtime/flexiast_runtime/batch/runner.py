"""Classifies many files on the path of a microphone, in this process or in several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from flexiast import __version__
from flexiast.errors import DataError
from flexiast.log import Log
from flexiast.spec import PatchSize
from flexiast.storage import RemotePath
from flexiast.text import printable, printable_line
from flexiast_runtime.audio.channels import Channel, open_channels
from flexiast_runtime.audio.source import FileSource, PcmSource, chunks
from flexiast_runtime.batch.formats import Result
from flexiast_runtime.batch.workers import WorkerDied, map_tasks
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.detector import ScoreConsumer
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Summary
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.backends import Backend, load_engines
from flexiast_runtime.inference.engine import Engines

BLOCK_S = 1.0
"""Seconds of a file read at once: a third less CPU time than tenths, as nobody waits for the first event."""


@dataclass(frozen=True)
class Job:
    """How every file is classified."""

    bundle: Path
    patch: PatchSize
    precision: str | None
    backend: Backend
    settings: DetectionSettings
    channel: Channel | None = None
    """The only channel to use, from 1, or each by itself; None for the mix of all"""
    keep_cut: bool = False
    """Classify what is left of a recording that was cut short"""

    def identity(self) -> dict[str, str]:
        """Everything that a result depends on besides its file."""
        named = {
            "model": Bundle.open(self.bundle).sha256,
            "patch size": str(self.patch),
            "precision": self.precision or "default",
        }
        settings = {key.replace("_", " "): str(value) for key, value in dataclasses.asdict(self.settings).items()}
        chosen = {} if self.channel is None else {"channel": str(self.channel)}
        cut = {"recordings cut short": "heard"} if self.keep_cut else {}  # as journals of earlier versions say
        return named | {"backend": self.backend.value, "version": __version__} | settings | chosen | cut


def classify_files(
    job: Job, paths: Sequence[Path], workers: int, log: Log, stopped: Callable[[], bool]
) -> Iterator[tuple[int, Result]]:
    """Each file's number and result; in order with one worker, else as they come.

    A file that cannot be read, or over which a worker died, has a result that says so. Ends early when ``stopped()``;
    a file that this cuts off has no result. Raises what ``load_engines`` raises, with one worker before the first
    file; with several ``log`` must be picklable.
    """
    if workers > 1:
        return _classify_in_workers(job, paths, workers, log, stopped)
    return _alone(_engines(job, log), job, paths, stopped)


def _alone(
    engines: Engines, job: Job, paths: Sequence[Path], stopped: Callable[[], bool]
) -> Iterator[tuple[int, Result]]:
    for number, path in enumerate(paths):
        result = classify_file(engines, job, path, stopped)
        if stopped():
            return
        yield number, result


def _classify_in_workers(
    job: Job, paths: Sequence[Path], workers: int, log: Log, stopped: Callable[[], bool]
) -> Iterator[tuple[int, Result]]:
    for number, answer in map_tasks(paths, partial(_load, job, log), workers, stopped):
        yield number, _worker_died_result(paths[number], answer) if isinstance(answer, WorkerDied) else answer


def _load(job: Job, log: Log) -> Callable[[Path], Result]:
    engines = _engines(job, log)
    return lambda path: classify_file(engines, job, path)


def _engines(job: Job, log: Log) -> Engines:
    return load_engines(Bundle.open(job.bundle), [job.patch], job.precision, job.backend, log)


def classify_file(
    engines: Engines,
    job: Job,
    path: Path,
    stopped: Callable[[], bool] = lambda: False,
    *,
    original: RemotePath | None = None,
) -> Result:
    """The events of one recording, or why there are none; ``original`` is what the path is a copy of."""
    events: list[Event] = []
    notices: list[str] = []
    audio_s, rate_hz, shown = 0.0, engines.spec.frontend.sample_rate_hz, original or path
    try:
        sources = open_channels(
            path,
            rate_hz,
            BLOCK_S,
            name=str(shown),
            channel=job.channel,
            keep_cut=job.keep_cut,
            log=notices.append,
        )
        for source in sources:
            audio_chunks = takewhile(lambda _: not stopped(), chunks(source, rate_hz))
            for record in create_classifier(engines, job, source).run(audio_chunks):
                if isinstance(record, Event):
                    events.append(record)
                elif isinstance(record, Summary):
                    audio_s = record.audio_s
    except DataError as error:
        return error_result(shown, str(error))
    except MemoryError:
        return error_result(shown, f"{shown} needs more memory than there is; cut it into parts")
    printed = tuple(map(printable, notices))
    return Result(shown, printable_line(str(shown)), source.rate_hz, audio_s, tuple(events), notices=printed)


def create_classifier(
    engines: Engines, job: Job, source: FileSource | PcmSource, detector: ScoreConsumer | None = None
) -> StreamClassifier:
    """What turns the chunks of a recording into records, at the size of the job."""
    settings = job.settings
    return StreamClassifier(
        engines,
        FixedSize(job.patch),
        settings,
        source=source.name,
        conditions=lambda _: Conditions(settings.step_s),
        detector=detector,
        channel=source.channel,
    )


def _worker_died_result(path: Path, lost: WorkerDied) -> Result:
    return error_result(
        path, printable(f"{path} was given up: the worker that read it {lost.reason}; classify it alone")
    )


def error_result(path: Path | RemotePath, error: str) -> Result:
    return Result(path, printable_line(str(path)), error=error)
