"""Writing files whole, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from flexiast.errors import UsageError

TEMPORARY = ".tmp-"
"""In the name of a file that is being written."""
NAME_BYTES = 240
"""Of the name that it will have, its end; file systems take 255, and some are for the rest."""


def shorten_name(name: str, ending: str, folder: Path) -> str:
    """``name + ending``, as it is where the file system has room for it.

    Of a longer one the beginning stays, then a hash of all of it, so that two of them do not meet.
    """
    room = os.pathconf(folder, "PC_NAME_MAX") - len(os.fsencode(ending))
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name + ending
    mark = "~" + sha256(encoded).hexdigest()[:12]
    # Cut between characters: half of one would be no text.
    beginning = encoded[: room - len(mark)].decode(errors="ignore")
    return beginning + mark + ending


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that lies beside the path while it is written and is renamed over it at the end, flushed to disk.

    What raises inside leaves the path as it was and nothing half-written. A link is followed; a device or pipe, which
    no rename may replace, is written to. A file that is replaced keeps its mode; a new one has what the umask leaves.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with _name_errors(path), path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    tail = os.fsdecode(os.fsencode(path.name)[-NAME_BYTES:])
    temporary = path.with_name(f".{tail}{TEMPORARY}{secrets.token_hex(4)}")
    # Made with its mode, not given it later: nobody may read in the meantime what he may not read in the end.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        with _name_errors(path), os.fdopen(handle, "wb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(handle, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """A full disk does not say which file it would be."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing, as ``atomic`` does."""
    with atomic(path) as file:
        file.write(content)


def check_output(path: Path) -> None:
    """Raise UsageError when a file could not be written here: asked before the work, not after."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    target = path.resolve()  # a link is followed
    if target.exists() and not target.is_file():  # a device or pipe is written to
        return
    _check_folder(target, path)


def check_new_output(path: Path, *, force: bool) -> None:
    """``check_output``, and raise UsageError for a file that exists and is not to be replaced."""
    check_output(path)
    if path.exists() and not force:
        raise UsageError(f"{path} exists; choose another name, or replace it with --force")


def check_sibling_output(path: Path) -> None:
    """Raise UsageError when nothing could be written beside this path, in a folder that need not be there yet."""
    _check_folder(path, path)


def _check_folder(target: Path, named: Path) -> None:
    """Write a file without a name beside ``target``: permissions alone say nothing of a file system that takes none."""
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError:
        raise UsageError(
            f"{named} cannot be written: {folder} is not a folder that you may write to; name another place"
        ) from None
