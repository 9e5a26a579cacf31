"""Publishing a folder whole: staged beside its place, flushed, renamed.

A reader sees the old one or the new one, or none where there was none, and never a part. That holds also for an export
that is killed; what it leaves beside the place is swept by the next one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from flexiast.errors import UsageError
from flexiast.files import check_sibling_output
from flexiast.manifest import MANIFEST


class Kind(NamedTuple):
    """Of a folder; only one of the same kind is replaced."""

    name: str
    marker: str
    """A file that every one has"""


BUNDLE = Kind("bundle folder", MANIFEST)
PAGE = Kind("page of flexiast", f"model/{MANIFEST}")
CONFORMANCE = Kind("conformance folder", "conformance.json")


@contextmanager
def stage_bundle(output: Path, *, force: bool, kind: Kind = BUNDLE) -> Iterator[Path]:
    """A folder to fill, published as ``output`` when the block ends and removed when it raises.

    An existing folder is replaced only with ``force`` and only if it is of this kind; raises UsageError before anything
    is built. A second export to the same place waits for the first.
    """
    output = output.parent.resolve() / output.name  # one place has one name, and one lock
    prefix = f".{output.name}.tmp-"
    with _alone(output):
        _sweep(output, prefix)
        check_place(output, force=force, kind=kind)
        with _folder(output.parent):
            stage = Path(tempfile.mkdtemp(dir=output.parent, prefix=prefix))
            try:
                yield stage
                _seal(stage)
                _publish(stage, output)
            finally:
                shutil.rmtree(stage, ignore_errors=True)  # gone already, or the old bundle, once published


def publish_files(files: Mapping[str, bytes], output: Path, *, force: bool, kind: Kind) -> None:
    """Publish a folder of these files; those in folders of their own are named ``model/manifest.json``."""
    with stage_bundle(output, force=force, kind=kind) as stage:
        for name, content in files.items():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def check_place(output: Path, *, force: bool, kind: Kind = BUNDLE) -> None:
    """Raise UsageError where nothing may be published: on what exists, unless one of its kind is to be replaced."""
    check_sibling_output(output)
    if not os.path.lexists(output):
        return
    if not force:
        raise UsageError(f"{output} exists; choose another name, or replace it with --force")
    if output.is_symlink() or not (output / kind.marker).is_file():
        what = "a link" if output.is_symlink() else f"not a {kind.name}"
        raise UsageError(f"{output} exists and is {what}, so --force does not replace it; choose another name")


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """The folder and those above it. When the block raises, those that were made for it and are empty go again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not yet made, or somebody else has put something there
                folder.rmdir()
        raise


def _seal(stage: Path) -> None:
    """Everything on disk and read-only, so that a session that maps a file never sees it change."""
    for path in (*sorted(stage.rglob("*")), stage):
        path.chmod(0o755 if path.is_dir() else 0o444)
        _flush(path)


def _publish(stage: Path, output: Path) -> None:
    """Running engines keep the files of an old bundle that they have open."""
    if output.exists():
        _exchange(stage, output)
    else:
        stage.replace(output)
    _flush(output.parent)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One export at a time to a place; the lock lies on this machine, for a shared folder may have none."""
    name = f"flexiast-{os.getuid()}-{sha256(os.fsencode(output)).hexdigest()[:32]}.lock"
    path = Path(tempfile.gettempdir()) / name
    lock = _acquire_lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still locked: who waits for it sees that it is gone and takes a new one
        os.close(lock)


def _acquire_lock(path: Path) -> int:
    """Wait for the lock file; the one that then lies there, not one that its owner has removed meanwhile."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)


RENAME_EXCHANGE = 2
"""Of Linux's renameat2: two folders change places in one step."""
AT_FDCWD = -100

RETIRED = "-old"
"""Ends the name of a bundle that is set aside between two renames."""


def _exchange(stage: Path, output: Path) -> None:
    """Swap two folders; where the system cannot in one step, there is none for the moment between two renames."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(AT_FDCWD, os.fsencode(stage), AT_FDCWD, os.fsencode(output), RENAME_EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in {errno.EINVAL, errno.ENOSYS}:
            raise OSError(number, os.strerror(number), str(output))
    retired = stage.with_name(f"{stage.name}{RETIRED}")
    output.replace(retired)
    try:
        stage.replace(output)
    except BaseException:
        retired.replace(output)
        raise
    retired.replace(stage)  # which the caller removes


def _sweep(output: Path, prefix: str) -> None:
    """Remove what exports that were killed left beside the place; put back a bundle that one had set aside."""
    for left in output.parent.iterdir() if output.parent.is_dir() else ():
        if left.name.startswith(prefix):
            if left.name.endswith(RETIRED) and not output.exists():
                left.replace(output)
            else:
                shutil.rmtree(left)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
