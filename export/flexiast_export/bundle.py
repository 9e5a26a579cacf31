"""Publishing a folder whole: staged beside its place, flushed, renamed.

A reader sees the old one, the new one or none, never a part.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.manifest import MANIFEST, FileEntry


@contextmanager
def staged(output: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, published as ``output`` when the block ends and removed when it raises.

    An existing folder is replaced only with ``force`` and only if it is a bundle; raises UsageError before anything is
    built.
    """
    output = output.absolute()
    if output.exists() or output.is_symlink():
        if not force:
            raise UsageError(f"{output} exists; choose another name, or replace it with --force")
        if output.is_symlink() or not (output / MANIFEST).is_file():
            raise UsageError(
                f"{output} exists and is not a bundle folder, so --force does not replace it; choose another name"
            )
    output.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.tmp-"))
    try:
        yield stage
        _seal(stage)
        _publish(stage, output)
    finally:
        shutil.rmtree(stage, ignore_errors=True)  # gone already once published


def add_file(stage: Path, name: str, content: bytes) -> FileEntry:
    """Write one file into the stage and describe it for the manifest."""
    (stage / name).write_bytes(content)
    return FileEntry(name=name, size=len(content), sha256=sha256(content).hexdigest())


def _seal(stage: Path) -> None:
    """Everything on disk and read-only, so that a session that maps a file never sees it change."""
    for path in sorted(stage.iterdir()):
        path.chmod(0o444)
        _flush(path)
    stage.chmod(0o755)
    _flush(stage)


def _publish(stage: Path, output: Path) -> None:
    retired = stage.with_name(f"{stage.name}-old")
    try:
        if output.exists():
            output.replace(retired)  # running engines keep the files they have open
        stage.replace(output)
    except BaseException:
        if retired.exists():
            retired.replace(output)
        raise
    shutil.rmtree(retired, ignore_errors=True)
    _flush(output.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
