"""The sound of each event, as a FLAC file."""

from __future__ import annotations

import datetime
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flexiast.errors import DataError, SinkDownError, SinkError, SinkUnavailableError, UsageError
from flexiast.files import write_atomically
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.history.clips import NAME, Span, render_span
from flexiast_runtime.sinks.retention import KEEP_ALL, Keeper, Retention, clock_is_synchronised
from flexiast_runtime.sinks.sink import PASSING, RunContext, file_error

POST_ROLL_WAIT_S = 5.0
"""Seconds beyond the post-roll that its audio may come late."""
LONGEST_S = 600.0
"""Seconds of one clip; a longer sound of a recording loses its beginning, as it does live where 120 s are held"""


class Clips:
    """Cuts each event out of the audio, with some seconds before and after it."""

    def __init__(
        self,
        folder: Path,
        *,
        pre_s: float = 1.0,
        post_s: float = 1.0,
        retention: Retention = KEEP_ALL,
        wall: Callable[[], float] = time.time,
        synchronised: Callable[[], bool] = clock_is_synchronised,
    ) -> None:
        """``wall`` gives Unix seconds, ``synchronised`` whether they are those of other clocks."""
        self.name = f"clips:{folder}"
        self.folder, self._pre_s, self._post_s = folder, pre_s, post_s
        self._retention, self._wall, self._synchronised = retention, wall, synchronised

    def open(self, context: RunContext) -> None:
        self._histories = context.histories
        if self._retention.reviewed_age_s is not None and context.find_reviewed is None:
            raise UsageError(f"--to {self.name}: keep-reviewed needs --to sqlite: verdicts are stored there")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in list_half_written(self.folder):
                path.unlink(missing_ok=True)
            self._keeper = Keeper(
                self.folder,
                self._retention,
                wall=self._wall,
                log=context.log,
                synchronised=self._synchronised,
                find_reviewed=context.find_reviewed or (lambda event_ids: frozenset()),
            )
            self._keeper.make_room()
            self._keeper.report()
        except OSError as error:
            text = f"{self.folder} cannot be used for clips: {error.strerror}; name another"
            raise file_error(error, text) from error

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, event: Event) -> None:
        import soundfile

        history = self._histories[event.source]
        pre, post = (round(seconds * history.rate_hz) for seconds in (self._pre_s, self._post_s))
        end = event.end_sample + post
        begin = max(0, event.start_sample - pre, end - round(LONGEST_S * history.rate_hz))
        try:
            chunk = history.read(begin, end, self._post_s + POST_ROLL_WAIT_S)
        except DataError as error:
            raise SinkError(str(error)) from error
        if not len(chunk.samples):
            raise SinkError(f"the audio of {event.label} at {event.start_s:.1f} s is no longer held")
        content = io.BytesIO()
        with soundfile.SoundFile(content, "w", history.rate_hz, 1, "PCM_16", format="FLAC") as file:
            file.comment = render_span(locate(event, chunk, history.rate_hz))
            file.write(chunk.samples)
        try:
            self._keeper.make_room(content.getbuffer().nbytes)
            write_atomically(self.folder / clip_name(event), content.getvalue())
            self._keeper.add(clip_name(event))
        except OSError as error:
            kind = SinkDownError if error.errno in PASSING else SinkUnavailableError
            raise kind(f"{self.folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Each clip is whole when it is delivered."""
        self._keeper.report()


def list_half_written(folder: Path) -> Iterator[Path]:
    """Half-written clips of a killed program, recognised by the names that `write_atomically` gives."""
    return (path for path in folder.glob(".*.tmp-*") if NAME.fullmatch(path.name[1:].rpartition(".tmp-")[0]))


def locate(event: Event, chunk: Chunk, rate_hz: int) -> Span:
    """Where an event lies in the audio of its clip; what is no longer held of it is left out."""
    first, last = (
        min(max(0, sample - chunk.start), len(chunk.samples)) for sample in (event.start_sample, event.end_sample)
    )
    return Span(first / rate_hz, last / rate_hz)


def clip_name(event: Event) -> str:
    """``20261125T152342Z_dog-bark_0123456789abcdef.flac``: UTC, or seconds of a recording; label; the event's id."""
    if event.started_at_s is None:
        when = f"{event.start_s:010.2f}s"
    else:
        when = datetime.datetime.fromtimestamp(event.started_at_s, datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    label = "-".join(re.findall("[A-Za-z0-9]+", event.label))[:60].rstrip("-") or "sound"
    return f"{when}_{label}_{event.id}.flac"
