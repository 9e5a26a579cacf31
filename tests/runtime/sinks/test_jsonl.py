"""A file of JSON lines: whole lines whatever happens, rotated by size."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import SinkError, SinkUnavailableError
from flexiast_runtime.sinks.jsonl import JsonlFile
from flexiast_runtime.sinks.sink import RunContext
from tests.runtime.sinks.conftest import event, status


@contextmanager
def opened(path: Path, **options: int) -> Iterator[JsonlFile]:
    sink = JsonlFile(path, **options)
    sink.open(RunContext())
    yield sink
    sink.close()


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes; a write up to there is a short one, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_are_appended_and_a_status_is_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    for number in range(2):
        with opened(path) as sink:
            assert sink.wants(event()) and not sink.wants(status())
            sink.deliver(event(number, "Hundegebell – laut"))
            assert ids(path)[-1] == event(number, "Hundegebell – laut").id  # no buffer holds it back
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        event(number, "Hundegebell – laut").document() for number in range(2)
    ]


@pytest.mark.parametrize("cut", [1, 20])
@pytest.mark.parametrize("label", ["dog", "d" * 200_000])  # longer than what is read at once
def test_half_a_line_of_a_crash_is_cut_off(tmp_path: Path, cut: int, label: str) -> None:
    path = tmp_path / "events.jsonl"
    with opened(path) as sink:
        sink.deliver(event(0))
        sink.deliver(event(1, label))
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(path) as sink:
        sink.deliver(event(2))
    assert ids(path) == [event(0).id, event(2).id]


@pytest.mark.parametrize("content", [b"\x00" * 3000, b"line one\nprecious last line", b"{1: 2}", b'["a"]'])
def test_a_file_that_is_none_of_ours_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "notes").write_bytes(content)
    with pytest.raises(SinkError, match="name another file"):
        JsonlFile(path).open(RunContext())
    assert path.read_bytes() == content


def test_what_ends_in_a_line_is_gone_on_with(tmp_path: Path) -> None:
    (path := tmp_path / "notes").write_bytes(b"somebody else's line\n")
    with opened(path) as sink:
        sink.deliver(event())
    assert path.read_bytes().startswith(b"somebody else's line\n{")


def test_a_full_disk_leaves_whole_lines_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with opened(path) as sink:
        sink.deliver(event(0))
        before = path.read_bytes()
        with full_disk(len(before) + 10), pytest.raises(SinkUnavailableError, match=r"events\.jsonl cannot be written"):
            sink.deliver(event(1))
        assert path.read_bytes() == before
        sink.deliver(event(1))
    assert ids(path) == [event(0).id, event(1).id]


def test_a_rotation_that_breaks_off_is_made_up_for(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    (tmp_path / "events.jsonl.1").mkdir()  # in the way of the rename
    with opened(path, rotate_bytes=10, keep=1) as sink:
        sink.deliver(event(0))
        with pytest.raises(SinkUnavailableError):
            sink.deliver(event(1))
        (tmp_path / "events.jsonl.1").rmdir()
        sink.deliver(event(1))
    assert ids(path) == [event(1).id]
    assert ids(tmp_path / "events.jsonl.1") == [event(0).id]


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30), rotate=st.integers(1, 2000), keep=st.integers(1, 4)
)
def test_rotation_keeps_the_newest_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rotate: int, keep: int
) -> None:
    path = tmp_path_factory.mktemp("rotated") / "events.jsonl"
    events = [event(number, "x" * size) for number, size in enumerate(sizes)]
    with opened(path, rotate_bytes=rotate, keep=keep) as sink:
        for one in events:
            sink.deliver(one)
    files = [path.with_name(f"events.jsonl.{number}") for number in range(len(sizes), 0, -1)] + [path]
    files = [file for file in files if file.exists()]
    assert len(files) <= keep + 1
    kept = [id_ for file in files for id_ in ids(file)]
    assert kept == [one.id for one in events][-len(kept) :]
    if len(files) <= keep:
        assert len(kept) == len(events)
    for file in files:
        assert file.stat().st_size <= rotate or len(ids(file)) == 1


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"cannot be written.*name another"):
        JsonlFile(tmp_path / "file" / "events.jsonl").open(RunContext())
    with pytest.raises(SinkError, match="Is a directory"):
        JsonlFile(tmp_path).open(RunContext())
