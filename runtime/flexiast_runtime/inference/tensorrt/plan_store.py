"""The cache of TensorRT plans, keyed by the hash of everything a plan depends on.

A plan is executable code for one GPU, one driver and one exact TensorRT, so it is built where it runs and stored
outside the bundle, in a folder that nobody else may write to:

    <64 hex>.plan    the plan; the name is the sha256 of its key
    <64 hex>.json    key, size and sha256 of the plan; written last, so a plan without one is incomplete
    <64 hex>.timing  the builder's timing cache, which shortens the next build for the same GPU
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from flexiast.errors import UsageError, VerificationError
from flexiast.files import write_atomically
from flexiast.manifest import Precision, Sha256
from flexiast.paths import cache_folder
from flexiast.spec import Value, describe

SCHEMA_VERSION = "1.0"
Flavour = Literal["tensorrt", "tensorrt-rtx"]
UtcTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]

MAX_PLAN_BYTES = 8_000_000_000
MAX_ENTRY_BYTES = 1_000_000

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class PlanKey(Value):
    """Everything that a plan depends on; two plans with one key are interchangeable."""

    onnx_sha256: Sha256
    precision: Precision
    """Of the graph; TensorRT never converts it."""
    profiles: tuple[str, ...]
    """One fixed input shape for each optimization profile, such as ``tokens=1x209x128``."""
    flavour: Flavour
    version: str
    """Exact: TensorRT rejects plans of another version, or worse, runs them."""
    target: str
    """``current`` for the GPU of this machine; ``sm86`` and the like for a plan built without one."""
    compute_capability: str
    """Such as ``8.7``; empty, like the two that follow, where the plan was built without a GPU."""
    gpu: str
    driver: str
    memory_limit_mb: int | None = Field(default=None, ge=1)
    """Limit of the builder's scratch memory, if any: it affects which kernels are chosen."""

    @property
    def digest(self) -> str:
        """All 256 bits, over canonical JSON."""
        return _sha256_of(self.model_dump(mode="json"))

    @property
    def slot(self) -> tuple[object, ...]:
        """What the plan computes; the other fields are where and by what it was built."""
        return self.onnx_sha256, self.precision, self.profiles

    @property
    def place(self) -> tuple[object, ...]:
        """Where and by what it was built."""
        return self.flavour, self.version, self.target, self.compute_capability, self.gpu, self.driver

    @property
    def timing_digest(self) -> str:
        """Timings apply to every graph on the same GPU."""
        return _sha256_of(self.place)

    def differences(self, other: PlanKey) -> str:
        """Each field that differs, with the other's value and then this one's: ``version 10.3.0, here 10.16.2``."""
        mine, others = self.model_dump(mode="json"), other.model_dump(mode="json")
        return "; ".join(
            f"{name} {others[name] or 'none'}, here {mine[name] or 'none'}"
            for name in mine
            if mine[name] != others[name]
        )


