"""Copies of objects on the local disk: each is downloaded once, the ones longest unused go when there are too many."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from flexiast.errors import RemoteError
from flexiast.files import TEMPORARY
from flexiast.paths import cache_folder
from flexiast.storage import RemotePath, Stored, download, read_range

LIMIT_BYTES = 20 << 30
FREE_BYTES = 1 << 30
"""Of the disk that stay free, whatever the limit."""


class ObjectCache:
    """A folder of copies that any number of processes share."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """``folder`` is the user's cache unless told."""
        self._folder, self._limit_bytes = folder or cache_folder() / "objects", limit_bytes

    @contextmanager
    def open(self, stored: Stored) -> Iterator[Path]:
        """The path of a copy, which stays until the block ends; raises RemoteError.

        An object of another version is another copy.
        """
        path = self._place(stored)
        self._folder.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock"), fcntl.LOCK_SH) as lock:
            if _is_whole(path, stored):
                os.utime(path)
                yield path
                return
            fcntl.flock(lock, fcntl.LOCK_UN)
        with _lock(path.with_suffix(".lock"), fcntl.LOCK_EX) as lock:
            if not _is_whole(path, stored):  # nobody was faster
                self._download(stored, path)
            os.utime(path)
            fcntl.flock(lock, fcntl.LOCK_SH)  # others may use it too; nobody may remove it
            yield path

    @contextmanager
    def find(self, stored: Stored) -> Iterator[Path | None]:
        """The path of a copy that is there already, which stays until the block ends, or None."""
        path = self._place(stored)
        if not _is_whole(path, stored):
            yield None
            return
        with _lock(path.with_suffix(".lock"), fcntl.LOCK_SH):
            yield path if _is_whole(path, stored) else None

    def _place(self, stored: Stored) -> Path:
        key = sha256("\0".join(map(str, stored)).encode()).hexdigest()[:40]
        return self._folder / f"{key}.copy"

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
        copies = []
        for path in self._folder.glob("*.copy"):
            with suppress(FileNotFoundError):  # another process has just removed it
                copies.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        copies.sort()
        held = sum(bytes_ for _, bytes_, _ in copies)
        room = min(self._limit_bytes - held, shutil.disk_usage(self._folder).free - FREE_BYTES)
        for _, bytes_, path in copies:
            if room >= size:
                return
            lock_path = path.with_suffix(".lock")
            with suppress(BlockingIOError), lock_path.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                lock_path.unlink(missing_ok=True)
                room += bytes_


@dataclass(frozen=True)
class RemoteShard(RemotePath):
    """A large object that is read in parts, and its copy."""

    size: int
    """In bytes"""
    version: str

    def read(self, offset: int, size: int) -> bytes:
        """A part of it, from its copy where there is one, else by itself; raises RemoteError."""
        with ObjectCache().find(self._stored) as copy:
            if copy is not None:
                with copy.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
        return read_range(self.url, offset, offset + size)

    def fetch(self) -> None:
        """Copy it, unless that was done; raises RemoteError."""
        with ObjectCache().open(self._stored):
            pass

    @property
    def _stored(self) -> Stored:
        return Stored(self.url, self.size, self.version)


def _is_whole(path: Path, stored: Stored) -> bool:
    try:
        return path.stat().st_size == stored.size
    except FileNotFoundError:
        return False


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[BinaryIO]:
    """A file locked in a way of flock's. One that was removed while we waited locks nobody out."""
    while True:
        with path.open("ab") as lock:
            fcntl.flock(lock, kind)
            if os.fstat(lock.fileno()).st_nlink:
                yield lock
                return
