"""``flexiast review mark``: what sounded and was missed, from the audio that a listener keeps to what `train` reads."""

from __future__ import annotations

import csv
import datetime
import io
import re
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast.data.dataset import read_dataset
from flexiast.errors import DataError, LockedError, UsageError
from flexiast_cli.commands.history.command import QueryOptions
from flexiast_cli.commands.history.query import parse_moment
from flexiast_cli.commands.listen.options import OutputOptions
from flexiast_cli.commands.listen.sinks import create_audio_keeper
from flexiast_cli.commands.review import export, mark
from flexiast_runtime.audio.source import Chunk, FileSource
from flexiast_runtime.history.corrections import read_corrections
from flexiast_runtime.history.marks import marks_folder, read_marks
from flexiast_runtime.history.stored_audio import SEGMENT_S, audio_folder, cut_stretch, find_stored_span
from flexiast_runtime.sinks.audio_keeper import AudioKeeper
from flexiast_runtime.sinks.parse import parse_sinks
from flexiast_runtime.sinks.retention import Retention
from tests.cli.conftest import RATE_HZ, Run, tone
from tests.runtime.history.conftest import BUNDLE, fill_history
from tests.runtime.sinks.conftest import event

STARTED_AT_S = round(time.time()) - 7200.0  # files are dated to a millisecond
LENGTH_S = 50.0


def keep(database: Path, source: str, samples: np.ndarray, started_at_s: float) -> None:
    retention = Retention(10 * 86_400.0, 10**9)
    with AudioKeeper(audio_folder(database), retention, RATE_HZ, free_bytes=lambda _: 10**12) as keeper:
        keeper.push(source, Chunk(0, samples), lambda sample: started_at_s + sample / RATE_HZ)


def sound() -> np.ndarray:
    """A tone of one second at 12.5 s in near silence."""
    samples = 1e-3 * np.random.default_rng(0).standard_normal(round(LENGTH_S * RATE_HZ)).astype(np.float32)
    samples[round(12.5 * RATE_HZ) :][:RATE_HZ] += tone(800.0, 1.0, 1).astype(np.float32)
    return samples


def moment(seconds: float) -> str:
    """As the local clock shows it."""
    return datetime.datetime.fromtimestamp(STARTED_AT_S + seconds).isoformat()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    database = fill_history(tmp_path, [event(0, "dog", bundle_sha256=BUNDLE)])
    keep(database, "kitchen", sound(), STARTED_AT_S)
    return database


