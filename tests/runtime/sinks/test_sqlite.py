"""The database of events: what was acknowledged is there, once, whatever killed the program."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from flexiast.errors import DataError, SinkDownError, SinkError, SinkUnavailableError
from flexiast_runtime.detection.records import Event
from flexiast_runtime.history.database import default_database
from flexiast_runtime.history.events import Query, read_events
from flexiast_runtime.sinks import sqlite
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.sqlite import SqliteHistory
from tests.runtime.sinks.conftest import BEGAN_AT_S, event
from tests.runtime.sinks.test_jsonl import full_disk


def stored(path: Path, query: Query | None = None) -> list[str]:
    return [document["id"] for document in read_events(path, query or Query())]


def open_sink(path: Path) -> SqliteHistory:
    sink = SqliteHistory(path)
    sink.open(RunContext())
    return sink


def fill(path: Path, *events: Event) -> None:
    sink = open_sink(path)
    for one in events:
        sink.deliver(one)
    sink.close()


def test_an_event_is_stored_once_however_often_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.db"
    fill(path, event(1), event(0), event(1))
    fill(path, event(1), event(2))
    assert list(read_events(path)) == [event(number).document() for number in range(3)]


CHILD = """
import sys
from pathlib import Path
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.sqlite import SqliteHistory
from tests.runtime.sinks.conftest import event
sink = SqliteHistory(Path(sys.argv[1]))
sink.open(RunContext())
for number in range(int(sys.argv[2]), 10**9):
    sink.deliver(event(number))
    sys.stdout.write(event(number).id + "\\n")
    sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    """A real child, killed at random moments and started again on the same file."""
    path, rng = tmp_path / "history.db", random.Random(3)
    acknowledged: set[str] = set()
    for begin in range(0, 3 * 10**6, 10**6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(begin)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        acknowledged.add(child.stdout.readline().strip())  # it has begun to store
        time.sleep(rng.uniform(0.0, 0.15))
        child.kill()
        acknowledged |= {line.strip() for line in child.stdout if line.endswith("\n")}
        child.stdout.close()
        assert child.wait() == -9
        assert acknowledged <= set(stored(path))
    assert len(stored(path)) <= len(acknowledged) + 3  # each kill may fall between storing and saying so


def test_a_database_that_another_program_writes_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCKED_S", 0.05)
    sink = open_sink(tmp_path / "history.db")
    with closing(sqlite3.connect(tmp_path / "history.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            sink.deliver(event(0))
        other.execute("COMMIT")
    sink.deliver(event(0))
    sink.close()
    assert stored(tmp_path / "history.db") == [event(0).id]


def test_a_full_disk_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    sink = open_sink(path)
    sink.deliver(event(0))
    with full_disk(100), pytest.raises(SinkUnavailableError):
        sink.deliver(event(1))
    sink.deliver(event(1))
    sink.close()
    assert stored(path) == [event(0).id, event(1).id]


def test_a_database_is_read_on_a_full_disk(tmp_path: Path) -> None:
    """Where SQLite cannot write the index file that it reads by."""
    path = tmp_path / "history.db"
    fill(path, event(0), event(1))
    with full_disk(100):
        assert stored(path) == [event(0).id, event(1).id]
    fill(path, event(2))
    assert stored(path) == [event(number).id for number in range(3)]


def test_a_database_that_was_damaged_takes_nothing_more_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    fill(path, event(0))
    sink = open_sink(path)
    with closing(sqlite3.connect(path)) as other, other:  # as if the disk had lost a page
        other.execute("PRAGMA writable_schema = 1")
        other.execute("UPDATE sqlite_master SET rootpage = 999 WHERE name = 'events'")
        other.execute("PRAGMA schema_version = 99")
    with pytest.raises(SinkError, match="malformed") as caught:
        sink.deliver(event(1))
    assert not isinstance(caught.value, SinkUnavailableError)
    sink.close()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (Query(), [9, 0, 1, 2, 3]),
        (Query(labels=("cat",)), [1, 3]),
        (Query(labels=("cat", "rain")), [9, 1, 3]),
        (Query(labels=("cat",), sources=("yard",)), [3]),
        (Query(since_s=BEGAN_AT_S + 1), [1, 2, 3]),
        (Query(since_s=BEGAN_AT_S + 1, until_s=BEGAN_AT_S + 3), [1, 2]),
        (Query(labels=("x' OR '1'='1",)), []),
        (Query(limit=2), [2, 3]),
        (Query(labels=("cat", "rain"), limit=2), [1, 3]),
        (Query(until_s=BEGAN_AT_S + 3, limit=100), [0, 1, 2]),
    ],
)
def test_a_query_finds_its_events_in_the_order_of_their_time(tmp_path: Path, query: Query, numbers: list[int]) -> None:
    events = {
        3: event(3, "cat", source="yard"),
        0: event(0),
        1: event(1, "cat"),
        2: event(2),
        9: event(9, "rain", started_at_s=None),
    }
    fill(tmp_path / "history.db", *events.values())
    assert stored(tmp_path / "history.db", query) == [events[number].id for number in numbers]


def as_another_user(path: Path) -> list[str]:
    """What a user reads who may write neither the database nor its folder; root becomes one who may not."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, json.dumps(stored(path)).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it could not be read"
    return json.loads(content)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_a_database_is_read_where_nothing_may_be_written(stopped: bool) -> None:
    """Also one whose newest events are in the log alone, because its listener was killed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        sink = open_sink(path)
        for number in range(3):
            sink.deliver(event(number))
        if stopped:
            sink.close()
        else:
            left = [path.with_name(path.name + end) for end in ("", "-wal")]
            held = [one.read_bytes() for one in left]
            sink.close()
            for one, content in zip(left, held, strict=True):
                one.write_bytes(content)
        for one in Path(folder).iterdir():
            one.chmod(0o444)
        Path(folder).chmod(0o555)
        try:
            before = sorted(one.name for one in Path(folder).iterdir())
            assert before == ["history.db"] if stopped else ["history.db", "history.db-wal"]
            assert as_another_user(path) == [event(number).id for number in range(3)]
            assert sorted(one.name for one in Path(folder).iterdir()) == before
        finally:
            Path(folder).chmod(0o755)


def test_a_locked_or_full_database_at_the_start_may_pass_and_another_fault_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCKED_S", 0.05)
    path = tmp_path / "history.db"
    fill(path, event(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkDownError, match="locked"):
            open_sink(path)
        other.execute("COMMIT")
    fill(path, event(1))
    with pytest.raises(SinkError) as caught:
        open_sink(tmp_path)
    assert not isinstance(caught.value, SinkDownError)


def test_another_schema_is_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    fill(path, event(0))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 4")
    with pytest.raises(SinkError, match="has schema 4, this flexiast writes 3"):
        open_sink(path)
    with pytest.raises(DataError, match="has schema 4, this flexiast reads 3"):
        stored(path)


def test_what_is_no_such_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("some notes, long enough to be read as the header of something else" * 20)
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE mine (a)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(SinkError, match="cannot be used as a database of events"):
            open_sink(path)
        with pytest.raises(DataError, match="database of events"):
            stored(path)
        assert path.read_bytes() == before
    with pytest.raises(DataError, match="does not exist"):
        stored(tmp_path / "none.db")


def test_the_default_database_lies_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert SqliteHistory().name == f"sqlite:{tmp_path}/flexiast/history.db"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_database() == Path("/somewhere/.local/share/flexiast/history.db")
