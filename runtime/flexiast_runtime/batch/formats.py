"""Results of files as text: one function for each format, which holds the results of one file at a time.

Times are printed from sample numbers by integer arithmetic, so that equal samples give equal text. Labels and paths
stay within their line and field: control characters are written out.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from flexiast.storage import RemotePath
from flexiast.text import printable_line
from flexiast_runtime.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from flexiast_runtime.detection.records import Event

CSV_COLUMNS = ("source", "start_s", "end_s", "label", "score", "patch_size", "model", "channel")
RAVEN_COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Begin File",
    "Begin Path",
    "File Offset (s)",
    "Label",
    "Score",
)
"""As Raven Pro names them; the begin path and the offset let it open the table without the sound, and find it."""


class Format(str, Enum):
    """How events are written."""

    TABLE = "table"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    RAVEN = "raven"
    AUDACITY = "audacity"
    SRT = "srt"
    PARQUET = "parquet"

    @property
    def suffix(self) -> str:
        """What a result's name ends with."""
        return {"table": "txt", "raven": "selections.txt", "audacity": "labels.txt"}.get(self.value, self.value)

    @property
    def of_one_file(self) -> bool:
        """The format has no place for the name of a second recording."""
        return self in {Format.RAVEN, Format.AUDACITY, Format.SRT}


@dataclass(frozen=True)
class Result:
    """The events of one file, or the error that prevented them."""

    path: Path | RemotePath
    source: str
    """Its path, printable"""
    rate_hz: int = 0
    """Of the file"""
    audio_s: float = 0.0
    events: tuple[Event, ...] = ()
    error: str | None = None
    notices: tuple[str, ...] = ()
    """Other faults of the file, in messages that name it"""


def render(output_format: Format, results: Iterable[Result], model: str) -> Iterator[str]:
    """The pieces of the whole text; Parquet is none. A result is fetched when the last one has been written."""
    return _FORMATS[output_format](results, model)


def seconds(samples: int, rate_hz: int, digits: int) -> str:
    """Samples as decimal seconds, rounded half up by integers: ``seconds(1, 3, 2)`` is ``0.33``."""
    whole, part = divmod((2 * samples * 10**digits + rate_hz) // (2 * rate_hz), 10**digits)
    return f"{whole}.{part:0{digits}}"


def _jsonl(results: Iterable[Result], _: str) -> Iterator[str]:
    for result in results:
        yield "".join(json.dumps(event.document(), ensure_ascii=False) + "\n" for event in result.events)


def _json(results: Iterable[Result], model: str) -> Iterator[str]:
    yield f'{{"schema_version": "{SCHEMA_VERSION}", "model": {json.dumps(model, ensure_ascii=False)}, "files": ['
    between = "\n"
    for result in results:
        yield between + json.dumps(_file_document(result), ensure_ascii=False)
        between = ",\n"
    yield "\n]}\n"


def _file_document(result: Result) -> dict[str, object]:
    if result.error is not None:
        return {"source": result.source, "error": result.error}
    envelope = {"schema_version", "type", "source"}
    events = [{key: value for key, value in event.document().items() if key not in envelope} for event in result.events]
    document = {"source": result.source, "audio_s": round(result.audio_s, 4), "events": events}
    return document | ({"notices": list(result.notices)} if result.notices else {})


def _csv(results: Iterable[Result], model: str) -> Iterator[str]:
    yield _csv_lines([CSV_COLUMNS])
    for result in results:
        yield _csv_lines(_csv_row(event, result.source, model) for event in result.events)


def _csv_row(event: Event, source: str, model: str) -> list[str]:
    """The recording, not the channel's own name, so that a table of recordings can be joined."""
    document = event.document() | {"source": source, "model": model, "channel": event.channel or ""}
    return [printable_line(str(document[column])) for column in CSV_COLUMNS]


def _csv_lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _raven(results: Iterable[Result], _: str) -> Iterator[str]:
    yield "\t".join(RAVEN_COLUMNS) + "\n"
    for result in results:
        for number, event in enumerate(_sort_by_start(result.events), 1):
            begin, end = _times(event, 6)
            high_hz = min(event.sample_rate_hz, result.rate_hz) // 2  # the model's share of the recorded band
            place = (printable_line(result.path.name), printable_line(str(result.path.absolute())), begin)
            fields = (
                number,
                "Spectrogram 1",
                event.channel or 1,
                begin,
                end,
                0,
                high_hz,
                *place,
                printable_line(event.label),
            )
            yield "\t".join(map(str, fields)) + f"\t{event.score:.4f}\n"


def _audacity(results: Iterable[Result], _: str) -> Iterator[str]:
    for result in results:
        for event in _sort_by_start(result.events):
            yield "\t".join((*_times(event, 6), _label(event, result))) + "\n"


def _srt(results: Iterable[Result], _: str) -> Iterator[str]:
    for result in results:
        for number, event in enumerate(_sort_by_start(result.events), 1):
            begin, end = map(_clock, _times(event, 3))
            yield f"{number}\n{begin} --> {end}\n{_label(event, result)} {event.score:.2f}\n\n"


def _label(event: Event, result: Result) -> str:
    """With the channel where a recording has events of several."""
    several = len({other.channel for other in result.events}) > 1
    return printable_line(event.label) + (f" (channel {event.channel})" if several else "")


def _clock(time_s: str) -> str:
    """``3723.042`` → ``01:02:03,042``."""
    whole, milliseconds = time_s.split(".")
    minutes, second = divmod(int(whole), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02},{milliseconds}"


def _table(results: Iterable[Result], _: str) -> Iterator[str]:
    """For people; its columns are as wide as their longest cell, so it holds all rows."""
    rows = [("source", "start s", "end s", "score", "label")]
    rows += (
        (printable_line(event.source), *_times(event, 2), f"{event.score:.2f}", printable_line(event.label))
        for result in results
        for event in result.events
    )
    widths = [max(map(_cells, column)) for column in zip(*rows, strict=True)]
    for source, *numbers, label in rows if len(rows) > 1 else []:
        padded = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
        yield "  ".join((source + " " * (widths[0] - _cells(source)), *padded, label)) + "\n"


def _cells(text: str) -> int:
    """Columns that a terminal gives to a text."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _sort_by_start(events: Iterable[Event]) -> list[Event]:
    """In the order in which they begin; detectors give the order in which they end."""
    return sorted(events, key=lambda event: (event.start_sample, event.end_sample, event.label))


def _times(event: Event, digits: int) -> tuple[str, str]:
    return seconds(event.start_sample, event.sample_rate_hz, digits), seconds(
        event.end_sample, event.sample_rate_hz, digits
    )


_FORMATS: dict[Format, Callable[[Iterable[Result], str], Iterator[str]]] = {
    Format.TABLE: _table,
    Format.JSONL: _jsonl,
    Format.JSON: _json,
    Format.CSV: _csv,
    Format.RAVEN: _raven,
    Format.AUDACITY: _audacity,
    Format.SRT: _srt,
}
