"""Writing files whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from flexiast.errors import UsageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the path, flush to disk, rename over it; nothing half-written stays.

    A link is followed; a device or pipe, which no rename may replace, is written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
