"""Each format read back by a reader of its own: times to the last digit, labels and paths within their fields."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast.text import printable
from flexiast_runtime.batch.formats import CSV_COLUMNS, RAVEN_COLUMNS, Format, Result, render, seconds
from flexiast_runtime.detection.records import Event

# Anything that a file system or a manifest could hold, and what breaks lines, fields and quotes.
hostile = st.text(st.one_of(st.characters(exclude_characters="\0/"), st.sampled_from('\t\n\r"\\,;\x1b\u2028\x85')))
names = hostile.filter(lambda name: name not in {"", ".", ".."})


@st.composite
def results(draw: st.DrawFn) -> Result:
    path = Path("/recordings") / draw(names)
    rate_hz = draw(st.sampled_from((8_000, 16_000, 22_050, 44_100)))
    source = printable(str(path)).replace("\n", "\\n")

    def event() -> Event:
        start = draw(st.integers(0, 400_000 * rate_hz))
        end = start + draw(st.integers(1, 100 * rate_hz))
        score = draw(st.floats(0.01, 1.0))
        return Event(source, draw(hostile), start, end, rate_hz, score, PatchSize(16, 16))

    events = tuple(event() for _ in range(draw(st.integers(0, 4))))
    return Result(path, source, draw(st.sampled_from((8_000, 48_000))), 400_100.0, events)


def text(output_format: Format, *given: Result, model: str = "sounds") -> str:
    return "".join(render(output_format, given, model))


def one_line(label: str) -> str:
    return printable(label).replace("\n", "\\n")


def by_time(result: Result) -> list[Event]:
    return sorted(result.events, key=lambda event: (event.start_sample, event.end_sample, event.label))


def assert_is(found: str, samples: int, rate_hz: int, digits: int) -> None:
    """The decimal next to the true time."""
    assert abs(Fraction(found) - Fraction(samples, rate_hz)) <= Fraction(1, 2 * 10**digits)
    assert len(found.partition(".")[2]) == digits


@given(st.integers(0, 2**53), st.integers(1, 768_000), st.integers(1, 9))
def test_seconds_are_the_nearest_decimal(samples: int, rate_hz: int, digits: int) -> None:
    assert_is(seconds(samples, rate_hz, digits), samples, rate_hz, digits)


@given(st.lists(results(), max_size=3), hostile)
def test_csv_is_what_pythons_reader_reads(given: list[Result], model: str) -> None:
    header, *rows = csv.reader(io.StringIO(text(Format.CSV, *given, model=model), newline=""), strict=True)
    assert tuple(header) == CSV_COLUMNS
    events = [event for result in given for event in result.events]
    assert len(rows) == len(events)
    for row, event in zip(rows, events, strict=True):
        found = dict(zip(header, row, strict=True))
        document = event.document() | {"label": one_line(event.label), "model": one_line(model), "channel": ""}
        assert found == {column: str(document[column]) for column in CSV_COLUMNS}


@given(st.lists(results(), max_size=3))
def test_jsonl_and_json_hold_the_documents(given: list[Result]) -> None:
    lines = text(Format.JSONL, *given).split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [e.document() for result in given for e in result.events]
    whole = json.loads(text(Format.JSON, *given))
    assert whole["schema_version"] == "2.0"
    for found, result in zip(whole["files"], given, strict=True):
        envelope = {"schema_version": "2.0", "type": "event", "source": found["source"]}
        assert [envelope | event for event in found["events"]] == [event.document() for event in result.events]


def test_json_says_what_failed() -> None:
    failed = Result(Path("a.wav"), "a.wav", error="a.wav breaks off")
    assert json.loads(text(Format.JSON, failed))["files"] == [{"source": "a.wav", "error": "a.wav breaks off"}]


def test_every_format_shows_the_channel_of_an_event() -> None:
    """One recording, whose channels hold the same sound at the same time."""
    mixed = Event("a.wav", "dog", 0, 16_000, 16_000, 0.9, PatchSize(16, 16))
    events = tuple(replace(mixed, source=f"a.wav channel {n}", channel=n) for n in (1, 2))
    assert events[0].id != events[1].id
    one, both = (Result(Path("a.wav"), "a.wav", 16_000, 2.0, found) for found in ((mixed,), events))
    for result, channels in ((one, [None]), (both, [1, 2])):
        header, *rows = csv.reader(text(Format.RAVEN, result).splitlines(), delimiter="\t")
        assert [row[header.index("Channel")] for row in rows] == [str(channel or 1) for channel in channels]
        header, *rows = csv.reader(text(Format.CSV, result).splitlines())
        assert [row[header.index("channel")] for row in rows] == [str(channel or "") for channel in channels]
        assert {row[header.index("source")] for row in rows} == {"a.wav"}
        (file,) = json.loads(text(Format.JSON, result))["files"]
        assert [event["channel"] for event in file["events"]] == channels
        assert [json.loads(line)["channel"] for line in text(Format.JSONL, result).splitlines()] == channels
    for output_format in (Format.AUDACITY, Format.SRT, Format.TABLE):
        assert all(f"channel {n}" in text(output_format, both) for n in (1, 2))
        assert "channel" not in text(output_format, one)


def test_json_has_what_is_wrong_with_a_file() -> None:
    odd, fine = (Result(Path("a.wav"), "a.wav", 16_000, 2.0, notices=notices) for notices in (("a.wav is odd",), ()))
    files = json.loads(text(Format.JSON, odd, fine))["files"]
    assert files[0]["notices"] == ["a.wav is odd"]
    assert "notices" not in files[1]


@given(results())
def test_raven_is_a_table_of_tabs(result: Result) -> None:
    header, *rows = (line.split("\t") for line in text(Format.RAVEN, result).splitlines())
    assert tuple(header) == RAVEN_COLUMNS
    for number, (row, event) in enumerate(zip(rows, by_time(result), strict=True), 1):
        found = dict(zip(header, row, strict=True))
        assert (found["Selection"], found["View"], found["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert_is(found["Begin Time (s)"], event.start_sample, event.sample_rate_hz, 6)
        assert_is(found["End Time (s)"], event.end_sample, event.sample_rate_hz, 6)
        assert found["File Offset (s)"] == found["Begin Time (s)"]
        assert 0 == int(found["Low Freq (Hz)"]) < int(found["High Freq (Hz)"]) <= result.rate_hz / 2
        assert (found["Begin Path"], found["Begin File"]) == (one_line(str(result.path)), one_line(result.path.name))
        assert (found["Label"], found["Score"]) == (one_line(event.label), f"{event.score:.4f}")


@given(results())
def test_audacity_has_three_fields_a_line(result: Result) -> None:
    lines = text(Format.AUDACITY, result).splitlines()
    for line, event in zip(lines, by_time(result), strict=True):
        start, end, label = line.split("\t")
        assert_is(start, event.start_sample, event.sample_rate_hz, 6)
        assert_is(end, event.end_sample, event.sample_rate_hz, 6)
        assert label == one_line(event.label)


@given(results())
def test_srt_is_numbered_blocks(result: Result) -> None:
    blocks = text(Format.SRT, result).split("\n\n")
    assert blocks.pop() == ""
    clock = r"(\d\d+):([0-5]\d):([0-5]\d),(\d{3})"
    for number, (block, event) in enumerate(zip(blocks, by_time(result), strict=True), 1):
        count_noun, times, said = block.splitlines()
        match = re.fullmatch(f"{clock} --> {clock}", times)
        assert match is not None
        fields = [int(field) for field in match.groups()]
        for (hours, minutes, whole, ms), sample in zip(
            (fields[:4], fields[4:]), (event.start_sample, event.end_sample), strict=True
        ):
            assert_is(f"{hours * 3600 + minutes * 60 + whole}.{ms:03}", sample, event.sample_rate_hz, 3)
        assert count_noun == str(number)
        assert said == f"{one_line(event.label)} {event.score:.2f}"


@given(st.lists(results(), max_size=3))
def test_a_table_has_a_line_for_each_event(given: list[Result]) -> None:
    events = [event for result in given for event in result.events]
    lines = text(Format.TABLE, *given).splitlines()
    assert len(lines) == len(events) + bool(events)
    for line, event in zip(lines[1:], events, strict=True):
        assert line.startswith(event.source)
        assert line.endswith(f"{event.score:.2f}  {one_line(event.label)}")


@pytest.mark.parametrize("output_format", [each for each in Format if each not in {Format.TABLE, Format.PARQUET}])
def test_a_result_is_asked_for_when_the_last_one_is_written(output_format: Format) -> None:
    """So a run of any number of files holds one at a time."""
    event = Event("a.wav", "dog", 0, 16_000, 16_000, 0.9, PatchSize(16, 16))
    result = Result(Path("a.wav"), "a.wav", 16_000, 1.0, (event,))
    written: list[str] = []

    def endless():  # type: ignore[no-untyped-def]
        for number in range(100):
            assert sum("dog" in piece for piece in written) == number
            yield result

    for piece in render(output_format, endless(), "sounds"):
        written.append(piece)  # noqa: PERF402 (the length is looked at meanwhile)
