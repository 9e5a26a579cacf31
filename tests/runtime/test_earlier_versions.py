"""Artefacts that the last version wrote, read and continued by this one; its own code made the files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flexiast.spec import PatchSize
from flexiast_runtime.detection.records import Event
from flexiast_runtime.governor.trace import Recorder, read_trace, replay
from flexiast_runtime.history.events import Query, labels_and_sources, list_labels, read_events
from flexiast_runtime.history.marks import read_marks
from flexiast_runtime.history.verdicts import Verdict, give_verdict, read_bundles, read_verdicts
from flexiast_runtime.profiling.profiles import find, keep, newest, read_profile
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.sqlite import SqliteHistory

ARTEFACTS = Path(__file__).parent / "artefacts"
STORED = [
    ("tape", None, 3.0),
    ("dog", "2026-11-25T15:23:42.000+00:00", 0.0),
    ("rain", "2026-11-25T15:24:42.500+00:00", 1.0),
]
RAIN_AT_S = 1_795_620_282.5


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return Path(shutil.copy(ARTEFACTS / "history-1.db", tmp_path))


def test_events_of_a_database_of_version_1_have_the_keys_of_today(database: Path) -> None:
    events = list(read_events(database))
    assert [(event["label"], event["started_at"], event["start_s"]) for event in events] == STORED
    of_today = Event("kitchen", "rain", 16_000, 24_000, 16_000, 0.75, PatchSize(16, 16), RAIN_AT_S, "run").document()
    assert events[-1] == of_today
    assert list(events[-1]) == list(of_today)


def test_a_database_of_version_1_can_be_queried_by_time_and_limit(database: Path) -> None:
    assert [event["label"] for event in read_events(database, Query(since_s=RAIN_AT_S))] == ["rain"]
    assert [event["label"] for event in read_events(database, Query(until_s=RAIN_AT_S))] == ["dog"]
    assert [event["label"] for event in read_events(database, Query(limit=1))] == ["rain"]
    assert labels_and_sources(database, Query(labels=("dog",))) == ({"dog"}, {"kitchen"})
    assert list_labels(database) == ["dog", "rain", "tape"]


def test_a_database_of_version_1_is_only_changed_by_a_writer(database: Path) -> None:
    before = database.read_bytes()
    list(read_events(database))
    assert database.read_bytes() == before


def test_a_writer_upgrades_a_database_of_version_1_and_loses_nothing(database: Path) -> None:
    for turn in range(2):  # the second time it is of today's version
        sink = SqliteHistory(database)
        sink.open(RunContext())
        sink.deliver(Event("kitchen", "siren", 64_000 + turn, 80_000, 16_000, 0.5, PatchSize(16, 16), RAIN_AT_S + 60))
        sink.close()
    events = [(event["label"], event["started_at"], event["start_s"]) for event in read_events(database)]
    assert events[: len(STORED)] == STORED
    assert [label for label, *_ in events[len(STORED) :]] == ["siren", "siren"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(3,)]
        plan = str(connection.execute("EXPLAIN QUERY PLAN SELECT id FROM events WHERE started_at_s > 1").fetchall())
    assert "events_by_time" in plan


def test_a_database_of_version_2_is_read_as_it_is_and_takes_verdicts(tmp_path: Path) -> None:
    database = Path(shutil.copy(ARTEFACTS / "history-2.db", tmp_path))
    before = database.read_bytes()
    rain = Event("kitchen", "rain", 16_000, 24_000, 16_000, 0.75, PatchSize(16, 16), RAIN_AT_S, "run")
    assert list(read_events(database))[-1] == rain.document()
    assert (read_verdicts(database), read_bundles(database), read_marks(database)) == ({}, {}, [])
    assert database.read_bytes() == before
    given = give_verdict(database, rain.id, Verdict.WRONG, reviewer="ann", instead_of=None)
    assert read_verdicts(database) == {rain.id: given}
    assert [event["label"] for event in read_events(database)] == ["tape", "dog", "rain"]


def test_a_profile_of_schema_1_is_read_found_and_kept_under_the_keys_of_today(tmp_path: Path) -> None:
    path = ARTEFACTS / "profile-1.0.json"
    written, profile = json.loads(path.read_bytes()), read_profile(path)
    assert profile.created_at == written["made_at"]
    for measurement, old in zip(profile.measurements, written["measurements"], strict=True):
        assert measurement.metric_measured_here == old["metric_is_own"]
        assert (measurement.energy_mj, measurement.energy_above_idle_mj) == (old["mj"], old["mj_above_idle"])
        assert measurement.windows_per_s == old["per_s"]
        assert measurement.coefficient_of_variation == old["variation"]
    shutil.copy(path, tmp_path / f"{profile.key.digest}.json")  # where the last version kept it
    assert find(profile.key, tmp_path) == profile
    assert newest(profile.source_sha256, profile.key.machine, profile.key.settings, tmp_path) == profile
    again = read_profile(keep(profile, tmp_path))
    assert again == profile
    assert again.schema_version == "2.0"


def test_a_trace_of_schema_1_is_decided_as_it_was_then_but_for_harmless_heat(tmp_path: Path) -> None:
    path = ARTEFACTS / "trace-1.0.jsonl"
    trace, (header, *steps) = read_trace(path), [json.loads(line) for line in path.read_text().splitlines()]
    assert (trace.header.created_at, trace.header.schema_version) == (header["made_at"], "2.0")
    assert trace.header.first_observation.thermal_headroom_c == header["first"]["heat_room_k"]
    assert [step.observation.thermal_headroom_c for step in trace.steps] == [
        step["seen"]["heat_room_k"] for step in steps
    ]
    assert any(step.reason for step in trace.steps)
    same, difference = replay(trace)
    assert difference is not None
    then, now = difference
    assert (same, then.reason, now.index) == (8, "2 K to throttling", 1)  # 40 of 250 ms: it fits throttled, too
    other = Path(shutil.copy(path, tmp_path))
    Recorder(other, trace.header).close()  # it may be replaced, as a trace of today may
    assert read_trace(other) == (trace.header, (), False)
