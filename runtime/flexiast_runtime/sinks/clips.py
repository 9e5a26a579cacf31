"""The sound of each event, as a FLAC file."""

from __future__ import annotations

import datetime
import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast.errors import SinkError, SinkUnavailableError
from flexiast.files import write_atomically
from flexiast_runtime.records import Event, Record
from flexiast_runtime.sinks.sink import Hearing

POST_ROLL_WAIT_S = 5.0
"""Seconds beyond the post-roll that its audio may come late."""
NAME = re.compile(r"(\d{8}T\d{6}Z|\d{7}\.\d{2}s)_[A-Za-z0-9]+(-[A-Za-z0-9]+)*_[0-9a-f]{16}\.flac")
"""What a clip is called; no other file is ever removed."""


@dataclass(frozen=True)
class Retention:
    """What stays in the folder: clips up to an age and, the newest first, up to a size."""

    age_s: float | None = None
    total_bytes: int | None = None


class Clips:
    """Cuts each event out of the audio, with what was heard before and after it."""

    def __init__(
        self,
        folder: Path,
        *,
        pre_s: float = 1.0,
        post_s: float = 1.0,
        retention: Retention = Retention(),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"clips:{folder}"
        self.folder, self._pre_s, self._post_s = folder, pre_s, post_s
        self._retention, self._wall = retention, wall

    def open(self, hearing: Hearing) -> None:
        self._histories = hearing.histories
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in half_written(self.folder):
                path.unlink(missing_ok=True)
            self._tidy()
        except OSError as error:
            raise SinkError(f"{self.folder} cannot be used for clips: {error.strerror}; name another") from error

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, event: Event) -> None:
        import soundfile

        history = self._histories[event.source]
        pre, post = (round(seconds * history.rate_hz) for seconds in (self._pre_s, self._post_s))
        begin, end = max(0, event.start_sample - pre), event.end_sample + post
        samples = history.read(begin, end, self._post_s + POST_ROLL_WAIT_S).samples
        if not len(samples):
            raise SinkError(f"the audio of {event.label} at {event.start_s:.1f} s is no longer held")
        content = io.BytesIO()
        soundfile.write(content, samples, history.rate_hz, format="FLAC", subtype="PCM_16")
        try:
            write_atomically(self.folder / clip_name(event), content.getvalue())
            self._tidy()
        except OSError as error:
            raise SinkUnavailableError(f"{self.folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Each clip is whole when it is delivered."""

    def _tidy(self) -> None:
        clips = [Clip(path, (stat := path.stat()).st_mtime, stat.st_size) for path in own(self.folder)]
        for clip in expired(clips, self._retention, self._wall()):
            clip.path.unlink(missing_ok=True)


class Clip(NamedTuple):
    """A file in the folder."""

    path: Path
    written_s: float
    size: int


def own(folder: Path) -> Iterator[Path]:
    """The clips in a folder, told by their names."""
    return (path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_file())


def half_written(folder: Path) -> Iterator[Path]:
    """What a killed program left of clips, told by the names that `write_atomically` gives."""
    return (path for path in folder.glob(".*.tmp-*") if NAME.fullmatch(path.name[1:].rpartition(".tmp-")[0]))


def expired(clips: list[Clip], retention: Retention, now_s: float) -> list[Clip]:
    """The clips that may stay no longer, the oldest first; size alone never takes the newest."""
    newest_first = sorted(clips, key=lambda clip: (clip.written_s, clip.path.name), reverse=True)
    gone, total = [], 0
    for place, clip in enumerate(newest_first):
        total += clip.size
        too_old = retention.age_s is not None and now_s - clip.written_s > retention.age_s
        too_much = retention.total_bytes is not None and total > retention.total_bytes and place > 0
        if too_old or too_much:
            gone.append(clip)
    return gone[::-1]


def clip_name(event: Event) -> str:
    """``20261125T152342Z_dog-bark_0123456789abcdef.flac``: UTC, or seconds of a recording; label; the event's id."""
    if event.began_at_s is None:
        when = f"{event.start_s:010.2f}s"
    else:
        when = datetime.datetime.fromtimestamp(event.began_at_s, datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    label = "-".join(re.findall("[A-Za-z0-9]+", event.label))[:60].rstrip("-") or "sound"
    return f"{when}_{label}_{event.id}.flac"
