"""Which clips, and how much kept audio, stay in their folder, and by which clock their age is reckoned.

No other file is ever removed.

A board without a battery for its clock may boot years in the future or the past, until its time is synchronised: ages
reckoned then would remove every clip. So a large jump is not believed until the kernel calls the clock synchronised.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flexiast.errors import DataError
from flexiast.files import write_atomically
from flexiast.log import Log

CLOCK = ".flexiast-clock"
"""The file in the folder that holds the last plausible time, in Unix seconds"""
LONGEST_OFF_S = 180 * 86400.0
"""How much later than the last plausible time it may be without synchronisation: half a year in a drawer"""
LONGEST_BACK_S = 86400.0
"""How much earlier it may be: a clock that is corrected"""
CLOCK_EVERY_S = 600.0
"""Seconds between two writes of `CLOCK`"""
LIST_EVERY_S = 3600.0
"""Seconds after which the folder is listed anew: another program may have its clips there"""
_TIME_ERROR = 5
"""What Linux's adjtimex returns while the clock is not synchronised"""


@dataclass(frozen=True)
class Retention:
    """What stays in the folder: files up to an age and, the newest first, up to a size."""

    age_s: float | None = None
    total_bytes: int | None = None
    reviewed_age_s: float | None = None
    """The age up to which clips stay that have a verdict; by size they go last. None: as all others"""


KEEP_ALL = Retention()


class StoredFile(NamedTuple):
    """A file in the folder."""

    written_s: float
    name: str
    size: int


class Keeper:
    """Knows the clips of a folder, or its kept audio, and removes the files that may stay no longer.

    The folder is listed at the start and every hour; in between, new files are added to the list.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        pattern: re.Pattern[str],
        *,
        wall: Callable[[], float],
        log: Log,
        synchronised: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
        find_reviewed: Callable[[Sequence[str]], AbstractSet[str]] = lambda event_ids: frozenset(),
    ) -> None:
        """``pattern`` matches the names of the files that are meant, with their event's ``id`` where they are clips.

        ``find_reviewed`` gives those of some events that have a verdict; it may raise DataError.
        """
        self._folder, self._retention, self._pattern, self._log = folder, retention, pattern, log
        self._monotonic = monotonic
        self._find_reviewed, self._is_unreadable = find_reviewed, False
        self._files: deque[StoredFile] = deque()  # the oldest first
        self._reviewed: deque[StoredFile] = deque()  # that would have gone but for their verdict; the oldest first
        self._total = 0
        self._removed = self._removed_bytes = 0  # since the last report
        self.removed_early = 0
        """Files that the size limit removed before their time"""
        self.list_folder()
        newest_s = self._files[-1].written_s if self._files else None
        self._clock = None
        if retention.age_s is not None or retention.reviewed_age_s is not None:
            self._clock = PlausibleClock(folder / CLOCK, newest_s, wall, synchronised, monotonic, log)

    def list_folder(self) -> None:
        """Read the folder again; raises OSError."""
        self._listed_s = self._monotonic()
        self._files, self._reviewed = deque(sorted(list_files(self._folder, self._pattern))), deque()
        self._total = sum(file.size for file in self._files)

    def add(self, name: str) -> None:
        """A file has been written: its time becomes the plausible one, where the clock's is not."""
        path = self._folder / name
        if self._clock is not None and abs(path.stat().st_mtime - (now_s := self._clock.now_s())) > LONGEST_BACK_S:
            os.utime(path, (now_s, now_s))
        file = StoredFile((stat := path.stat()).st_mtime, name, stat.st_size)
        self._files.append(file)
        self._total += file.size

    def make_room(self, size: int = 0) -> bool:
        """Remove what may stay no longer, the oldest first, before a file of so many bytes is written.

        Returns whether the folder was listed again: once an hour.
        """
        is_listed = self._monotonic() - self._listed_s >= LIST_EVERY_S
        if is_listed:
            self.list_folder()
        protected = 0 if size else 1  # the size limit alone never removes the newest
        oldest_s, oldest_reviewed_s = self._oldest_s(self._retention.age_s), self._oldest_reviewed_s()
        while self._files:
            file = self._files[0]
            is_old = file.written_s < oldest_s
            if not is_old and not (self._is_too_much(size) and len(self._files) > protected):
                break
            if file.written_s >= oldest_reviewed_s and self._is_reviewed(file):
                self._reviewed.append(self._files.popleft())
            else:
                self._remove(self._files)
                self.removed_early += not is_old
        while self._reviewed and (self._is_too_much(size) or self._reviewed[0].written_s < oldest_reviewed_s):
            self._remove(self._reviewed)
        return is_listed

    def _remove(self, files: deque[StoredFile]) -> None:
        """Remove the first of them, from the disk first."""
        (self._folder / files[0].name).unlink(missing_ok=True)
        file = files.popleft()
        self._total -= file.size
        self._removed += 1
        self._removed_bytes += file.size

    def _is_reviewed(self, file: StoredFile) -> bool:
        """Whether the clip's event has a verdict; as long as that cannot be read, it counts as if it had."""
        found = self._pattern.fullmatch(file.name)
        assert found is not None, "only clips are listed"
        try:
            is_reviewed = found["id"] in self._find_reviewed([found["id"]])
        except DataError as error:
            if not self._is_unreadable:
                self._log(f"clips:{self._folder}: no clip is removed before its time with keep-reviewed: {error}")
            self._is_unreadable = True
            return True
        self._is_unreadable = False
        return is_reviewed

    def report(self) -> None:
        """Log which clips were removed since the last time."""
        if self._removed:
            limits = {
                "keep": self._retention.age_s,
                "keep-reviewed": self._retention.reviewed_age_s,
                "total": self._retention.total_bytes,
            }
            why = " and ".join(name for name, limit in limits.items() if limit is not None)
            size = f"{self._removed_bytes / 1e6:,.1f} MB"
            self._log(f"clips:{self._folder}: {self._removed:,} of the oldest clips removed, {size}, by {why}")
            self._removed = self._removed_bytes = 0

    def _oldest_s(self, age_s: float | None) -> float:
        """When the oldest file that may stay was written."""
        return -math.inf if self._clock is None or age_s is None else self._clock.now_s() - age_s

    def _oldest_reviewed_s(self) -> float:
        """The same of clips that have a verdict; infinite where a verdict changes nothing."""
        age_s = self._retention.reviewed_age_s
        return math.inf if age_s is None else self._oldest_s(age_s)

    def _is_too_much(self, size: int) -> bool:
        return self._retention.total_bytes is not None and self._total + size > self._retention.total_bytes


