"""Real processes, some of which die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import active_children

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import FlexiastError, ModelError
from flexiast_runtime.batch.workers import WorkerDied, map_tasks, restore_order


def never() -> bool:
    return False


def load_squares() -> Callable[[int], int]:
    return lambda task: task * task


def load_one_that_dies() -> Callable[[int], int]:
    def work(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task * task

    return work


def load_no_model() -> Callable[[int], int]:
    raise ModelError("there is no such bundle")


def load_too_much() -> Callable[[int], int]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_every_task_is_answered_once() -> None:
    assert sorted(map_tasks(range(20), load_squares, 2, never)) == [(task, task * task) for task in range(20)]
    assert not active_children()


def test_a_worker_that_dies_costs_its_task_alone() -> None:
    answers = dict(map_tasks(range(6), load_one_that_dies, 2, never))
    assert answers == {task: task * task for task in range(6)} | {3: WorkerDied("was ended by SIGKILL")}
    assert not active_children()


def test_what_keeps_every_worker_from_loading_is_raised() -> None:
    with pytest.raises(ModelError, match="no such bundle"):
        list(map_tasks(range(6), load_no_model, 2, never))
    with pytest.raises(FlexiastError, match="SIGKILL while it loaded"):
        list(map_tasks(range(6), load_too_much, 1, never))
    assert not active_children()


def test_the_work_stops_when_told() -> None:
    answers: list[object] = []
    for answer in map_tasks(range(10_000), load_squares, 1, stopped=lambda: len(answers) >= 5):
        answers.append(answer)  # noqa: PERF402 (the length is looked at meanwhile)
    assert len(answers) == 5
    assert not active_children()


@given(st.permutations(range(12)))
def test_answers_come_in_the_order_of_their_tasks(numbers: list[int]) -> None:
    assert list(restore_order((number, -number) for number in numbers)) == [-number for number in range(12)]
