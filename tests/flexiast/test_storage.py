"""Object stores over the real protocol, with the faults that networks have."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flexiast.errors import ExitCode, RemoteError, UsageError
from flexiast.objects import ObjectCache
from flexiast.storage import RANGE_BYTES, Folder, RemotePath, Stored, is_url, list_objects
from tests.s3 import KEYS, Faults, serve_s3

pytestmark = pytest.mark.filterwarnings("default")  # botocore's and moto's own


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    pytest.importorskip("moto")
    with serve_s3() as (url, faults):
        yield url, faults


@pytest.fixture
def faults(server: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch) -> Faults:
    import s3fs

    for name, value in (KEYS | {"AWS_ENDPOINT_URL": server[0]}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("flexiast.storage.FIRST_WAIT_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    return server[1]


def put(name: str, content: bytes) -> None:
    Folder("s3://bucket").write(name, content)


@pytest.mark.parametrize("fault", ["denied", "unavailable"])
def test_the_test_server_answers_head_without_a_body(server: tuple[str, Faults], fault: str) -> None:
    """A client that reads header and body at once ends at such a body, so that only some runs fail."""
    setattr(server[1], fault, 1)
    address = urlsplit(server[0])
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        connection.sendall(b"HEAD /bucket/a HTTP/1.1\r\nHost: s3\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (head.split(b" ", 2)[1] in {b"403", b"503"}, body) == (True, b"")


def test_urls_are_told_from_paths() -> None:
    assert [is_url(text) for text in ("s3://b/x", "gs://b", "/a/b", "a://", "C:/x", "a b://x", "://x")] == [
        *(True, True, False, True, False, False, False)
    ]
    path = RemotePath("s3://bucket/a b/c.WAV")
    assert (str(path), path.name, path.suffix) == ("s3://bucket/a b/c.WAV", "c.WAV", ".WAV")


def test_all_objects_below_a_prefix_are_listed(faults: Faults) -> None:
    names = ["a.wav", "b/ä ö.wav", "b/c/d.flac", "z.wav", "b/.hidden.wav", ".x/y.wav"]
    for name in names:
        put(f"year/{name}", name.encode())
    found = list(list_objects("s3://bucket/year"))
    assert {each.path: each.size for each in found} == {
        f"s3://bucket/year/{name}": len(name.encode()) for name in names if "/." not in f"/{name}"
    }
    assert found == list(list_objects("s3://bucket/year/"))
    globbed = [each.path for each in list_objects("s3://bucket/year/b/*/*.flac")]
    assert globbed == ["s3://bucket/year/b/c/d.flac"]
    (alone,) = list_objects("s3://bucket/year/z.wav")
    put("year/z.wav", b"other")
    (changed,) = list_objects("s3://bucket/year/z.wav")
    assert (alone.size, alone.version) == (changed.size, alone.version)
    assert changed.version != alone.version, "the content has changed, its size has not"


def test_a_folder_is_the_same_here_and_there(faults: Faults, tmp_path: Path) -> None:
    for folder in (Folder("s3://bucket/run/"), Folder(str(tmp_path / "run"))):
        assert (folder.read("x/a"), folder.names("x")) == (None, set())
        for name in ("x/b", "x/a", "y"):
            folder.write(name, name.encode())
        folder.write("y", b"again")
        assert folder.names("x") == {"x/a", "x/b"}
        assert list(folder.read_all({"x/b", "x/a"})) == [("x/a", b"x/a"), ("x/b", b"x/b")]
        folder.delete("x/a")
        assert (folder.names("x"), folder.read("y")) == ({"x/b"}, b"again")


def test_a_download_outlives_slow_busy_and_cut_answers(faults: Faults, tmp_path: Path) -> None:
    content = os.urandom(2 * RANGE_BYTES + 12_345)
    put("long.wav", content)
    (stored,) = list_objects("s3://bucket/long.wav")
    cache = ObjectCache(tmp_path / "cache")
    faults.unavailable, faults.cut, faults.slow_s = 3, 2, 0.05
    with cache.open(stored) as path:
        assert path.read_bytes() == content
    assert (faults.unavailable, faults.cut) == (0, 0), "no fault was met"
    faults.slow_s = 0.0
    faults.requests.clear()
    with cache.open(stored) as path:
        assert path.read_bytes() == content
    assert faults.requests == [], "a copy is downloaded once"


def test_copies_that_were_not_used_for_longest_make_room(faults: Faults, tmp_path: Path) -> None:
    for name in "abcd":
        put(name, name.encode() * 1_000)
    stored = {each.path[-1]: each for each in list_objects("s3://bucket")}
    cache = ObjectCache(tmp_path, limit_bytes=3_000)
    with cache.open(stored["a"]) as in_use:
        for name in "bc":
            with cache.open(stored[name]):
                pass
        with cache.open(stored["d"]):
            held = {path.read_bytes()[:1] for path in tmp_path.glob("*.copy")}
        assert held == {b"a", b"c", b"d"}, "the oldest that nobody uses went"
        assert in_use.read_bytes() == b"a" * 1_000
    assert not [path for path in tmp_path.iterdir() if path.suffix not in {".copy", ".lock"}]


def test_many_share_a_cache_that_holds_less_than_they_need(faults: Faults, tmp_path: Path) -> None:
    for name in "abcdef":
        put(name, name.encode() * 1_000)
    stored = {each.path[-1]: each for each in list_objects("s3://bucket")}

    def read(first: int) -> None:
        for turn in range(12):
            name = "abcdef"[(first + turn) % 6]
            with ObjectCache(tmp_path, limit_bytes=2_000).open(stored[name]) as path:
                assert path.read_bytes() == name.encode() * 1_000

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_a_store_that_stays_away_is_named_and_leaves_nothing(faults: Faults, tmp_path: Path) -> None:
    put("x.wav", b"sound")
    (stored,) = list_objects("s3://bucket/x.wav")
    faults.cut = 1_000
    with (
        pytest.raises(RemoteError, match=r"s3://bucket/x\.wav cannot be reached") as caught,
        ObjectCache(tmp_path).open(stored),
    ):
        pass
    faults.cut = 0
    assert caught.value.exit_code == ExitCode.REMOTE
    assert not list(tmp_path.glob("*.copy")) + list(tmp_path.glob("*.tmp*"))
    gone = Stored("s3://bucket/gone.wav", 5, "1")
    with pytest.raises(RemoteError, match=r"gone\.wav does not exist"), ObjectCache(tmp_path).open(gone):
        pass


def test_what_no_other_try_would_mend_is_said_at_once(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with pytest.raises(RemoteError, match=r"s3://nowhere/x does not exist"):
        list(list_objects("s3://nowhere/x"))
    faults.denied = 1_000
    with pytest.raises(RemoteError, match=r"s3://bucket is refused to these credentials.*AWS_ACCESS_KEY_ID"):
        list(list_objects("s3://bucket"))
    faults.denied = 0
    with pytest.raises(UsageError, match="protocol that is not known"):
        list(list_objects("ftpx://bucket"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=r"cannot be reached: .*AWS_ENDPOINT_URL"):
        list(list_objects("s3://bucket"))
