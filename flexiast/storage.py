"""Object stores, through fsspec: ``s3://bucket/…``, ``gs://…`` and whatever else it has a file system for.

A recording or a shard is read through a copy on the local disk, so that decoders have a real file and a connection
that is cut costs one range, not the file. What is written appears whole or not at all: a store puts an object whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar

from flexiast.errors import RemoteError, UsageError
from flexiast.extras import require
from flexiast.files import write_atomically

T = TypeVar("T")

TRIES = 6
"""Of one request; the waits between them sum to half a minute, in which a store that throttles has recovered."""
FIRST_WAIT_S = 1.0
RANGE_BYTES = 8 << 20
"""Read at once: a cut connection costs no more, and memory holds no more."""
HEADER_BYTES = 64 << 10
"""Read ahead in a file of which only the header is wanted."""
OBJECTS_AT_ONCE = 500
"""Small objects that are read together."""
S3_OPTIONS = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}}
"""botocore waits 60 s for a connection and tries five times, so that a wrong address would take minutes to be known."""


class Stored(NamedTuple):
    """One file or object."""

    path: str
    """A local path or a URL"""
    size: int
    """In bytes"""
    version: str
    """Changes when the content does: a store's ETag, else the time of change"""


@dataclass(frozen=True)
class RemotePath:
    """The URL of an object, for where a local file has a ``Path``."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.url).suffix

    def absolute(self) -> RemotePath:
        return self


def is_url(text: str) -> bool:
    """Whether it names a place in an object store rather than a local path."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme.isalnum()


def parse_place(text: str) -> Path | RemotePath:
    """A local path, or the URL of a place in an object store."""
    return RemotePath(text.rstrip("/")) if is_url(text) else Path(text)


def list_objects(url: str) -> Iterator[Stored]:
    """Objects below a URL or matching a glob, folder by folder and sorted in each; hidden ones are left out.

    No more than one folder's names are held at once. Raises RemoteError when there is nothing of that name.
    """
    files, root = _file_system(url)
    if any(character in url for character in "*?["):
        matches = _request(url, partial(files.glob, root, detail=True))
        yield from (_to_stored(files, name, info) for name, info in sorted(matches.items()) if info["type"] == "file")
        return
    info = _request(url, partial(files.info, root))
    if info["type"] == "file":
        yield _to_stored(files, root, info)
        return
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        listed = _request(url, partial(files.ls, folder, detail=True))
        entries = {entry["name"].rstrip("/"): entry for entry in listed}
        visible = sorted(name for name in entries if not PurePosixPath(name).name.startswith(".") and name != folder)
        yield from (_to_stored(files, name, entries[name]) for name in visible if entries[name]["type"] == "file")
        waiting += [name for name in reversed(visible) if entries[name]["type"] == "directory"]


def download(url: str, size: int, target: Path) -> None:
    """Copy an object of a known size to a local file, range by range; raises RemoteError.

    Each range is tried again when the store is slow, throttles or cuts the connection.
    """
    files, path = _file_system(url)
    with target.open("wb") as file:
        for begin in range(0, size, RANGE_BYTES):
            end = min(size, begin + RANGE_BYTES)
            file.write(_read_range(files, path, url, begin, end))


def read_range(url: str, begin: int, end: int) -> bytes:
    """The bytes from ``begin`` up to ``end`` of an object; raises RemoteError."""
    return _read_range(*_file_system(url), url, begin, end)


def open_object(url: str) -> BinaryIO:
    """An object to read a few parts of, such as its header, without a copy; raises RemoteError."""
    files, path = _file_system(url)
    file: BinaryIO = _request(url, partial(files.open, path, "rb", block_size=HEADER_BYTES))
    return file


def _read_range(files: Any, path: str, url: str, begin: int, end: int) -> bytes:
    def read() -> bytes:
        content: bytes = files.cat_file(path, start=begin, end=end)
        if len(content) != end - begin:
            raise ConnectionError(f"{len(content):,} of {end - begin:,} bytes came")
        return content

    return _request(url, read)


