"""What a results place holds: which recordings are finished, so that a run goes on where the last one ended.

    _done/run.json      what all results of the place were made with
    _done/<id>.json     recordings that were classified together, and the files that hold their results
    events/<id>.parquet their events

A group's results are written first and its entry last, each whole. The id is a hash of the group's recordings, so a
group that is classified again, after a crash or on another machine, replaces its own results and never adds to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np

from flexiast.errors import DataError, UsageError
from flexiast.storage import Folder
from flexiast_runtime.batch.identity import check_same_run

ENTRIES = "_done"
RUN = f"{ENTRIES}/run.json"
EVENTS = "events"


class Recording(NamedTuple):
    """One recording of an archive."""

    path: str
    """A local path or a URL"""
    size: int
    """In bytes"""
    version: str
    """Changes when the content does"""
    name: str
    """Of its result, without the ending, below the results place"""


@dataclass(frozen=True)
class Entry:
    """A group of recordings that is finished."""

    recordings: Sequence[Sequence[Any]]
    """Path, size and version of each that was classified"""
    failed: Sequence[tuple[str, str]] = ()
    """Path of each that was not, and why"""
    outputs: Sequence[str] = ()
    """Files of the place that hold the results"""
    events: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0


def group_id(recordings: Iterable[Recording]) -> str:
    """The same for the same recordings in the same state."""
    text = json.dumps([each[:3] for each in recordings])
    return sha256(text.encode()).hexdigest()[:20]


@dataclass
class Totals:
    """What all entries of a place sum up to."""

    recordings: int = 0
    events: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, entry: Entry) -> None:
        self.recordings += len(entry.recordings)
        self.events += entry.events
        self.audio_s += entry.audio_s
        self.cpu_s += entry.cpu_s


@dataclass
class _Index:
    """Recordings of the entries, by hashes: 20 bytes each, however long their names are."""

    paths: Any = field(default_factory=lambda: np.empty(0, np.uint64))
    states: Any = field(default_factory=lambda: np.empty(0, np.uint64))
    entries: Any = field(default_factory=lambda: np.empty(0, np.int32))


class Ledger:
    """The finished groups of a results place; made by ``open_ledger``."""

    def __init__(self, folder: Folder, entries: Iterable[tuple[str, Entry]]) -> None:
        self.folder, self.totals = folder, Totals()
        self.failed: dict[str, str] = {}
        """Recordings without a result, and why"""
        self._ids: list[str] = []
        hashes: list[tuple[int, int, int]] = []
        for number, (name, entry) in enumerate(entries):
            self._ids.append(name)
            self.totals.add(entry)
            self.failed |= dict(entry.failed)
            hashes += [(_hash(path), _hash(path, size, version), number) for path, size, version in entry.recordings]
        table = np.array(sorted(hashes), np.uint64).reshape(-1, 3)
        self._index = _Index(table[:, 0], table[:, 1], table[:, 2].astype(np.int32))

    def find(self, recording: Recording) -> Literal["done", "changed", "missing"]:
        """Whether a recording is finished, or was in another state."""
        place = self._place(recording)
        if place is None:
            return "missing"
        unchanged = int(self._index.states[place]) == _hash(*recording[:3])
        return "done" if unchanged else "changed"

    def forget(self, recording: Recording) -> None:
        """Remove the entry of a recording that has changed: all that were classified with it are missing again."""
        place = self._place(recording)
        if place is not None:
            self.folder.delete(f"{ENTRIES}/{self._ids[self._index.entries[place]]}.json")

    def _place(self, recording: Recording) -> int | None:
        wanted = np.uint64(_hash(recording.path))
        place = int(np.searchsorted(self._index.paths, wanted))
        return place if place < len(self._index.paths) and self._index.paths[place] == wanted else None


def open_ledger(folder: Folder, identity: Mapping[str, str]) -> Ledger:
    """Read what a place holds; a new one gets its first file.

    Raises UsageError where the results there were made otherwise, DataError for a damaged ledger and RemoteError.
    """
    content = folder.read(RUN)
    if content is None:
        if folder.names(EVENTS):
            raise UsageError(f"{folder.place} holds events of something else and no {RUN}; give an empty place")
        folder.write(RUN, json.dumps(identity, indent=1, ensure_ascii=False).encode())
    else:
        _check_same_run(folder, content, identity)
    return Ledger(folder, _read_entries(folder))


def _check_same_run(folder: Folder, content: bytes, identity: Mapping[str, str]) -> None:
    try:
        before = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise _damage_error(folder, RUN, error) from error
    check_same_run(folder.place, before, identity, "run it as before or give another place")


def write_entry(folder: Folder, name: str, entry: Entry) -> None:
    """Mark a group as finished, once its results are there."""
    folder.write(f"{ENTRIES}/{name}.json", json.dumps(asdict(entry), ensure_ascii=False).encode())


def sweep(folder: Folder) -> None:
    """Remove events that no entry names: those of a run that was killed between the two."""
    named = {name for _, entry in _read_entries(folder) for name in entry.outputs}
    for name in folder.names(EVENTS) - named:
        folder.delete(name)


def _read_entries(folder: Folder) -> Iterable[tuple[str, Entry]]:
    names = {name for name in folder.names(ENTRIES) if name.endswith(".json") and name != RUN}
    for name, content in folder.read_all(names):
        try:
            yield name.removeprefix(f"{ENTRIES}/").removesuffix(".json"), Entry(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise _damage_error(folder, name, error) from error


def _damage_error(folder: Folder, name: str, error: Exception) -> DataError:
    return DataError(f"{folder.place}/{name} is damaged: {error}; remove it, and its recordings are classified again")


def _hash(*parts: object) -> int:
    return int.from_bytes(sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little")
