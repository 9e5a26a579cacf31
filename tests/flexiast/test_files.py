"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flexiast.errors import UsageError
from flexiast.files import atomic, check_output, check_sibling_output, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text, not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(target, b"new")
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    write_atomically(path, b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"

    def interrupted() -> None:
        with atomic(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_atomically(path, b"a much longer old content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_what_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "new", b"")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "plain")]
    assert modes == [0o666 & ~umask] * 2


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode_also_while_it_is_written(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(mode)
    with atomic(path) as file:
        file.write(b"new")
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {mode}
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, b"new")


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 121 + ".flexiast.csv")  # 255 bytes
    with atomic(path) as file:
        assert [".flexiast.csv" in each.name for each in tmp_path.iterdir()] == [True]
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="the file system that takes no files is Linux's")
@pytest.mark.parametrize("check", [check_output, check_sibling_output])
def test_a_place_that_takes_no_file_is_refused_by_the_name_it_was_given(check: Callable[[Path], None]) -> None:
    with pytest.raises(UsageError, match=r"^/proc/new/y\.npy cannot be written: /proc is not a folder that you may"):
        check(Path("/proc/new/y.npy"))


def test_asking_leaves_nothing_and_takes_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "absent" / "to.csv")
    for path in (tmp_path / "a" / "b.csv", tmp_path / "link.csv", Path("/dev/null")):
        check_output(path)
    assert [path.name for path in tmp_path.iterdir()] == ["link.csv"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a folder"):
        check_output(tmp_path / "file" / "b.csv")


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"

    def written(most: int) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            write_atomically(path, bytes(1_000_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)

    with pytest.raises(OSError, match=r"last\.safetensors"):
        written(10_000)
    assert not list(tmp_path.iterdir())
