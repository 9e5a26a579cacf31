"""The journal: what a run was and how it went, also after it was broken off."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import flexiast
from flexiast.errors import ModelError
from flexiast.training.journal import Journal, git_revision, surroundings
from tests.conftest import REPOSITORY

HEADER: dict[str, Any] = {"data": "tones", "recipe": {"training": {"epochs": 3}}}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def document(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    return found


def values(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in {"wall_s", "cpu_s"}} for record in records]


# ----- metrics


def test_what_is_recorded_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", HEADER)
    assert lines(tmp_path / "run") == []
    journal.record(50, {"loss": {"8x8": 0.7, "16x16": 0.6}})
    journal.record(60, {"metric": {"8x8": 0.5}})
    assert values(lines(tmp_path / "run")) == [
        {"step": 50, "loss": {"8x8": 0.7, "16x16": 0.6}},
        {"step": 60, "metric": {"8x8": 0.5}},
    ]


def test_a_resumed_run_goes_on_where_its_state_was_saved(tmp_path: Path) -> None:
    before = Journal(tmp_path, HEADER)
    for step in (50, 100, 150, 200):
        before.record(step, {"loss": {"8x8": 1 / step}})
    after = Journal(tmp_path, HEADER, step=100)
    assert [record["step"] for record in lines(tmp_path)] == [50, 100]
    after.record(150, {"loss": {"8x8": 0.25}})
    found = lines(tmp_path)
    assert [record["step"] for record in found] == [50, 100, 150]
    assert found[-1]["loss"] == {"8x8": 0.25}


def test_a_new_run_in_the_folder_of_an_old_one_begins_anew(tmp_path: Path) -> None:
    Journal(tmp_path, HEADER).record(50, {"loss": {"8x8": 1.0}})
    Journal(tmp_path, HEADER)
    assert lines(tmp_path) == []


def test_a_line_that_was_cut_off_by_a_crash_is_dropped_on_resume(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.record(50, {"loss": {"8x8": 1.0}})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 100, "lo')
    resumed = Journal(tmp_path, HEADER, step=50)
    assert resumed.torn
    resumed.record(100, {"loss": {"8x8": 0.5}})
    assert [record["step"] for record in lines(tmp_path)] == [50, 100]
    assert not Journal(tmp_path, HEADER, step=100).torn


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 100, "lo\n',
        b"\n",
        b"\0\0\0\0\n",
        b"\xff\n",
        b"[]\n",
        b"3\n",
        b'{"loss": {}, "wall_s": 1.0, "cpu_s": 1.0}\n',
        b'{"step": "100", "loss": {}, "wall_s": 1.0, "cpu_s": 1.0}\n',
        b'{"step": 100, "loss": {}, "wall_s": null, "cpu_s": 1.0}\n',
    ],
)
def test_a_line_that_no_run_wrote_is_named_and_nothing_is_changed(tmp_path: Path, damaged: bytes) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.record(50, {"loss": {"8x8": 1.0}})
    good = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(good + damaged + good)
    with pytest.raises(ModelError, match=r"metrics\.jsonl line 2 is damaged; remove the line"):
        Journal(tmp_path, HEADER, step=50)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + damaged + good


def test_time_goes_on_after_a_resume(tmp_path: Path) -> None:
    Journal(tmp_path, HEADER).record(50, {"loss": {}})
    earlier = {"step": 50, "loss": {}, "wall_s": 1_000.0, "cpu_s": 2_000.0}
    later = {"step": 100, "loss": {}, "wall_s": 5_000.0, "cpu_s": 9_000.0}  # of steps that are done again
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(earlier)}\n{json.dumps(later)}\n")
    journal = Journal(tmp_path, HEADER, step=50)
    began, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.2:
        np.random.default_rng(0).random(1_000)
    took = time.monotonic() - began
    journal.record(100, {"loss": {}})
    found = lines(tmp_path)[-1]
    assert 1_000 + took - 0.1 <= found["wall_s"]  # a tenth is lost to rounding
    assert 2_000.1 <= found["cpu_s"] < 9_000
    assert found["wall_s"] < 5_000


# ----- run.json


def test_run_json_says_what_the_run_was_and_where(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    begun = document(tmp_path)
    assert begun.keys() == {
        "schema_version",
        "data",
        "recipe",
        "written",
        "command",
        "versions",
        "git_revision",
        "machine",
        "wall_s",
        "cpu_s",
    }
    assert {key: begun[key] for key in HEADER} == HEADER
    assert begun["versions"] == {
        "flexiast": flexiast.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    assert begun["machine"]["threads"] == torch.get_num_threads()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(begun["written"])
    assert timedelta(0) <= age < timedelta(minutes=5)
    described = journal.describe({"step": 3, "validation": [{"patch_size": "8x8"}]})
    assert described == document(tmp_path)
    assert (described["step"], described["validation"]) == (3, [{"patch_size": "8x8"}])


def test_what_was_best_before_a_resume_stays_until_something_is_better(tmp_path: Path) -> None:
    Journal(tmp_path, HEADER).describe({"step": 50, "validation": [{"patch_size": "8x8", "accuracy": 0.9}]})
    resumed = Journal(tmp_path, HEADER, step=100)
    assert document(tmp_path)["validation"] == [{"patch_size": "8x8", "accuracy": 0.9}]
    resumed.describe({"step": 150, "validation": []})
    assert document(tmp_path)["step"] == 150


def test_closing_adds_what_was_spent_after_the_best_measurement(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"recipe": "mine"})
    outcome = journal.describe({"step": 5})
    begun = time.monotonic()
    while time.monotonic() < begun + 0.3:
        pass
    journal.close()
    closed = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert closed["wall_s"] >= outcome["wall_s"] + 0.2  # a tenth is lost to rounding
    assert closed.keys() == outcome.keys()
    spent = {"wall_s", "cpu_s"}
    assert all(closed[name] == value for name, value in outcome.items() if name not in spent)


def test_surroundings_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["flexiast", "train", "sounds", "-o", "run"])
    found = surroundings()
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["train", "sounds", "-o", "run"]


def test_the_revision_is_gits(monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()

    head, changes = git("rev-parse", "--verify", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    assert git_revision() == (head + ("+" if changes else "") or None)
    monkeypatch.setenv("PATH", "")
    assert git_revision() is None  # a machine without git trains too


# ----- TensorBoard


@pytest.fixture
def accumulated(tmp_path: Path) -> Iterator[EventAccumulator]:
    """Events of a run that was broken off after step 150 and resumed at 100."""
    before = Journal(tmp_path, HEADER, tensorboard=True)
    for step in (50, 100, 150):
        before.record(step, {"loss": {"8x8": step / 100, "16x16": 0.25}})
    before.close()
    after = Journal(tmp_path, HEADER, step=100, tensorboard=True)
    after.record(150, {"loss": {"8x8": 7.0}, "metric": {"8x8": 0.5}})
    after.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    yield accumulator


def test_tensorboard_reads_what_was_recorded(accumulated: EventAccumulator) -> None:
    assert set(accumulated.Tags()["scalars"]) == {"loss/8x8", "loss/16x16", "metric/8x8"}
    fine = [(event.step, event.value) for event in accumulated.Scalars("loss/8x8")]
    assert fine == [(50, 0.5), (100, 1.0), (150, 7.0)]  # what came after the saved state is gone
    assert [(event.step, event.value) for event in accumulated.Scalars("metric/8x8")] == [(150, 0.5)]


def test_without_tensorboard_no_events_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.record(50, {"loss": {"8x8": 0.7}})
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "run.json"]
