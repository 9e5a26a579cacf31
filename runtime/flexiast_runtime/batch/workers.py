"""Maps tasks over processes. A process that dies costs its current task and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from flexiast.errors import FlexiastError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

POLL_S = 0.2
"""Seconds between two checks whether the work is to stop"""


@dataclass(frozen=True)
class WorkerDied:
    """A worker died over a task."""

    reason: str


def map_tasks(
    tasks: Sequence[Task], load: Callable[[], Callable[[Task], Answer]], workers: int, stopped: Callable[[], bool]
) -> Iterator[tuple[int, Answer | WorkerDied]]:
    """Each task's number and its answer, as they come; all end early when ``stopped()``.

    ``load`` is called once in each worker, what it returns with each task. It must be picklable. A FlexiastError there
    is raised here, and so is one for a worker that dies while it loads.
    """
    todo = enumerate(tasks)
    crew = [_Worker(load) for _ in range(min(workers, len(tasks)))]
    try:
        while crew and not stopped():
            ready = wait([worker.connection for worker in crew], POLL_S)
            for worker in [worker for worker in crew if worker.connection in ready]:
                answer = worker.answer()
                if worker.number is not None:
                    yield worker.number, answer
                if isinstance(answer, WorkerDied):
                    crew.append(_Worker(load))
                elif (following := next(todo, None)) is not None:
                    worker.submit(*following)
                    continue
                crew.remove(worker)
                worker.end()
    finally:
        for worker in crew:
            worker.end()


def restore_order(numbered: Iterable[tuple[int, Answer]]) -> Iterator[Answer]:
    """Answers by their numbers from 0; one that comes early waits for its turn."""
    waiting: dict[int, Answer] = {}
    turn = 0
    for number, answer in numbered:
        waiting[number] = answer
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, load: Callable[[], Callable[[Any], Any]]) -> None:
        self.number: int | None = None
        """Of the task in hand; None while it loads"""
        spawn = get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self._process: BaseProcess = spawn.Process(target=_serve, args=(load, theirs), daemon=True)
        # Ctrl-C reaches every process of a terminal; only this one answers it. A new process inherits the mask, which
        # the first start of the tracker would lift.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()  # so that its death is the end of the stream

    def submit(self, number: int, task: object) -> None:
        self.number = number
        with contextlib.suppress(BrokenPipeError):  # it has just died, which its next answer reports
            self.connection.send(task)

    def answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            answer = WorkerDied(self._describe_exit())
            if self.number is None:
                raise FlexiastError(f"a worker {answer.reason} while it loaded the model; try fewer workers") from None
        if isinstance(answer, FlexiastError):
            raise answer
        return answer

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()

    def _describe_exit(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _serve(load: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    threading.Thread(target=_end_with_employer, daemon=True).start()
    try:
        work = load()
        connection.send(None)
        while True:
            connection.send(work(connection.recv()))
    except FlexiastError as error:
        connection.send(error)


def _end_with_employer() -> None:
    """Whatever ends the employer, nobody goes on working for it."""
    employer = parent_process()
    if employer is not None:
        employer.join()
        os._exit(1)
