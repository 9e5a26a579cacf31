"""The sound of each event, as a FLAC file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flexiast.errors import DataError, SinkDownError, SinkError, SinkUnavailableError, UsageError
from flexiast.files import write_atomically
from flexiast_runtime.audio.flac import encode_flac
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.history.clips import NAME, Span, name_clip, render_span
from flexiast_runtime.sinks.retention import KEEP_ALL, Keeper, Retention, clock_is_synchronised, list_half_written
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
            for path in list_half_written(self.folder, NAME):
                path.unlink(missing_ok=True)
            self._keeper = Keeper(
                self.folder,
                self._retention,
                NAME,
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
        span = locate(event, chunk, history.rate_hz)
        content = encode_flac(chunk.samples, history.rate_hz, render_span(span))
        try:
            if self._keeper.make_room(len(content)):
                self._keeper.report()
            write_atomically(self.folder / clip_name(event), content)
            self._keeper.add(clip_name(event))
        except OSError as error:
            kind = SinkDownError if error.errno in PASSING else SinkUnavailableError
            raise kind(f"{self.folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Each clip is whole when it is delivered."""
        self._keeper.report()


def locate(event: Event, chunk: Chunk, rate_hz: int) -> Span:
    """Where an event lies in the audio of its clip; what is no longer held of it is left out."""
    first, last = (
        min(max(0, sample - chunk.start), len(chunk.samples)) for sample in (event.start_sample, event.end_sample)
    )
    return Span(first / rate_hz, last / rate_hz)


def clip_name(event: Event) -> str:
    """What the clip of an event is called."""
    return name_clip(event.label, event.id, event.started_at_s, event.start_s)
