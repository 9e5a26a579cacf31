"""``flexiast review``: verdicts from the terminal, what they export, and how they are counted."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import soundfile

from flexiast.data.dataset import read_background_csv, read_dataset
from flexiast.errors import DataError, UsageError
from flexiast_cli.commands.history import run as history_command
from flexiast_cli.commands.history.command import Format, QueryOptions
from flexiast_cli.commands.review import card, export, start
from flexiast_runtime.history.verdicts import Verdict, give_verdict, read_verdicts
from flexiast_runtime.sinks.parse import parse_sink
from tests.runtime.history.conftest import BUNDLE, NEWER, fill_history
from tests.runtime.sinks.conftest import BEGAN_AT_S, event

EVENTS = [
    event(number, label, score=score, threshold=0.5, bundle_sha256=BUNDLE)
    for number, (label, score) in enumerate([("dog", 0.9), ("dog", 0.55), ("cat", 0.8), ("rain", 0.6)])
]
Type = Callable[..., tuple[str, str]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return fill_history(tmp_path, EVENTS, EVENTS)


@pytest.fixture
def type_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Run the command with these lines on stdin: stdout, stderr."""

    def type_keys(
        database: Path, *keys: str, folders: list[Path] | None = None, order: str = "least-sure", again: bool = False
    ) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        start.run(database, QueryOptions(), folders, order, again=again)
        return capsys.readouterr()

    return type_keys


def judge(database: Path, *verdicts: tuple[Verdict, str | None]) -> None:
    for one, (verdict, label) in zip(EVENTS, verdicts, strict=False):
        give_verdict(database, one.id, verdict, label, reviewer="ann", instead_of=None)


def list_verdicts(database: Path) -> dict[str, tuple[str, str | None]]:
    return {name: (one.verdict.value, one.label) for name, one in read_verdicts(database).items()}


def test_keys_give_verdicts_least_sure_first(database: Path, type_keys: Type) -> None:
    shown, notes = type_keys(database, "2", "1", "3", "dog", "0")
    assert list_verdicts(database) == {
        EVENTS[1].id: ("wrong", None),  # dog 0.55, rain 0.6, cat 0.8; then the second dog
        EVENTS[3].id: ("right", "rain"),
        EVENTS[2].id: ("other", "dog"),
        EVENTS[0].id: ("nothing", None),
    }
    assert "1 of 4  dog  0.55 (needs 0.50)" in shown
    assert "kitchen · 16x16 · home" in shown
    assert "near: dog 0.90 -1 s, cat 0.80 +1 s, rain 0.60 +2 s" in shown
    assert "4 events to listen to" in notes


def test_walking_taking_back_and_ending(database: Path, type_keys: Type) -> None:
    _, notes = type_keys(database, "right", "1", "left", "u", "left", "?", "left", "q", order="oldest")
    assert list_verdicts(database) == {}
    assert "dog has no verdict any more; it was right, said by" in notes
    assert "space play" in notes
    assert "0 verdicts in" in notes
    shown, notes = type_keys(database, "2", "1", "u", "u", "u", "q", order="oldest")
    assert list_verdicts(database) == {}
    assert shown.count("1 of 4") == 2 and shown.count("2 of 4") == 2
    assert "dog has no verdict any more; it was wrong, said by" in notes
    assert "there is no verdict to take back" in notes and "0 verdicts in" in notes
    type_keys(database, "1", "q", order="newest")
    assert list_verdicts(database) == {EVENTS[3].id: ("right", "rain")}


def test_a_new_label_is_typed_twice_and_a_misspelt_one_is_told_its_neighbours(database: Path, type_keys: Type) -> None:
    _, notes = type_keys(database, "3", "cta", "cat", "3", "owl", "owl", "3", "", "q", order="oldest")
    assert list_verdicts(database) == {EVENTS[0].id: ("other", "cat"), EVENTS[1].id: ("other", "owl")}
    assert "no model here knows 'cta'; did you mean cat?\nType it again" in notes
    assert "no label was given" in notes
    _, notes = type_keys(database, "3", "owll", "oowl", "q", order="oldest")
    assert "neither a known label nor the one before" in notes
    assert len(list_verdicts(database)) == 2


def test_the_nearest_events_are_named_in_the_order_of_time(tmp_path: Path, type_keys: Type) -> None:
    events = [event(number, f"sound {number}") for number in range(9)]
    shown, _ = type_keys(fill_history(tmp_path, events, events[6:7]), "q")
    assert re.findall(r"sound (\d) [\d.]+ [+-]", shown) == ["4", "5", "7", "8"]


