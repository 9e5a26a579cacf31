"""A folder of results that knows what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from flexiast.errors import DataError, UsageError
from flexiast_runtime.batch.formats import Format, Result
from flexiast_runtime.batch.outputs import JOURNAL, open_outputs

MADE_BY = {"model": "abc", "threshold": "0.5"}


@pytest.fixture
def recordings(tmp_path: Path) -> dict[Path, Path]:
    names = [Path("a.wav"), Path("a.flac"), Path("site/a.wav"), Path(os.fsdecode(b"\xff\n.wav"))]
    for name in names:
        path = tmp_path / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")
    return {tmp_path / "recordings" / name: name for name in names}


def make(folder: Path, recordings: Mapping[Path, Path], made_by: Mapping[str, str] = MADE_BY) -> list[Path]:
    """What a run makes of what is missing."""
    with open_outputs(folder, Format.CSV, made_by) as outputs:
        missing = outputs.list_missing(recordings)
        for path, made in missing.items():
            outputs.write(made, Result(path, str(path)), "sounds")
    return list(missing)


def results(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*.flexiast.csv")}


def test_results_stand_as_the_recordings_do_and_none_meets_another(
    tmp_path: Path, recordings: dict[Path, Path]
) -> None:
    assert make(tmp_path / "out", recordings) == list(recordings)
    assert results(tmp_path / "out") == {Path(f"{name}.flexiast.csv") for name in recordings.values()}


def test_only_what_is_missing_or_has_changed_is_made(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    out, (first, second, third, _) = tmp_path / "out", recordings
    make(out, recordings)
    assert make(out, recordings) == []
    first.write_bytes(b"more sound")
    (out / f"{recordings[second]}.flexiast.csv").unlink()
    os.utime(third, ns=(0, 0))
    assert make(out, recordings) == [first, second, third]
    assert make(out, recordings) == []


def test_recordings_that_have_moved_are_the_same(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    make(tmp_path / "out", recordings)
    (tmp_path / "recordings").rename(tmp_path / "moved")
    assert make(tmp_path / "out", {tmp_path / "moved" / name: name for name in recordings.values()}) == []


def test_results_of_two_kinds_never_lie_together(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    make(tmp_path / "out", recordings)
    with pytest.raises(UsageError, match=r"made with threshold 0\.5 instead of 0\.6"):
        make(tmp_path / "out", recordings, MADE_BY | {"threshold": "0.6"})
    with pytest.raises(UsageError, match="made with floor 3 instead of no floor"):
        make(tmp_path / "other", recordings, MADE_BY | {"floor": "3"})
        make(tmp_path / "other", recordings)
    other = tmp_path / "other recordings/a.wav"
    other.parent.mkdir()
    other.write_bytes(b"another sound")
    with pytest.raises(UsageError, match=r"was made of .*recordings/a\.wav, not of .*other recordings"):
        make(tmp_path / "out", {other: Path("a.wav")})
    with pytest.raises(UsageError, match="would both become"):
        make(tmp_path / "third", {other: Path("a.wav"), next(iter(recordings)): Path("a.wav")})


def test_half_a_line_is_a_result_to_make_again(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    """Wherever a kill cuts the journal off."""
    out = tmp_path / "out"
    make(out, recordings)
    whole = (out / JOURNAL).read_bytes()
    for size in range(0, len(whole), 37):
        (out / JOURNAL).write_bytes(whole[:size])
        finished = max(0, whole[:size].count(b"\n") - 1)
        assert make(out, recordings) == list(recordings)[finished:]
        assert (out / JOURNAL).read_bytes() == whole


def test_a_damaged_journal_is_refused(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    make(tmp_path / "out", recordings)
    for content in (b"[]\n", b"{}{}\n", b'{"model": "abc"}\n{"output": 1}\n'):
        (tmp_path / "out" / JOURNAL).write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            make(tmp_path / "out", recordings)


def test_one_run_at_a_time(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    with (
        open_outputs(tmp_path / "out", Format.CSV, MADE_BY),
        pytest.raises(UsageError, match="another run writes to"),
    ):
        make(tmp_path / "out", recordings)


def test_a_file_is_no_folder(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is not a folder that you may write to"):
        make(next(iter(recordings)) / "out", recordings)


def test_what_a_killed_run_was_writing_is_swept(tmp_path: Path, recordings: dict[Path, Path]) -> None:
    make(tmp_path / "out", recordings)
    left = tmp_path / "out/site/.a.wav.flexiast.csv.tmp-k2j4"
    left.write_text("half a")
    make(tmp_path / "out", recordings)
    assert not left.exists()
