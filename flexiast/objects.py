"""Copies of objects on the local disk: each is downloaded once, the ones longest unused go when there are too many."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from flexiast.errors import RemoteError
from flexiast.files import TEMPORARY
from flexiast.storage import Stored, download

LIMIT_BYTES = 20 << 30
FREE_SHARE = 0.1
"""Of the disk that stays free, whatever the limit."""


class ObjectCache:
    """A folder of copies that any number of processes share."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    @contextmanager
    def open(self, stored: Stored) -> Iterator[Path]:
        """The path of a copy, which stays until the block ends; raises RemoteError.

        An object of another version is another copy.
        """
        key = sha256("\0".join(map(str, stored)).encode()).hexdigest()[:40]
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{key}.copy"
        with _lock(path.with_suffix(".lock")) as lock:
            if not path.exists() or path.stat().st_size != stored.size:
                self._download(stored, path)
            os.utime(path)
            fcntl.flock(lock, fcntl.LOCK_SH)  # others may use it too; nobody may remove it
            yield path

    def _download(self, stored: Stored, path: Path) -> None:
        self._make_room(stored.size)
        temporary = path.with_suffix(TEMPORARY + str(os.getpid()))
        try:
            download(stored.path, stored.size, temporary)
            temporary.replace(path)
        except OSError as error:
            raise RemoteError(
                f"{stored.path} cannot be copied to {self._folder}: {error.strerror}; make room there, or set "
                "XDG_CACHE_HOME to a larger disk"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the copies that were not used for longest, until another fits; those in use stay."""
        copies = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*.copy"))
        held = sum(bytes_ for _, bytes_, _ in copies)
        disk = shutil.disk_usage(self._folder)
        room = min(self._limit_bytes - held, disk.free - int(FREE_SHARE * disk.total))
        for _, bytes_, path in copies:
            if room >= size:
                return
            lock_path = path.with_suffix(".lock")
            with suppress(BlockingIOError), lock_path.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                lock_path.unlink(missing_ok=True)
                room += bytes_


@contextmanager
def _lock(path: Path) -> Iterator[BinaryIO]:
    """A file locked by us alone. One that was removed while we waited locks nobody out."""
    while True:
        with path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:
                yield lock
                return