class PlanEntry(Value):
    """Describes a plan; stored next to it."""

    schema_version: Literal["1.0"] = "1.0"
    name: str = Field(max_length=200)
    """For people: the graph's file name"""
    key: PlanKey
    size: int = Field(ge=1, le=MAX_PLAN_BYTES)
    sha256: Sha256
    built: UtcTime
    build_s: float = Field(ge=0)

    @property
    def age_days(self) -> float:
        built = datetime.strptime(self.built, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return (datetime.now(timezone.utc) - built).total_seconds() / 86_400


@dataclass(frozen=True)
class PlanStore:
    """A folder of plans. Its files are trusted only if nobody else could have written them."""

    folder: Path

    @classmethod
    def default(cls) -> PlanStore:
        """``$FLEXIAST_CACHE/plans``, else ``flexiast/plans`` in the user's cache folder.

        Raises UsageError if a file is in its place.
        """
        chosen = os.environ.get("FLEXIAST_CACHE")
        folder = (Path(chosen) if chosen else cache_folder()) / "plans"
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise UsageError(
                f"{existing} is not a folder, so no plans can be stored in {folder}; set FLEXIAST_CACHE to a folder"
            )
        return cls(folder)

    def plan_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.plan"

    def entry_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the folder. One build at a time: two would need twice the memory and overwrite each other.

        The lock file is not removed: another process may be waiting for it.
        """
        self._make_folder()
        descriptor = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def find(self, key: PlanKey) -> PlanEntry | None:
        """The entry of exactly this key; raises VerificationError for a damaged one."""
        return self.entry(key.digest) if self.entry_path(key.digest).exists() else None

    def entry(self, digest: str) -> PlanEntry:
        """The entry whose key has this hash; raises VerificationError if its key has another."""
        path = self.entry_path(digest)
        try:
            entry = PlanEntry.model_validate_json(self._content(path, MAX_ENTRY_BYTES))
        except ValidationError as error:
            raise VerificationError(f"{path} is not the entry of a plan: {describe(error)}; {REMEDY}") from error
        if entry.key.digest != digest:
            raise VerificationError(
                f"{path} holds another key, {entry.key.digest[:16]}…: its name or its content was changed; {REMEDY}"
            )
        return entry

    def load(self, key: PlanKey) -> bytes:
        """The plan of exactly this key, checked; raises VerificationError for one that may not be run."""
        entry = self.entry(key.digest)
        path = self.plan_path(key.digest)
        plan = self._content(path, entry.size)
        found = hashlib.sha256(plan).hexdigest()
        if found != entry.sha256:
            raise VerificationError(
                f"{path} differs from the plan that was built: sha256 {found[:16]}…, expected {entry.sha256[:16]}…; "
                + REMEDY
            )
        return plan

    def save(self, name: str, key: PlanKey, plan: bytes, build_s: float) -> PlanEntry:
        """Keep a plan, readable by this user alone; the entry, which makes it count, comes last."""
        self._make_folder()
        _check_no_folder(self.entry_path(key.digest))
        entry = PlanEntry(
            name=name,
            key=key,
            size=len(plan),
            sha256=hashlib.sha256(plan).hexdigest(),
            built=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            build_s=round(build_s, 3),
        )
        self.entry_path(key.digest).unlink(missing_ok=True)  # the old entry must not describe the new plan
        self._write(self.plan_path(key.digest), plan)
        self._write(self.entry_path(key.digest), entry.model_dump_json(indent=1).encode())
        return entry

    def read_timing_cache(self, key: PlanKey) -> bytes:
        """The timing cache of earlier builds, or nothing. It only makes a build faster."""
        path = self.folder / f"{key.timing_digest}.timing"
        try:
            return self._content(path, MAX_PLAN_BYTES) if path.exists() else b""
        except VerificationError:
            return b""

    def save_timing(self, key: PlanKey, timing: bytes) -> None:
        self._make_folder()
        self._write(self.folder / f"{key.timing_digest}.timing", timing)

    def digests(self) -> tuple[str, ...]:
        """Hashes of all entries, damaged ones too, oldest first."""
        paths = [path for path in self._files() if path.suffix == ".json"]
        return tuple(path.stem for path in sorted(paths, key=lambda path: (path.lstat().st_mtime, path.stem)))

    def entries(self) -> list[PlanEntry]:
        """All entries that can be read; `verify` names the others."""
        return [entry for digest in self.digests() if (entry := self._entry_or_none(digest))]

    def others(self, key: PlanKey) -> list[PlanEntry]:
        """Plans of the same graph, precision and profiles for other machines or versions."""
        return [entry for entry in self.entries() if entry.key.slot == key.slot and entry.key != key]

    def leftovers(self, gone: Collection[str] = ()) -> list[Path]:
        """Files that no entry needs, not counting entries in ``gone``: partial files, incomplete plans, timings."""
        plans = {f"{digest}.plan" for digest in self.digests()}
        timings = {f"{entry.key.timing_digest}.timing" for entry in self.entries() if entry.key.digest not in gone}
        return [
            path
            for path in self._files()
            if ".tmp-" in path.name or (path.suffix in {".plan", ".timing"} and path.name not in plans | timings)
        ]

    def size(self, digest: str) -> int:
        """Bytes on disk."""
        paths = (self.entry_path(digest), self.plan_path(digest))
        return sum(path.lstat().st_size for path in paths if os.path.lexists(path))

    def remove(self, digest: str) -> None:
        self.entry_path(digest).unlink(missing_ok=True)
        self.plan_path(digest).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """All but subfolders, which the store never creates."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return [path for path in paths if path.is_symlink() or not path.is_dir()]

    def _entry_or_none(self, digest: str) -> PlanEntry | None:
        try:
            return self.entry(digest)
        except VerificationError:
            return None

    def _make_folder(self) -> None:
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(self.folder, self.folder.stat())

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        _check_no_folder(path)
        write_atomically(path, content)
        path.chmod(0o600)

    def _content(self, path: Path, limit: int) -> bytes:
        """A file's bytes, if only this user could have written them. Checked on the open file, not on its name."""
        _check_no_folder(path)
        try:
            _check_owner(self.folder, self.folder.stat())
            # Not blocking: a pipe in place of a file may have no writer.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                _check_owner(path, status)
                if status.st_size > limit:
                    raise VerificationError(
                        f"{path} has {status.st_size:,} bytes, at most {limit:,} are allowed; {REMEDY}"
                    )
                return file.read()
        except OSError as error:
            raise VerificationError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from error


REMEDY = "build it again with `flexiast engines build --rebuild`"


def _check_no_folder(path: Path) -> None:
    """Raise VerificationError for a folder, which no build writes and none may remove."""
    if path.is_dir() and not path.is_symlink():
        raise VerificationError(f"{path} is a folder where a file is expected; move it away")


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Raise VerificationError if another user could have written code here."""
    if status.st_uid != os.geteuid():
        raise VerificationError(
            f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}): a plan is code and is not loaded "
            "from there; set FLEXIAST_CACHE to a folder of your own"
        )
    if status.st_mode & OTHERS_WRITE:
        raise VerificationError(
            f"{path} may be written by others (mode {stat.S_IMODE(status.st_mode):04o}): a plan is code and is not "
            f"loaded from there; remove that permission with: chmod go-w {path}"
        )


def _sha256_of(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
