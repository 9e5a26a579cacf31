"""A run over an archive: plan the tasks, run them with an engine, join pieces, list what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from flexiast.log import Log
from flexiast.spec import PatchSize, Spec
from flexiast.storage import Folder, is_url, open_object
from flexiast.text import printable
from flexiast_runtime.batch.archive import Archive, Report, Task, original_of
from flexiast_runtime.batch.ledger import Ledger, Recording, open_ledger, sweep
from flexiast_runtime.batch.parquet import write_errors
from flexiast_runtime.batch.runner import error_result
from flexiast_runtime.batch.splitting import Piece, join_pieces, plan_pieces
from flexiast_runtime.batch.tasks import PIECE_S, SpooledList, plan_tasks
from flexiast_runtime.batch.workers import WorkerDied, map_tasks

ERRORS = "errors.parquet"

Choose = Callable[[], PatchSize | None]
"""The size of the next task; None for the job's"""
Engine = Callable[[Archive, Sequence[Task]], Iterator[Report]]
"""Runs tasks in any order; a task that it gives up has a report that says why."""


class ArchiveRun:
    """One run; made by ``prepare_run``."""

    def __init__(self, archive: Archive, spec: Spec, ledger: Ledger, tasks: SpooledList[Task], already: int) -> None:
        self.tasks, self.already = tasks, already
        """Tasks left, and recordings that have a result already"""
        self._archive, self._spec, self._ledger = archive, spec, ledger
        self._pieces: dict[str, list[Report]] = {}

    def reports(self, engine: Engine) -> Iterator[Report]:
        """Run all tasks; yields a report for each group and each whole recording, then lists the failures.

        Ending early leaves the ledger as far as it came; raises what the engine raises.
        """
        folder, failed = Folder(self._archive.place), dict(self._ledger.failed)
        for report in engine(self._archive, self.tasks):
            whole = self._join(report)
            for recording in whole.task.recordings if whole.scores is None else ():
                failed.pop(recording.path, None)
            failed |= dict(whole.failed)
            yield whole
        sweep(folder)
        if failed:
            folder.write(ERRORS, write_errors(sorted(failed.items())))
        elif folder.read(ERRORS) is not None:
            folder.delete(ERRORS)

    def _join(self, report: Report) -> Report:
        """The report of a piece without its events; that of the last piece of a recording has all of them."""
        task = report.task
        if task.piece is None:
            return report
        (recording,) = task.recordings
        known = self._pieces.setdefault(recording.path, [])
        known.append(report)
        if len(known) < task.pieces:
            return Report(task, report.audio_s, report.cpu_s, report.busy_s, patch=report.patch, scores=report.scores)
        del self._pieces[recording.path]
        known.sort(key=lambda each: (each.task.piece or Piece(0, None)).first)
        path = original_of(recording) or Path(recording.path)
        reasons = [reason for each in known for _, reason in each.failed]
        scores = [each.scores for each in known if each.scores is not None]
        joined = partial(join_pieces, scores, self._archive.job, self._spec, path)
        result = error_result(path, reasons[0]) if reasons else joined()
        entry = self._archive.write([recording], [result], sum(each.cpu_s for each in known))
        return Report(
            task,
            report.audio_s,
            report.cpu_s,
            report.busy_s,
            entry.events,
            report.patch,
            tuple(entry.failed),
            result.notices,
        )


def prepare_run(
    archive: Archive, spec: Spec, recordings: Sequence[Recording], batch_files: int, piece_s: float = PIECE_S
) -> ArchiveRun:
    """Compare the recordings with what the results place holds, and plan the tasks that are left.

    Raises UsageError where it holds results of another kind, DataError for a damaged ledger, and RemoteError.
    """
    folder, identity = Folder(archive.place), archive.identity()
    ledger = open_ledger(folder, identity)
    changed = [recording for recording in recordings if ledger.find(recording) == "changed"]
    if changed:
        for recording in changed:
            ledger.forget(recording)
        ledger = open_ledger(folder, identity)
    sweep(folder)
    already = sum(ledger.find(recording) == "done" for recording in recordings)
    plan = partial(_plan_pieces, archive=archive, spec=spec, piece_s=piece_s)
    return ArchiveRun(archive, spec, ledger, plan_tasks(recordings, ledger, batch_files, plan), already)


def _plan_pieces(recording: Recording, archive: Archive, spec: Spec, piece_s: float) -> tuple[Piece, ...]:
    try:
        with open_object(recording.path) if is_url(recording.path) else Path(recording.path).open("rb") as file:
            return plan_pieces(file, archive.job, spec, piece_s)
    except OSError:  # whoever classifies it says what is wrong with it
        return (Piece(0, None),)


def run_in_process(
    archive: Archive, tasks: Iterable[Task], log: Log, stopped: Callable[[], bool], choose: Choose
) -> Iterator[Report]:
    """Run the tasks here, one after the other; ends early after the task in hand when ``stopped()``."""
    worker = archive.load(log)
    for task in tasks:
        if stopped():
            return
        yield worker(task, choose())


def run_in_workers(
    archive: Archive,
    tasks: Sequence[Task],
    workers: int,
    log: Log,
    stopped: Callable[[], bool],
    choose: Choose,
) -> Iterator[Report]:
    """Run the tasks in processes of their own, as they come; ends early when ``stopped()``.

    A group over which a worker died is classified one by one, so that one recording alone has no result.
    """
    alone: list[Task] = []
    load = partial(_load, archive, log)
    for number, answer in map_tasks(_Assigned(tasks, choose), load, workers, stopped):
        if not isinstance(answer, WorkerDied):
            yield answer
        elif len(tasks[number].recordings) > 1:
            alone += [Task((recording,)) for recording in tasks[number].recordings]
        else:
            yield give_up(archive, tasks[number], f"the worker that read it {answer.reason}")
    if alone and not stopped():
        yield from run_in_workers(archive, alone, workers, log, stopped, choose)


def give_up(archive: Archive, task: Task, reason: str) -> Report:
    """The report of a task that nobody could finish; a group is marked as tried."""
    failed = tuple(
        (each.path, printable(f"{each.path} was given up: {reason}; classify it alone")) for each in task.recordings
    )
    if task.piece is None:
        results = [
            error_result(original_of(each) or Path(each.path), error)
            for each, (_, error) in zip(task.recordings, failed, strict=True)
        ]
        archive.write(task.recordings, results, 0.0)
    return Report(task, failed=failed)


class _Assigned(Sequence[tuple[Task, PatchSize | None]]):
    """Tasks with the sizes that are chosen when each is begun."""

    def __init__(self, tasks: Sequence[Task], choose: Choose) -> None:
        self._tasks, self._choose = tasks, choose

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, number: int) -> tuple[Task, PatchSize | None]:  # type: ignore[override]  # no slices
        return self._tasks[number], self._choose()


def _load(archive: Archive, log: Log) -> Callable[[tuple[Task, PatchSize | None]], Report]:
    worker = archive.load(log)
    return lambda assigned: worker(*assigned)
