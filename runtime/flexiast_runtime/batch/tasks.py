"""Recordings → tasks. Both lie in files, of which only offsets are held: memory does not grow with names."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Generic, TypeVar, overload

from flexiast_runtime.batch.archive import Task
from flexiast_runtime.batch.ledger import Ledger, Recording
from flexiast_runtime.batch.splitting import Piece

Item = TypeVar("Item")

PIECE_S = 3600.0
"""Seconds of a long recording that one task classifies."""
PLAIN_SUFFIXES = frozenset({".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".aif", ".aiff", ".caf", ".au"})
LONG_PLAIN_BYTES, LONG_BYTES = 2 << 30, 256 << 20
"""Smaller recordings are not opened to learn their length, plain samples and compressed ones: 1½ hours at 192 kHz."""


class SpooledList(Sequence[Item], Generic[Item]):
    """A list in a temporary file; an item takes 8 bytes of memory. Pickled, it would be nothing: it stays here."""

    def __init__(self, items: Iterable[str], parse: Callable[[str], Item]) -> None:
        self._parse, self._offsets = parse, array("q", [0])
        self._file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed with the list)
        weakref.finalize(self, self._file.close)
        for item in items:
            self._offsets.append(self._offsets[-1] + self._file.write(item.encode()))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        number = range(len(self))[number]
        self._file.seek(self._offsets[number])
        return self._parse(self._file.read(self._offsets[number + 1] - self._offsets[number]).decode())


def spool_recordings(recordings: Iterable[Recording]) -> SpooledList[Recording]:
    """The recordings in the order in which they come."""
    return SpooledList(map(json.dumps, recordings), lambda text: Recording(*json.loads(text)))


def plan_tasks(
    recordings: Iterable[Recording],
    ledger: Ledger,
    batch_files: int,
    plan_pieces: Callable[[Recording], tuple[Piece, ...]],
) -> SpooledList[Task]:
    """Tasks for the recordings that have no result, in their order.

    The groups of a run that ended are those of the next one, as long as the recordings are the same. A long recording
    is a task for each of its pieces.
    """
    missing = (recording for recording in recordings if ledger.find(recording) != "done")
    tasks = _make_tasks(missing, batch_files, plan_pieces)
    return SpooledList((task.to_json() for task in tasks), Task.from_json)


def _make_tasks(
    recordings: Iterable[Recording], batch_files: int, plan_pieces: Callable[[Recording], tuple[Piece, ...]]
) -> Iterator[Task]:
    short: list[Recording] = []
    for recording in recordings:
        pieces = plan_pieces(recording) if is_long(recording) else ()
        if len(pieces) > 1:
            yield from (Task((recording,), piece, len(pieces)) for piece in pieces)
            continue
        short.append(recording)
        if len(short) == batch_files:
            yield Task(tuple(short))
            short = []
    if short:
        yield Task(tuple(short))


def is_long(recording: Recording) -> bool:
    """Whether a recording may be so long that it is worth to learn its length."""
    plain = PurePosixPath(recording.path).suffix.lower() in PLAIN_SUFFIXES
    return recording.size >= (LONG_PLAIN_BYTES if plain else LONG_BYTES)