def test_a_missed_sound_is_marked_and_exported_as_train_reads_it(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark.run(database, "rain", moment(12.5), 1.0, None, dry_run=False)
    shown, notes = capsys.readouterr()
    assert "rain in kitchen" in shown and "is 2.0 to 3.0 s of 5.0 s" in shown
    (marked,) = read_marks(database)
    assert f"mark {marked.id}: rain in kitchen" in notes and "no model here knows" not in notes
    assert (marked.label, marked.source, marked.started_at_s) == ("rain", "kitchen", pytest.approx(STARTED_AT_S + 12.5))
    output = tmp_path / "set" / "corrections.csv"
    export.run(database, output, QueryOptions(), None, force=False)
    (clip,) = read_dataset(output).clips
    assert clip.labels == ("rain",) and clip.span_s is not None
    samples, rate_hz = soundfile.read(clip.path, dtype="float32")
    np.testing.assert_allclose(  # the stretch and 2 s around it, in 16 bits
        samples, sound()[round(10.5 * RATE_HZ) : round(15.5 * RATE_HZ)], atol=1 / 32_768
    )
    assert clip.span_s == pytest.approx((2.0, 3.0)) and rate_hz == RATE_HZ
    (row,) = csv.DictReader(io.StringIO(output.read_text()))
    assert (row["detected"], row["score"], row["id"]) == ("", "", marked.id)


def test_marks_are_filtered_listed_and_taken_back(
    database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("cta\n"))
    for second, label in ((12.5, "rain"), (20.0, "cta")):
        mark.run(database, label, moment(second), 1.0, None, dry_run=False)
    assert "no model here knows 'cta'; did you mean cat?" in capsys.readouterr().err
    first, second = read_marks(database)
    for options, expected in (
        ({"labels": ("cta",)}, [second.id]),
        ({"sources": ("garden",)}, []),
        ({"until_s": STARTED_AT_S + 15}, [first.id]),
        ({"limit": 1}, [second.id]),
    ):
        query = export.build_query(QueryOptions())
        query = type(query)(**options)  # type: ignore[arg-type]
        assert [one.id for one in read_corrections(database, query=query).found] == expected
    mark.print_marks(database)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [first.id, second.id]
    assert f"{marks_folder(database)}" in lines[0]
    mark.remove_marks(database, [second.id])
    assert [one.id for one in read_marks(database)] == [first.id]
    assert [path.name for path in marks_folder(database).iterdir()] == [first.audio]
    with pytest.raises(DataError, match="`flexiast review marks` lists them"):
        mark.remove_marks(database, [second.id])


def test_a_look_beforehand_stores_nothing(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark.run(database, "rain", moment(12.0), 2.0, "kitchen", dry_run=True)
    shown, notes = capsys.readouterr()
    assert "is 10.0 to 12.0 s of 22.0 s" in shown and "nothing is stored" in notes
    pointed = next(line for line in shown.splitlines() if set(line) == {" ", "^"})
    assert pointed.count("^") == pytest.approx(200 * 2 / 22, abs=1)  # of the 200 columns of a pipe
    assert read_marks(database) == [] and not marks_folder(database).exists()


def test_what_cannot_be_marked_is_said_and_leaves_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(error: type[Exception], match: str, at: str = moment(12.5), **changes: object) -> None:
        arguments = {"label": "rain", "at": at, "seconds": 1.0, "source": None, "dry_run": False} | changes
        with pytest.raises(error, match=match):
            mark.run(database, **arguments)  # type: ignore[arg-type]
        assert not marks_folder(database).exists() or not list(marks_folder(database).iterdir())

    refuse(UsageError, "is yet to come", at=(datetime.datetime.now() + datetime.timedelta(hours=1)).isoformat())
    refuse(UsageError, "is no time", at="noon")
    refuse(UsageError, "sound is kept of kitchen", source="garden")
    refuse(DataError, "there is what sounded from", at=moment(LENGTH_S - 0.5))
    refuse(UsageError, "label", label="")
    for typed in ("", "owll\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        refuse(UsageError, "is neither a known label nor the one before; nothing was stored", label="owl")
    assert capsys.readouterr().out == ""  # no picture of what is refused
    keep(database, "garden", sound(), STARTED_AT_S)
    refuse(UsageError, "sound of 2 sources is kept: .*add --source")
    monkeypatch.setattr("flexiast_runtime.history.database.LOCKED_S", 0.05)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refuse(LockedError, "another program is writing", source="kitchen")
    empty = fill_history(tmp_path / "empty", [event(0)]) if (tmp_path / "empty").mkdir() is None else database
    with pytest.raises(DataError, match="no sound is kept in"):
        mark.run(empty, "rain", "30s", 1.0, None, dry_run=False)
    with pytest.raises(DataError, match="does not exist"):
        mark.run(tmp_path / "none.db", "rain", "30s", 1.0, None, dry_run=False)


def test_what_has_just_sounded_is_waited_for(
    database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener's file becomes complete while it is waited for."""
    now_s = time.time()
    keep(database, "kitchen", sound()[: round(20 * RATE_HZ)], now_s - 25.0)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            keep(database, "kitchen", sound()[: round(SEGMENT_S * RATE_HZ)], now_s - 5.0)

    monkeypatch.setattr(mark.time, "sleep", sleep)
    at = datetime.datetime.fromtimestamp(now_s - 3.0).isoformat()
    mark.run(database, "rain", at, 1.0, None, dry_run=False)
    assert len(waits) == 2 and len(read_marks(database)) == 1
    assert capsys.readouterr().err.count("is written within 20 s; waiting") == 1


def test_keeping_audio_needs_a_database_and_live_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), RATE_HZ)
    sinks, source = parse_sinks([f"sqlite:{tmp_path / 'h.db'}"]), FileSource(tmp_path / "a.wav")
    with pytest.raises(UsageError, match="needs --to sqlite"):
        create_audio_keeper(OutputOptions(keep_audio="24h"), (), [source], RATE_HZ)
    with pytest.raises(UsageError, match="a recording is there anyway"):
        create_audio_keeper(OutputOptions(keep_audio="24h"), sinks, [source], RATE_HZ)
    assert create_audio_keeper(OutputOptions(), sinks, [source], RATE_HZ) is None


def test_what_a_listener_hears_is_kept(run: Run, tmp_path: Path) -> None:
    """A pipe is live sound: each of its samples is kept, also of the last file, which is not full.

    It is shorter than a file: what comes faster than it sounds has no dates that would join two.
    """
    pcm = (sound()[: round(6 * RATE_HZ)] * 32_767).astype("<i2")
    arguments = ("--input", "-", "--to", "sqlite:h.db", "--keep-audio", "1h", "--json")
    result = run("listen", *arguments, stdin=pcm.tobytes(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    database = tmp_path / "h.db"
    span = find_stored_span(audio_folder(database), "stdin")
    assert span is not None and span[1] - span[0] == pytest.approx(6.0)
    stretch = cut_stretch(audio_folder(database), "stdin", span[0] + 1.0, span[0] + 3.0, context_s=9.0)
    np.testing.assert_array_equal(stretch.samples, pcm / np.float32(32_768))


@given(st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2030, 1, 1)), st.integers(0, 86_399))
def test_a_time_of_day_is_the_last_one(now: datetime.datetime, second: int) -> None:
    text = f"{second // 3600}:{second // 60 % 60:02d}:{second % 60:02d}"
    moment_s = parse_moment(text, "--at", now.astimezone(datetime.timezone.utc))
    assert moment_s is not None
    assert 0 <= now.timestamp() - moment_s <= 25 * 3600  # a day in which summer time ends
    shown = datetime.datetime.fromtimestamp(moment_s)
    assert re.sub(r"^0", "", f"{shown:%H:%M:%S}") == text