class Folder:
    """A place for results: a local folder, or a prefix of an object store."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") if is_url(place) else place
        self._remote = _file_system(self.place) if is_url(place) else None

    def read(self, name: str) -> bytes | None:
        """The content; None where nothing has that name."""
        if self._remote is None:
            path = Path(self.place, name)
            return path.read_bytes() if path.is_file() else None
        files, root = self._remote

        def read() -> bytes | None:
            try:
                content: bytes = files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return content

        return _request(self._url(name), read)

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Many small files, in the order of their names."""
        ordered = sorted(names)
        for begin in range(0, len(ordered), OBJECTS_AT_ONCE):
            some = ordered[begin : begin + OBJECTS_AT_ONCE]
            if self._remote is None:
                yield from ((name, Path(self.place, name).read_bytes()) for name in some)
                continue
            files, root = self._remote
            paths = [f"{root}/{name}" for name in some]
            contents = _request(self.place, partial(files.cat, paths))
            yield from ((name, contents[path]) for name, path in zip(some, paths, strict=True))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or nothing; replaces one of that name."""
        if self._remote is None:
            write_atomically(Path(self.place, name), content)
            return
        files, root = self._remote
        _request(self._url(name), lambda: files.pipe_file(f"{root}/{name}", content))

    def names(self, folder: str) -> set[str]:
        """Files right inside a folder of it, with the folder's name before theirs; none where it is not there."""
        if self._remote is None:
            path = Path(self.place, folder)
            return {f"{folder}/{each.name}" for each in path.iterdir()} if path.is_dir() else set()
        files, root = self._remote

        def list_names() -> set[str]:
            try:
                found = files.ls(f"{root}/{folder}", detail=False, refresh=True)
            except FileNotFoundError:
                return set()
            return {f"{folder}/{PurePosixPath(name).name}" for name in found}

        return _request(self._url(folder), list_names)

    def delete(self, name: str) -> None:
        if self._remote is None:
            Path(self.place, name).unlink(missing_ok=True)
            return
        files, root = self._remote
        _request(self._url(name), lambda: files.rm_file(f"{root}/{name}"))

    def _url(self, name: str) -> str:
        return f"{self.place}/{name}"


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path that it calls it by."""
    fsspec = require("fsspec", "cluster")
    scheme = url.partition("://")[0]
    options = S3_OPTIONS if scheme in {"s3", "s3a"} else {}
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError as error:  # fsspec knows the store, its package is not here
        raise UsageError(f"{url} cannot be opened: {error}") from error
    except ValueError as error:
        raise UsageError(
            f"{url} has a protocol that is not known; give one of fsspec's, such as s3:// or gs://"
        ) from error
    return files, files._strip_protocol(url)


def _to_stored(files: Any, name: str, info: dict[str, Any]) -> Stored:
    version = str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or "").strip('"')
    return Stored(files.unstrip_protocol(name), int(info["size"]), version)


def _request(url: str, request: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """The answer of a request, which is tried again where that may help; raises RemoteError in words."""
    for attempt in range(TRIES):
        try:
            return request()
        except Exception as error:
            reason = _describe(error)
            if reason is not None:
                raise RemoteError(f"{url} {reason}") from error
            if attempt == TRIES - 1:
                raise RemoteError(
                    f"{url} cannot be reached: {error} ({TRIES} tries); look at the network and at the store, then "
                    "run the same command again"
                ) from error
            sleep(FIRST_WAIT_S * 2**attempt / 2)
    raise AssertionError("every try returns or raises")


def _describe(error: Exception) -> str | None:
    """What is wrong with a request that no other try would mend, and what to do; None where another may."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, FileNotFoundError):
        return "does not exist; look for the bucket and the name with the store's own tool, such as `aws s3 ls`"
    if kind in {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}:
        return "needs credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"
    if isinstance(error, PermissionError) or "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text:
        return (
            f"is refused to these credentials ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account "
            "that may use it"
        )
    if "EndpointConnectionError" in kind or "Could not connect to the endpoint" in text:
        return f"cannot be reached: {text}; look at AWS_ENDPOINT_URL and at the network"
    if "InvalidBucketName" in text or kind == "ParamValidationError":
        return f"is no valid name: {text}"
    return None
