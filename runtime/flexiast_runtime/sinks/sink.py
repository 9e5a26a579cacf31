"""What a sink is."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from flexiast.errors import SinkDownError, SinkError
from flexiast.log import Log, log_nothing
from flexiast_runtime.detection.records import Record
from flexiast_runtime.sinks.audio_history import Audio

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENFILE, errno.EMFILE}
"""Errors of a file system that pass without the user: a full disk, a share that is away"""


def file_error(error: OSError, text: str) -> SinkError:
    """The error of a sink that cannot use its file or folder: down for now, or for good until the user acts."""
    return (SinkDownError if error.errno in PASSING else SinkError)(text)


@dataclass(frozen=True)
class Counts:
    """Records of one sink so far."""

    name: str
    waiting: int = 0
    delivered: int = 0
    retried: int = 0
    """Tries after a first one"""
    dropped: int = 0
    """The oldest that waited, given up because the queue was full"""
    refused: int = 0
    """Given up because the sink will never take them, or did not in several tries while it took others"""
    last_error: str | None = None

    @property
    def lost(self) -> int:
        """Not delivered, once the sink is closed."""
        return self.waiting + self.dropped + self.refused

    @property
    def given(self) -> int:
        return self.delivered + self.lost


class Model(NamedTuple):
    """What a bundle is called, and what it knows."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class RunContext:
    """What a sink needs to know about a run before its first record."""

    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    histories: Mapping[str, Audio] = field(default_factory=dict)
    """The audio of each source, by its name"""
    counts: Callable[[], Sequence[Counts]] = tuple
    """Counts of all sinks of the run"""
    patch_sizes: tuple[str, ...] = ()
    """Those that may run"""
    models: Mapping[str, Model] = field(default_factory=dict)
    """By the hash of their bundle: those whose engines give the events. One that is loaded later is added."""
    clip_folders: tuple[Path, ...] = ()
    """Folders into which sinks of the run cut clips"""
    find_reviewed: Callable[[Sequence[str]], AbstractSet[str]] | None = None
    """Those of some events that have a verdict; may raise DataError. None where no sink stores events"""
    log: Log = log_nothing
    """Logs a line"""


class Sink(Protocol):
    """Takes records, one at a time; an `Outbox` calls it.

    `name` identifies the sink in logs and holds nothing secret.
    """

    @property
    def name(self) -> str: ...

    def open(self, context: RunContext, /) -> None:
        """Get ready; raises FlexiastError where the user must act. What may come back by itself is not waited for.

        After SinkDownError it is called again, in another thread, until it succeeds.
        """
        ...

    def wants(self, record: Record) -> bool:
        """Whether to deliver the record. Called once for each record, in the thread of the stream: must not wait."""
        ...

    def deliver(self, record: Any, /) -> None:
        """Hand over a record that it wants; when this returns, it is acknowledged.

        Raises SinkUnavailableError for a record that is worth another try: others may come before it is there again.
        SinkDownError means that no record can be delivered: the same one comes again, and the order is kept. SinkError
        is for a record that will never be taken.
        """
        ...

    def close(self) -> None: ...
