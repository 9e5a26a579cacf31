"""``flexiast classify`` on an archive: list the recordings, run the tasks, count what came of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flexiast.data.audio import AUDIO_SUFFIXES
from flexiast.data.media import MEDIA_SUFFIXES, is_available
from flexiast.errors import DataError, ExitCode, UsageError
from flexiast.files import check_output
from flexiast.spec import PatchSize
from flexiast.storage import RemotePath, is_url, list_objects
from flexiast_cli.commands.classify.files import find_files
from flexiast_cli.commands.classify.options import BATCH_FILES, CPUS_PER_WORKER, ArchiveOptions, EngineName
from flexiast_cli.terminal.console import count_noun, log, stderr
from flexiast_cli.terminal.interrupts import graceful_shutdown
from flexiast_runtime.batch.archive import Archive, Report, Task
from flexiast_runtime.batch.archive_run import Engine, prepare_run, run_in_process, run_in_workers
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.batch.ledger import RUN, Recording
from flexiast_runtime.batch.pace import Pace, measure_sizes
from flexiast_runtime.batch.ray_engine import GPU_SHARE, RayCluster, RayOptions, connect
from flexiast_runtime.batch.runner import Job
from flexiast_runtime.batch.tasks import spool_recordings
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.backends import Backend


def name_place(output: str | None, output_dir: str | None) -> str:
    """The results place, which either option may name; raises UsageError for none, both, or one that cannot be."""
    if (output is None) == (output_dir is None):
        raise UsageError(
            "an archive has one results place; name a folder or URL with -o, such as -o s3://results/run1/"
        )
    place = output or output_dir or ""
    if not is_url(place):
        if Path(place).is_file():
            raise UsageError(f"{place} is a file; an archive's results are a folder")
        check_output(Path(place, RUN))
    return place


def run_archive(
    places: list[str],
    job: Job,
    model: str,
    place: str,
    output_format: Format,
    *,
    workers: int,
    fail_fast: bool,
    options: ArchiveOptions,
) -> bool:
    """Whether every recording could be read; raises DataError where there is none, and RemoteError."""
    bundle, cluster = Bundle.open(job.bundle), _connect(job, options)
    sizes = bundle.manifest.patches if options.budget_hours is not None else ()
    archive = Archive(job, place, output_format, model, sizes)
    listing = _Listing()
    recordings = spool_recordings(listing.find(places))
    if listing.errors and (fail_fast or not recordings):
        raise DataError("\n".join(listing.errors))
    if not recordings:
        raise DataError(f"{', '.join(places)} holds no audio; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF")
    run = prepare_run(archive, bundle.manifest.spec, recordings, options.batch_files or BATCH_FILES)
    tally = _Tally(fail_fast=fail_fast)
    tally.failures += listing.errors
    pace = _start_pace(archive, run.tasks, workers if cluster is None else cluster.workers, options)
    if cluster is not None:
        engine: Engine = partial(cluster.run, stopped=lambda: tally.stopped, pace=pace)
    else:
        engine = _choose_engine(workers, pace, lambda: tally.stopped)
    started_s = time.monotonic()
    with graceful_shutdown(tally.stop, terminated=ExitCode.TERMINATED):
        for _ in tally.watch(run.reports(engine), run.tasks):
            pass
        tally.report(len(recordings), run.already, place)
    hours = (time.monotonic() - started_s) / 3600
    if options.budget_hours is not None and hours > options.budget_hours:
        log(f"note: it took {hours:.2g} h, more than the budget of {options.budget_hours:g} h")
    return not tally.failures


def _connect(job: Job, options: ArchiveOptions) -> RayCluster | None:
    """Ray, where it is asked for: a cluster that does not answer is known before anything is listed or written."""
    if options.engine is not EngineName.RAY:
        return None
    gpu_share = None if job.backend is Backend.CPU else GPU_SHARE
    cpus = CPUS_PER_WORKER if options.cpus_per_worker is None else options.cpus_per_worker
    cluster = connect(RayOptions(options.ray_address, cpus, gpu_share), log)
    log(f"Room for {count_noun(cluster.workers, 'worker')}")
    return cluster


class _Listing:
    """Lists the recordings of an archive, and what cannot be listed."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def find(self, places: Iterable[str]) -> Iterator[Recording]:
        """Recordings below paths and URLs, each once where it is given once; ``-`` is a list of them on stdin."""
        for place in self._expand(places):
            yield from self._list_url(place) if is_url(place) else self._list_path(place)

    def _expand(self, places: Iterable[str]) -> Iterator[str]:
        for place in places:
            if place == "-":
                yield from (line.decode(errors="surrogateescape").strip() for line in sys.stdin.buffer if line.strip())
            else:
                yield place

    def _list_url(self, url: str) -> Iterator[Recording]:
        suffixes, others = AUDIO_SUFFIXES | (MEDIA_SUFFIXES if is_available() else frozenset()), 0
        root = url.partition("*")[0].rpartition("/")[0] if "*" in url else url.rstrip("/")
        for stored in list_objects(url):
            if RemotePath(stored.path).suffix.lower() not in suffixes:
                others += 1
                continue
            name = stored.path.removeprefix(root).lstrip("/") or RemotePath(stored.path).name
            yield Recording(*stored, name)
        if others:
            log(f"Left out of {url}: {count_noun(others, 'object')} (not read as audio)")

    def _list_path(self, path: str) -> Iterator[Recording]:
        files, unusable = find_files([Path(path)])
        self.errors += [result.error or "" for result in unusable]
        for file, name in files.items():
            status = file.stat()
            yield Recording(str(file), status.st_size, str(status.st_mtime_ns), str(name))