class PlausibleClock:
    """The wall clock as long as it is plausible, else the last plausible time and what has passed since.

    ``newest_s``, when the newest clip was written, stands for the file where there is none yet.
    """

    def __init__(
        self,
        file: Path,
        newest_s: float | None,
        wall: Callable[[], float],
        synchronised: Callable[[], bool],
        monotonic: Callable[[], float],
        log: Log,
    ) -> None:
        self._file, self._wall, self._synchronised, self._log = file, wall, synchronised, log
        self._monotonic = monotonic
        stored_s = _read_time(file)
        last_s = newest_s if stored_s is None else stored_s
        self._last_s, self._at_s = wall() if last_s is None else last_s, monotonic()
        self._written_s = -CLOCK_EVERY_S
        self._doubtful = False

    def now_s(self) -> float:
        """Unix seconds."""
        reckoned_s, wall_s = self._last_s + self._monotonic() - self._at_s, self._wall()
        plausible = -LONGEST_BACK_S <= wall_s - reckoned_s <= LONGEST_OFF_S or self._synchronised()
        if plausible:
            self._last_s, self._at_s = wall_s, self._monotonic()
            self._store()
        elif not self._doubtful:
            self._log(
                f"the clock says {_date(wall_s)}, the last plausible time in {self._file.parent} is "
                f"{_date(reckoned_s)}: files age by the latter until the clock is synchronised"
            )
        self._doubtful = not plausible
        return wall_s if plausible else reckoned_s

    def _store(self) -> None:
        if self._at_s - self._written_s >= CLOCK_EVERY_S:
            self._written_s = self._at_s
            with contextlib.suppress(OSError):  # a full disk: the next one will do
                write_atomically(self._file, f"{self._last_s:.0f}\n".encode())


def list_half_written(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Half-written files of a killed program, recognised by the names that `write_atomically` gives."""
    return (path for path in folder.glob(".*.tmp-*") if pattern.fullmatch(path.name[1:].rpartition(".tmp-")[0]))


def list_files(folder: Path, pattern: re.Pattern[str]) -> Iterator[StoredFile]:
    """The files of a folder that are named so; one that vanishes meanwhile is left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file():
                        stat = entry.stat()
                        yield StoredFile(stat.st_mtime, entry.name, stat.st_size)


def clock_is_synchronised() -> bool:
    """Whether the kernel reports a synchronised clock; False where it reports nothing."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError, TypeError):  # no Linux
        return False
    return 0 <= adjtimex(ctypes.create_string_buffer(512)) < _TIME_ERROR  # struct timex, all zero: only reads


def _read_time(file: Path) -> float | None:
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _date(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))