def test_another_reviewer_and_a_clip_that_is_gone_are_said(
    database: Path, type_keys: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    next((database.parent / "clips").glob(f"*{EVENTS[1].id}.flac")).rename(database.parent / "away")
    show, steps = start.draw_card, []

    def draw(*arguments: object) -> object:
        """While the first event is looked at, another program judges it."""
        if not steps:
            give_verdict(database, EVENTS[0].id, Verdict.WRONG, reviewer="bob", instead_of=None)
        steps.append(arguments)
        return show(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(start, "draw_card", draw)
    shown, notes = type_keys(database, "1", "2", "q", order="oldest")
    assert "meanwhile has the verdict wrong, said by bob; look at it again" in notes
    assert "wrong, said by bob" in shown
    assert list_verdicts(database)[EVENTS[0].id] == ("wrong", None)
    assert len(steps) == 3  # of the two others that have a clip


def test_playing_says_why_it_cannot(database: Path, type_keys: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Path] = []

    def play(path: Path) -> str | None:
        played.append(path)
        return None if len(played) == 1 else "no loudspeaker"

    monkeypatch.setattr(start, "play", play)
    _, notes = type_keys(database, " ", " ", "q", order="oldest")
    assert [path.name.split("_")[2] for path in played] == [f"{EVENTS[0].id}.flac"] * 2
    assert "no loudspeaker" in notes
    (database.parent / "bad.flac").write_bytes(b"no audio")
    assert "cannot be played here" in str(card.play(database.parent / "bad.flac"))


def test_without_clips_or_events_it_says_what_to_do(tmp_path: Path, type_keys: Type) -> None:
    database = fill_history(tmp_path, [])
    assert "holds no event yet" in type_keys(database)[1]
    database = fill_history(tmp_path, EVENTS)
    assert f"listen with --to sqlite:{database} --to clips:FOLDER" in type_keys(database)[1]
    database = fill_history(tmp_path, EVENTS, EVENTS)
    judge(database, *[(Verdict.RIGHT, None)] * 4)
    assert "all 4 events that match have a verdict; --again shows them" in type_keys(database)[1]
    assert "4 have a verdict" in type_keys(database, "q", again=True)[1]
    (tmp_path / "clips").rename(tmp_path / "moved")
    assert "4 have a verdict" in type_keys(database, "q", again=True, folders=[tmp_path / "moved"])[1]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_single_keys_on_a_terminal(database: Path) -> None:
    """Real keys, without Enter, and the terminal as it was afterwards."""
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [Path(sys.executable).with_name("flexiast"), "review", str(database), "--order", "oldest"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        keys = iter([b"\x1b[C", b"2", b"q"])
        for line in process.stdout:
            if "the event is" in line:  # it is shown: the next key is read
                os.write(ours, next(keys))
        assert process.wait() == 0
    assert termios.tcgetattr(theirs)[3] == before[3]
    os.close(ours)
    os.close(theirs)
    assert list_verdicts(database) == {EVENTS[1].id: ("wrong", None)}


def test_what_is_exported_is_what_train_reads(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(database, (Verdict.RIGHT, None), (Verdict.WRONG, None), (Verdict.OTHER, "owl"), (Verdict.NOTHING, None))
    output = tmp_path / "set" / "corrections.csv"
    export.run(database, output, QueryOptions(), None, force=False)
    notes = capsys.readouterr().err
    assert "4 corrections in" in notes and "2 background, 1 dog, 1 owl" in " ".join(notes.split())
    assert "home, the last model that wrote this database, does not know owl" in " ".join(notes.split())
    clips = sorted(read_dataset(output).clips, key=lambda clip: clip.path)  # whose names begin with their time
    assert [clip.labels for clip in clips] == [("dog",), (), ("owl",), ()]
    for clip, one in zip(clips, EVENTS, strict=True):
        assert clip.path.parent == output.with_suffix("")
        assert clip.span_s is not None
        before = min(1.0, one.start_s)
        assert clip.span_s == pytest.approx((before, before + 0.5))
        assert soundfile.info(clip.path).duration > clip.span_s[1]
    (database.parent / "clips").rename(tmp_path / "gone")  # the audio is the export's own
    assert all(soundfile.info(clip.path).frames for clip in read_dataset(output).clips)
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["detected"] for row in rows] == ["dog", "dog", "cat", "rain"]
    assert {row["bundle_sha256"] for row in rows} == {BUNDLE}


def test_an_export_of_background_alone_says_how_to_use_it(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(database, *[(Verdict.WRONG, None)] * 3)
    next((tmp_path / "clips").glob(f"*{EVENTS[2].id}.flac")).unlink()
    export.run(database, tmp_path / "wrong.csv", QueryOptions(), None, force=False)
    notes = " ".join(capsys.readouterr().err.split())
    assert "1 reviewed event is left out: the clip is gone or damaged" in notes
    assert "every verdict is background" in notes and "--background" in notes
    assert len(read_background_csv(tmp_path / "wrong.csv")) == 2


def test_an_export_that_cannot_be_leaves_nothing(database: Path, tmp_path: Path) -> None:
    output = tmp_path / "set" / "corrections.csv"
    with pytest.raises(DataError, match="no event that matches has a verdict"):
        export.run(database, output, QueryOptions(), None, force=False)
    judge(database, (Verdict.RIGHT, None))
    with pytest.raises(DataError, match="are gone; name their folder with --clips"):
        export.run(database, output, QueryOptions(), [tmp_path / "elsewhere"], force=False)
    with pytest.raises(UsageError, match=r"let its name end with \.csv"):
        export.run(database, tmp_path / "corrections.txt", QueryOptions(), None, force=False)
    assert not output.parent.exists()
    export.run(database, output, QueryOptions(), None, force=False)
    with pytest.raises(UsageError, match="exists"):
        export.run(database, output, QueryOptions(), None, force=False)
    output.unlink()
    with pytest.raises(UsageError, match="the audio would go there"):
        export.run(database, output, QueryOptions(), None, force=False)
    export.run(database, output, QueryOptions(), None, force=True)
    assert sorted(path.name for path in output.parent.iterdir()) == ["corrections", "corrections.csv"]


def test_a_full_disk_is_said_of_the_folder_that_only_its_owner_may_read(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(database, (Verdict.RIGHT, None))

    def fill(source: Path, _: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="corrections'"):
        patch.setattr(export.shutil, "copyfile", fill)
        export.run(database, tmp_path / "corrections.csv", QueryOptions(), None, force=False)
    assert not list(tmp_path.glob("*corrections*"))
    export.run(database, tmp_path / "corrections.csv", QueryOptions(), None, force=False)
    if sys.platform != "win32":
        assert (tmp_path / "corrections").stat().st_mode & 0o777 == 0o700


def test_an_export_anew_leaves_no_audio_of_the_one_before_and_touches_no_other_file(
    database: Path, tmp_path: Path
) -> None:
    output, audio = tmp_path / "corrections.csv", tmp_path / "corrections"
    judge(database, (Verdict.RIGHT, None), (Verdict.WRONG, None))
    export.run(database, output, QueryOptions(), None, force=False)
    (audio / "my own.flac").write_bytes(b"precious")
    assert len(list(audio.iterdir())) == 3
    export.run(database, output, QueryOptions(labels=["dog"], limit=1), None, force=True)
    named = {Path(row["path"]).name for row in csv.DictReader(io.StringIO(output.read_text()))}
    assert len(named) == 1
    assert {path.name for path in audio.iterdir()} == named | {"my own.flac"}


def test_the_advice_on_clips_that_are_gone_can_be_followed(database: Path, tmp_path: Path) -> None:
    judge(database, (Verdict.RIGHT, None))
    with pytest.raises(DataError) as refused:
        export.run(database, tmp_path / "corrections.csv", QueryOptions(), [tmp_path / "elsewhere"], force=False)
    (sink,) = re.findall("--to '(.*)'", str(refused.value))
    assert parse_sink(sink).name == "clips:FOLDER"


def test_precision_is_printed_in_every_form(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def show(form: Format = Format.TABLE, **options: object) -> tuple[str, str]:
        history_command.run(database, QueryOptions(**options), form, None, verdicts=True)  # type: ignore[arg-type]
        return capsys.readouterr()

    assert "no event has a verdict" in show()[1]
    judge(database, (Verdict.RIGHT, None), (Verdict.WRONG, None), (Verdict.OTHER, "owl"))
    document = json.loads(show(Format.JSON)[0])
    assert (document["total"]["right"], document["total"]["reviewed"]) == (1, 3)
    assert document["labels"][0] | {"interval": None} == {
        "label": "dog",
        "right": 1,
        "reviewed": 2,
        "precision": 0.5,
        "interval": None,
    }
    rows = list(csv.DictReader(io.StringIO(show(Format.CSV)[0])))
    assert json.loads(show(Format.JSONL)[0].splitlines()[0])["reviewed"] == 3
    assert [(row["by"], row["value"], row["reviewed"]) for row in rows[:3]] == [
        ("total", "", "3"),
        ("label", "dog", "2"),
        ("label", "cat", "1"),
    ]
    table, notes = show()
    assert "50 %" in table and "owl" in table
    assert "3 verdicts in" in notes and "1 event without one" in " ".join(notes.split())
    assert json.loads(show(Format.JSON, labels=["cat"])[0])["total"]["reviewed"] == 1
    with pytest.raises(UsageError, match="no chart"):
        show(Format.CHART)


def test_models_are_told_apart_once_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = event(7, "dog", bundle_sha256=NEWER, started_at_s=BEGAN_AT_S + 7)
    database = fill_history(tmp_path, [*EVENTS, newer])
    judge(database, (Verdict.WRONG, None))
    give_verdict(database, newer.id, Verdict.RIGHT, reviewer="ann", instead_of=None)
    history_command.run(database, QueryOptions(), Format.TABLE, None, verdicts=True)
    table = capsys.readouterr().out
    assert f"home {BUNDLE[:8]}" in table and f"newer {NEWER[:8]}" in table


def test_a_locked_database_is_said_and_the_same_event_waits(
    database: Path, type_keys: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexiast_runtime.history.database.LOCKED_S", 0.05)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        shown, notes = type_keys(database, "1", "q", order="oldest")
    assert "another program is writing" in notes
    assert shown.count("1 of 4") == 2
    assert list_verdicts(database) == {}
