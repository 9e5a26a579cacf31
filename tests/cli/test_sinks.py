"""``flexiast listen --to``: what was heard is everywhere, and what was lost is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flexiast.errors import SinkError
from flexiast_cli.sinks import histories_for, opened_sinks, published, remembered
from flexiast_runtime.history import read_events
from flexiast_runtime.sinks.clips import NAME, Clips
from flexiast_runtime.sinks.jsonl import JsonlFile
from flexiast_runtime.sinks.sink import Hearing
from flexiast_runtime.source import Chunk
from tests.cli.conftest import RATE_HZ, Run, tone
from tests.runtime.sinks.conftest import event, status


def test_what_is_heard_reaches_every_sink(run: Run, write_audio: Callable[..., Path], tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", np.concatenate([tone(hz, 2.0, 0) for hz in (300.0, 3000.0)]), RATE_HZ)
    sinks = ("jsonl:e.jsonl", "sqlite:h.db", "clips:clips", "exec:tee -a stdin.jsonl")
    result = run(
        "listen",
        "--input",
        path,
        "--threshold",
        0.05,
        "--json",
        *(x for to in sinks for x in ("--to", to)),
        cwd=tmp_path,
    )
    assert result.returncode == 0 and "lost" not in result.stderr, result.stderr
    records = [record for record in map(json.loads, result.stdout.splitlines()) if record["type"] != "status"]
    events = [record for record in records if record["type"] == "event"]
    assert events
    assert [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()] == records
    stored = list(read_events(tmp_path / "h.db"))
    assert sorted(one["id"] for one in stored) == sorted(one["id"] for one in events)
    clips = [clip.name for clip in (tmp_path / "clips").iterdir()]
    assert all(NAME.fullmatch(name) for name in clips)
    assert {name[-21:-5] for name in clips} == {one["id"] for one in events}
    assert [json.loads(line) for line in (tmp_path / "stdin.jsonl").read_text().splitlines()] == events


def test_a_sink_that_cannot_be_used_ends_the_command_before_it_listens(run: Run, tmp_path: Path) -> None:
    for to, code, said in (
        ("jsonl:e.jsonl#rotat=1MB", 2, "there are, as key=value, each once: rotate, keep"),
        ("mqtt://me:hunter2@host", 2, "FLEXIAST_MQTT_PASSWORD"),
        (f"jsonl:{tmp_path}", 1, "Is a directory"),
    ):
        result = run("listen", "--input", "-", "--to", to, stdin=b"", cwd=tmp_path)
        assert result.returncode == code and said in result.stderr and "hunter2" not in result.stderr
        assert not result.stdout and "listens to" not in result.stderr
    assert not list(tmp_path.iterdir())


class Refusing(JsonlFile):
    def deliver(self, record: object) -> None:
        raise SinkError("not today")


def test_a_sink_that_loses_something_says_so_and_the_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sinks = [Refusing(tmp_path / "a"), JsonlFile(tmp_path / "b")]
    records = [event(0), status(), event(1)]
    with opened_sinks(sinks, Hearing()) as publish:
        assert list(published(records, publish)) == records
    name = f"jsonl:{tmp_path}/a"
    said = f"{name} fails: not today\n{name} lost 2 of 2 records (2 refused); it last said: not today\n"
    assert capsys.readouterr().err == said
    assert len((tmp_path / "b").read_text().splitlines()) == 2


def test_audio_is_remembered_by_source_where_clips_are_cut(tmp_path: Path) -> None:
    sources = ("kitchen", "yard")
    stream = [(0, Chunk(0, np.full(10, 0.5, np.float32))), (1, Chunk(0, np.full(20, 0.25, np.float32)))]
    assert histories_for([JsonlFile(tmp_path / "a")], sources, RATE_HZ) == {}
    histories = histories_for([Clips(tmp_path)], sources, RATE_HZ)
    assert list(remembered(stream, sources, histories)) == stream
    assert list(remembered(stream, sources, {})) == stream
    assert [histories[name].read(0, 100).samples.tolist() for name in sources] == [[0.5] * 10, [0.25] * 20]
