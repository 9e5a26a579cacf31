"""Writing files whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from flexiast.errors import UsageError

TEMPORARY = ".tmp-"
"""In the name of a file that is being written."""
RANDOM_BYTES = 8
"""That ``mkstemp`` puts behind a prefix"""


def shorten_name(name: str, ending: str, folder: Path) -> str:
    """``name + ending``, as it is where the file system has room for it and for the name that ``atomic`` makes of it.

    Of a longer one the beginning stays, then a hash of all of it, so that two of them do not meet.
    """
    room = os.pathconf(folder, "PC_NAME_MAX") - len(f".{TEMPORARY}") - RANDOM_BYTES - len(os.fsencode(ending))
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
    no rename may replace, is written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say which file it would be
            error.filename = str(path)
        raise


def _temporary_prefix(path: Path) -> str:
    """The name of the path in front, where there is room for it."""
    prefix = f".{path.name}{TEMPORARY}"
    fits = len(os.fsencode(prefix)) + RANDOM_BYTES <= os.pathconf(path.parent, "PC_NAME_MAX")
    return prefix if fits else f".{sha256(os.fsencode(path.name)).hexdigest()[:12]}{TEMPORARY}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing, as ``atomic`` does."""
    with atomic(path) as file:
        file.write(content)


def check_output(path: Path) -> None:
    """Raise UsageError when a file could not be written here: asked before the work, not after."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    check_beside(path.resolve())


def check_beside(path: Path) -> None:
    """Raise UsageError when nothing could be written beside this path, in a folder that need not be there yet."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: {folder} is not a folder that you may write to")
