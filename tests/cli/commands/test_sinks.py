"""``flexiast listen --to``: what was heard is everywhere, and what was lost is said."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer

from flexiast.errors import ExitCode, SinkError
from flexiast_cli.commands.listen.sinks import clip_folders, histories_for, open_sinks, tee_to_history, tee_to_sinks
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.records import Record
from flexiast_runtime.history.clips import NAME
from flexiast_runtime.history.events import read_events
from flexiast_runtime.sinks.clips import Clips
from flexiast_runtime.sinks.cooldown import Cooldown
from flexiast_runtime.sinks.jsonl import JsonlFile
from flexiast_runtime.sinks.sink import RunContext
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
    with pytest.raises(typer.Exit) as ended, open_sinks(sinks, RunContext()) as publish:
        assert list(tee_to_sinks(records, publish)) == records
    assert ended.value.exit_code == ExitCode.LOST
    name = re.escape(f"jsonl:{tmp_path}/a")
    when = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    said = f"{when} {name} fails: not today\n{name} lost 2 of 2 records \\(2 refused\\); it last said: not today\n"
    assert re.fullmatch(said, capsys.readouterr().err)
    assert len((tmp_path / "b").read_text().splitlines()) == 2


def test_a_recording_that_outruns_its_sinks_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more records than may wait, and a sink that is slower than they come."""

    class Slow(JsonlFile):
        def deliver(self, record: Record) -> None:
            time.sleep(0.0005)
            super().deliver(record)

    monkeypatch.setattr("flexiast_runtime.sinks.outbox.CLOSING_S", 0.0)
    with open_sinks([Slow(tmp_path / "a")], RunContext(), lambda: False) as publish:
        for number in range(1500):
            publish(event(number))
    lines = (tmp_path / "a").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [event(number).id for number in range(1500)]


def test_the_exit_code_tells_of_lost_records_and_a_poisoned_one_holds_up_no_other(
    run: Run, write_audio: Callable[..., Path], tmp_path: Path
) -> None:
    """A server that answers 500 to one label of the events that the file has."""
    path = write_audio(tmp_path / "a.wav", np.concatenate([tone(hz, 2.0, 0) for hz in (300.0, 3000.0) * 3]), RATE_HZ)
    # Of one size: the governor of a busy machine would take others in the second run, and find other events.
    command = ("listen", "commands-ar", "--pin", "48", "--input", path, "--threshold", 0.05)
    told = run(*command, "--json", cwd=tmp_path)
    labels = [one["label"] for one in map(json.loads, told.stdout.splitlines()) if one["type"] == "event"]
    poison = Counter(labels).most_common()[-1][0]
    got: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            label = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["label"]
            got.append(label)
            self.send_response(500 if label == poison else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        to = f"http://127.0.0.1:{server.server_port}/"
        result = run(*command, "--to", to, cwd=tmp_path)
        server.shutdown()
    assert len(set(labels)) > 1, "this needs a file with two sounds"
    assert sorted(label for label in got if label != poison) == sorted(label for label in labels if label != poison)
    assert result.returncode == ExitCode.LOST
    assert f"lost {labels.count(poison)} of {len(labels)} records" in result.stderr, result.stderr


def test_audio_is_remembered_by_source_where_clips_are_cut(tmp_path: Path) -> None:
    @dataclass
    class Microphone:
        name: str

    sources = ("kitchen", "yard")
    devices = [Microphone(name) for name in sources]
    stream = [(0, Chunk(0, np.full(10, 0.5, np.float32))), (1, Chunk(0, np.full(20, 0.25, np.float32)))]
    assert histories_for([JsonlFile(tmp_path / "a")], devices, RATE_HZ, live=True) == {}  # type: ignore[arg-type]
    histories = histories_for([Cooldown(Clips(tmp_path), 1.0)], devices, RATE_HZ, live=True)  # type: ignore[arg-type]
    assert clip_folders([Cooldown(Clips(tmp_path), 1.0)]) == (tmp_path,)
    assert list(tee_to_history(stream, sources, histories)) == stream
    assert list(tee_to_history(stream, sources, {})) == stream
    assert [histories[name].read(0, 100).samples.tolist() for name in sources] == [[0.5] * 10, [0.25] * 20]