def _start_pace(archive: Archive, tasks: Sequence[Task], workers: int, options: ArchiveOptions) -> Pace | None:
    """What chooses the sizes of an archive with a deadline, from how fast each is on this machine."""
    if options.budget_hours is None or not len(tasks):
        return None
    log("Measuring each patch size ...")
    total = sum(task.size for task in tasks)
    return Pace(measure_sizes(archive.load(log)), 3600 * options.budget_hours, workers, total)


def _choose_engine(workers: int, pace: Pace | None, stopped: Callable[[], bool]) -> Engine:
    """What runs the tasks on this machine."""
    started_s = time.monotonic()

    def choose() -> PatchSize | None:
        return None if pace is None else pace.choose(time.monotonic() - started_s)

    def run(archive: Archive, tasks: Sequence[Task]) -> Iterator[Report]:
        reports = (
            run_in_workers(archive, tasks, workers, log, stopped, choose)
            if workers > 1
            else run_in_process(archive, tasks, log, stopped, choose)
        )
        for report in reports:
            if pace is not None and report.patch is not None:
                pace.add(report.patch, report.audio_s, report.busy_s, report.task.size)
            yield report

    return run


class _Tally:
    """Counts what the tasks of an archive found."""

    def __init__(self, *, fail_fast: bool) -> None:
        self.failures: list[str] = []
        self.stopped = False
        self._notices: list[str] = []
        self._fail_fast = fail_fast
        self._recordings = self._events = 0
        self._audio_s = self._cpu_s = 0.0
        self._sizes: list[str] = []

    def stop(self) -> None:
        self.stopped = True

    def watch(self, reports: Iterable[Report], tasks: Sequence[Task]) -> Iterator[Report]:
        """Yield the reports and count them; on a terminal with a progress bar, by bytes."""
        console, started_s = stderr(), time.monotonic()
        columns = (TextColumn("Classifying"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=sum(task.size for task in tasks))
            for report in reports:
                self._count(report)
                speed = self._audio_s / (time.monotonic() - started_s)
                failed = f", {len(self.failures):,} failed" if self.failures else ""
                done = f"{self._audio_s / 3600:,.1f} h of audio, {speed:,.0f} × real time{failed}"
                progress.update(bar, advance=report.task.size, description=done)
                yield report
                if self._fail_fast and self.failures:
                    return

    def _count(self, report: Report) -> None:
        self._audio_s += report.audio_s
        self._cpu_s += report.cpu_s
        if report.scores is None:
            self._recordings += len(report.task.recordings) - len(report.failed)
        self._events += report.events
        self._notices += report.notices
        self.failures += [error for _, error in report.failed]
        size = "" if report.patch is None else str(report.patch)
        if size and size not in self._sizes[-1:]:
            if self._sizes:
                log(f"patch size {size} from here on, for the budget of time")
            self._sizes.append(size)

    def report(self, total: int, already: int, place: str) -> None:
        """Print one line for each notice and failure, and one of totals."""
        for notice in self._notices:
            log(f"note: {notice}")
        for failure in self.failures:
            typer.echo(f"flexiast: {failure}", err=True)
        passed = f" ({already:,} there already)" if already else ""
        hours = self._audio_s / 3600
        cost = f", {self._cpu_s / hours:,.0f} CPU-seconds an hour of audio" if hours else ""
        log(
            f"{count_noun(self._events, 'event')} in {self._recordings:,} of {count_noun(total, 'recording')}{passed}, "
            f"{hours:,.1f} h of audio{cost}; at {' and '.join(dict.fromkeys(self._sizes)) or 'no size'}, in {place}"
        )
