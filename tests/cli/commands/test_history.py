"""``flexiast history``: the events of a database, in every form."""

from __future__ import annotations

import csv
import datetime
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flexiast.errors import UsageError
from flexiast_cli.commands.history.chart import SHOWN, SLOTS, Day
from flexiast_cli.commands.history.command import Format, QueryOptions
from flexiast_cli.commands.history.run import describe_time, run
from flexiast_runtime.detection.records import Event
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.sqlite import SqliteHistory
from tests.cli.conftest import Run
from tests.runtime.sinks.conftest import RATE_HZ, event

DAY = datetime.datetime(2024, 11, 25)
"""Local, as the command's times are"""
Show = Callable[..., tuple[str, str]]


def at(hour: float, label: str = "dog", **fields: object) -> Event:
    began = (DAY + datetime.timedelta(hours=hour)).timestamp()
    start = round(3600 * hour) * RATE_HZ
    return event(label=label, **{"started_at_s": began, "start_sample": start, "end_sample": start + RATE_HZ} | fields)


EVENTS = (at(1, "rain"), at(9.4), at(9.6, source="yard"), at(30, "=SUM(A1)"), at(9, "tape", started_at_s=None))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.db"
    sink = SqliteHistory(path)
    sink.open(RunContext())
    for one in EVENTS:
        sink.deliver(one)
    sink.close()
    return path


@pytest.fixture
def show(database: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run the command here, which is faster than in a process of its own: stdout, stderr."""

    def show(form: Format = Format.TABLE, *, plot: Path | None = None, **options: Any) -> tuple[str, str]:
        run(database, QueryOptions(**options), form, plot)
        return capsys.readouterr()

    return show


def test_all_forms_tell_the_same_events(show: Show, database: Path) -> None:
    expected = [one.document() for one in (EVENTS[-1], *EVENTS[:-1])]  # recordings have no time and come first
    assert [json.loads(line) for line in show(Format.JSONL)[0].splitlines()] == expected
    document = json.loads(show(Format.JSON)[0])
    assert document["events"] == expected and document["schema_version"]
    rows = list(csv.DictReader(io.StringIO(show(Format.CSV)[0])))
    assert [(row["id"], row["label"], row["started_at"], float(row["score"])) for row in rows] == [
        (event["id"], event["label"], event["started_at"] or "", event["score"]) for event in expected
    ]
    table, note = show()
    assert "Mon 25 Nov 2024 09:24:00" in table and "at 32400.0 s" in table and "yard" in table
    assert note == f"5 events in {database}\n"


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"labels": ["rain", "dog"]}, [0, 1, 2]),
        ({"sources": ["yard"]}, [2]),
        ({"since": "2024-11-25T09:30"}, [2, 3]),
        ({"since": "2024-11-25", "until": "2024-11-26"}, [0, 1, 2]),
        ({"since": "24h"}, []),
        ({"until": "24h", "labels": ["rain"]}, [0]),
    ],
)
def test_options_choose_events(show: Show, options: dict[str, Any], numbers: list[int]) -> None:
    lines = show(Format.JSONL, **options)[0].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [EVENTS[number].id for number in numbers]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_years_and_the_hour_that_comes_twice_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = SqliteHistory(tmp_path / "h.db")
    sink.open(RunContext())
    first = datetime.datetime(2026, 10, 25, 0, 30, tzinfo=datetime.timezone.utc)
    for number, moment in enumerate((first - datetime.timedelta(days=364), first, first + datetime.timedelta(hours=1))):
        sink.deliver(event(started_at_s=moment.timestamp(), start_sample=number * RATE_HZ))
    sink.close()
    run(tmp_path / "h.db", QueryOptions(), Format.TABLE, plot=None)
    shown = [" ".join(line.split()[:6]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == [
        "Sun 26 Oct 2025 02:30:00 +0200",
        "Sun 25 Oct 2026 02:30:00 +0200",
        "Sun 25 Oct 2026 02:30:00 +0100",
    ]


def test_a_label_that_never_occurred_is_told_its_neighbours(show: Show, database: Path) -> None:
    for form in Format:
        printed, note = show(form, labels=["dogg", "rain", "zzzz"])
        assert "'dogg' was never detected; did you mean dog?" in note
        assert "'zzzz' was never detected" in note and "'rain'" not in note
        assert "never detected" not in printed
    assert "never detected" not in show(labels=["tape"], since="24h")[1]  # detected, though not in that time


def test_the_chart_and_the_picture(show: Show, tmp_path: Path) -> None:
    chart, note = show(Format.CHART)
    assert "Monday 25 November 2024 to Tuesday 26 November 2024, by time of day   4 sounds" in chart
    assert "recordings have no time of day: 1 left out" in note
    (dog,) = (line for line in chart.splitlines() if line.startswith("dog"))
    assert dog.split() == ["dog", "·" * 18 + "▇▇" + "·" * 28, "2"]
    assert "no event in that time" in show(Format.CHART, labels=["none"])[1]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    show(plot=tmp_path / "new" / "day.png")
    assert (tmp_path / "new" / "day.png").read_bytes().startswith(b"\x89PNG")


def test_a_limit_takes_the_newest_and_every_form_keeps_to_it(show: Show) -> None:
    lines = [json.loads(line)["id"] for line in show(Format.JSONL, limit=2)[0].splitlines()]
    assert lines == [EVENTS[2].id, EVENTS[3].id]
    assert [one["id"] for one in json.loads(show(Format.JSON, limit=2)[0])["events"]] == lines
    table, note = show(limit=1, labels=["dog"])
    assert len(table.splitlines()) == 2 and "09:36:00" in table and note.startswith("1 event in")
    assert json.loads(show(Format.JSON, labels=["none"])[0])["events"] == []


def test_the_hour_that_comes_twice_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        began = ("2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00", "2026-10-25T02:30:00+00:00")
        assert [describe_time({"started_at": at}) for at in began] == [
            "Sun 25 Oct 2026 02:30:00 +0200",
            "Sun 25 Oct 2026 02:30:00 +0100",
            "Sun 25 Oct 2026 03:30:00",
        ]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_cannot_be_shown_is_said(run: Run, tmp_path: Path, show: Show) -> None:
    missing = run("history", tmp_path / "none.db", "--label", "dog", "--format", "csv")
    assert missing.returncode == 8 and "does not exist" in missing.stderr
    with pytest.raises(UsageError, match="--since 'yesterday' is no time; give 24h"):
        show(since="yesterday")


def test_a_chart_of_many_labels_fits_80_columns_and_says_what_it_leaves_out() -> None:
    heard = [(f"a very long label number {number}", DAY) for number in range(SHOWN + 3) for _ in range(number + 1)]
    day = Day.from_events(heard)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(day.chart())
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "Monday 25 November 2024" in lines[0] and "3 rarer labels are not shown" in lines[0]
    assert len(lines) == SHOWN + 4
    assert day.total == len(heard) == sum(counts[0] for _, counts in day.rows)
    assert all(len(counts) == SLOTS for _, counts in day.rows)
