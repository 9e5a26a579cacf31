"""All sound of the last hours on disk: any stretch of it is what sounded, and a gap is never filled."""

from __future__ import annotations

import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from flexiast.errors import DataError, SinkError
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.history import stored_audio
from flexiast_runtime.history.stored_audio import (
    SEGMENT_NAME,
    SEGMENT_S,
    cut_stretch,
    find_stored_span,
    list_sources,
    name_segment,
)
from flexiast_runtime.sinks import audio_keeper
from flexiast_runtime.sinks.audio_keeper import AudioKeeper
from flexiast_runtime.sinks.retention import Retention
from tests.runtime.sinks.conftest import BEGAN_AT_S
from tests.runtime.sinks.test_clips import RATE_HZ, ramp

SEGMENT = round(SEGMENT_S * RATE_HZ)
DAY = Retention(86_400.0, 10**9)


def date(sample: int) -> float:
    return BEGAN_AT_S + sample / RATE_HZ


def open_keeper(folder: Path, retention: Retention = DAY, **options: Any) -> AudioKeeper:
    plenty: dict[str, Any] = {"free_bytes": lambda _: 10**12, "wall": lambda: BEGAN_AT_S}
    return AudioKeeper(folder, retention, RATE_HZ, **plenty | options)


def push(keeper: AudioKeeper, start: int, end: int, source: str = "kitchen") -> None:
    keeper.push(source, Chunk(start, ramp(start, end)), date)


@settings(max_examples=25, deadline=None)  # each example encodes some files
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 60, 900]), st.integers(1, 2 * SEGMENT)), min_size=1, max_size=5),
    st.integers(0, 4 * SEGMENT),
    st.integers(1, SEGMENT),
)
def test_a_stretch_is_what_sounded_then_or_is_refused(pieces: list[tuple[int, int]], first: int, length: int) -> None:
    """Compared with the list of what was pushed; gaps are longer than the jitter that is tolerated."""
    with tempfile.TemporaryDirectory() as path:
        folder, unbroken, end = Path(path), list[list[int]](), 0
        with open_keeper(folder) as keeper:
            for gap, samples in pieces:
                start, end = end + gap, end + gap + samples
                push(keeper, start, end)
                if gap or not unbroken:
                    unbroken.append([start, end])
                unbroken[-1][1] = end
        last, tolerated = first + length, round(stored_audio.JOINED_S * RATE_HZ)
        found = [one for one in unbroken if one[0] - tolerated <= first and last <= one[1] + tolerated]
        if not found:
            with pytest.raises(DataError, match=r"is not kept|nothing was kept"):
                cut_stretch(folder, "kitchen", date(first), date(last), context_s=1.0)
            return
        (start, end), context = found[0], RATE_HZ
        stretch = cut_stretch(folder, "kitchen", date(first), date(last), context_s=1.0)
        begin = max(start, first - context)
        np.testing.assert_array_equal(stretch.samples, ramp(begin, min(end, last + context)))
        assert stretch.start_s == pytest.approx((max(start, first) - begin) / RATE_HZ)
        assert stretch.end_s == pytest.approx((min(end, last) - begin) / RATE_HZ)


def test_sources_do_not_mix_and_a_recording_is_not_kept(tmp_path: Path) -> None:
    with open_keeper(tmp_path / "audio") as keeper:
        for source, level in (("kitchen", 0.25), ("Küche/../2", 0.5)):
            keeper.push(source, Chunk(0, np.full(300, level, np.float32)), date)
        keeper.push("a.wav", Chunk(0, ramp(0, 300)), lambda _: None)
    assert list_sources(tmp_path / "audio") == ["Küche/../2", "kitchen"]
    for source, level in (("kitchen", 0.25), ("Küche/../2", 0.5)):
        assert set(cut_stretch(tmp_path / "audio", source, date(0), date(100), context_s=0.0).samples) == {level}
    assert stat.S_IMODE((tmp_path / "audio").stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["audio"]


def test_dates_that_jitter_break_no_stretch_and_a_clock_that_is_set_does(tmp_path: Path) -> None:
    with open_keeper(tmp_path) as keeper:
        for number, shift_s in enumerate((0.0, 0.1, -0.1, 3600.0)):
            samples = range(number * SEGMENT, (number + 1) * SEGMENT)
            keeper.push(
                "kitchen", Chunk(samples[0], ramp(samples[0], samples[-1] + 1)), lambda n, s=shift_s: date(n) + s
            )
    whole = cut_stretch(tmp_path, "kitchen", date(10), date(3 * SEGMENT - 10), context_s=0.0)
    np.testing.assert_array_equal(whole.samples, ramp(10, 3 * SEGMENT - 10))
    with pytest.raises(DataError, match="there is a gap"):
        cut_stretch(tmp_path, "kitchen", date(3 * SEGMENT - 10), date(3 * SEGMENT + 50), context_s=0.0)
    cut_stretch(tmp_path, "kitchen", date(3 * SEGMENT) + 3600, date(3 * SEGMENT) + 3610, context_s=0.0)


def test_what_is_not_kept_is_said_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing was kept of kitchen at .*; listen with --keep-audio"):
        cut_stretch(tmp_path, "kitchen", date(0), date(1), context_s=0.0)
    with open_keeper(tmp_path) as keeper:
        push(keeper, 0, SEGMENT + 500)
    assert find_stored_span(tmp_path, "kitchen") == (date(0), pytest.approx(date(SEGMENT + 500)))
    with pytest.raises(DataError, match=r"there is what sounded from .* to "):
        cut_stretch(tmp_path, "kitchen", date(SEGMENT), date(SEGMENT + 600), context_s=0.0)
    (damaged,) = tmp_path.glob(name_segment("kitchen", date(SEGMENT)))
    damaged.write_bytes(b"no flac")
    assert find_stored_span(tmp_path, "kitchen") == (date(0), pytest.approx(date(SEGMENT)))


def test_links_and_other_files_are_neither_read_nor_removed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.flac"
    soundfile.write(secret, np.zeros(SEGMENT), RATE_HZ)
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / name_segment("kitchen", date(0))).symlink_to(secret)
    (folder / "mine.flac").write_bytes(b"precious")
    half = folder / f".{name_segment('kitchen', date(5))}.tmp-abc"
    half.write_bytes(b"half")
    assert list_sources(folder) == [] and find_stored_span(folder, "kitchen") is None
    with open_keeper(folder, Retention(1.0, 1)) as keeper:
        push(keeper, 10 * SEGMENT, 11 * SEGMENT)
    assert secret.exists() and (folder / "mine.flac").exists() and not half.exists()


def test_the_oldest_goes_by_size_and_that_it_is_early_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    with open_keeper(tmp_path) as keeper:
        push(keeper, 0, SEGMENT)
    (first,) = (path for path in tmp_path.iterdir() if SEGMENT_NAME.fullmatch(path.name))
    with open_keeper(tmp_path, Retention(86_400.0, round(3.5 * first.stat().st_size)), log=said.append) as keeper:
        for number in range(1, 8):
            push(keeper, number * SEGMENT, (number + 1) * SEGMENT)
    kept = sorted(path.name for path in tmp_path.iterdir() if SEGMENT_NAME.fullmatch(path.name))
    assert kept == [name_segment("kitchen", date(number * SEGMENT)) for number in (5, 6, 7)]
    assert len(said) == 1 and "--keep-audio-limit allows more" in said[0]


def test_a_disk_without_room_is_said_once_and_that_there_is_room_again(tmp_path: Path) -> None:
    said, free = [], iter([10**12, 10**6, 10**6, 10**12, 10**12])
    with open_keeper(tmp_path, log=said.append, free_bytes=lambda _: next(free)) as keeper:
        for number in range(5):
            push(keeper, number * SEGMENT, (number + 1) * SEGMENT)
    assert len(said) == 2
    assert "only 1 MB are free on the disk; listening goes on" in said[0]
    assert "is kept again" in said[1] and "40 s were not" in said[1]
    assert len([path for path in tmp_path.iterdir() if SEGMENT_NAME.fullmatch(path.name)]) == 3


def test_a_disk_that_fails_is_said_and_the_next_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, written = [], audio_keeper.write_atomically
    faults: list[Exception | None] = [OSError(5, "Input/output error"), soundfile.LibsndfileError(1), None]

    def write(path: Path, content: bytes) -> None:
        if (fault := faults.pop(0)) is not None:
            raise fault
        written(path, content)

    monkeypatch.setattr(audio_keeper, "write_atomically", write)
    with open_keeper(tmp_path, log=said.append) as keeper:
        for number in range(3):
            push(keeper, number * SEGMENT, (number + 1) * SEGMENT)
    assert "Input/output error; listening goes on" in said[0]
    assert "is kept again" in said[1] and "40 s were not" in said[1]
    assert find_stored_span(tmp_path, "kitchen") == (date(2 * SEGMENT), pytest.approx(date(3 * SEGMENT)))


def test_a_disk_that_hangs_stops_no_listener(
    tmp_path: Path, eventually: Callable[[Callable[[], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, asked, hangs = [], threading.Event(), threading.Event()
    monkeypatch.setattr(audio_keeper, "CLOSING_S", 0.01)

    def wait(_: Path) -> int:
        asked.set()
        hangs.wait()
        return 10**12

    with open_keeper(tmp_path, log=said.append, free_bytes=wait) as keeper:
        push(keeper, 0, SEGMENT)
        eventually(asked.is_set)
        for number in range(1, audio_keeper.MOST_WAITING + 3):
            push(keeper, number * SEGMENT, (number + 1) * SEGMENT)
    hangs.set()
    assert [line for line in said if "the disk is too slow; listening goes on" in line]
    assert [line for line in said if "the last audio was not written" in line]


def test_a_folder_that_cannot_be_used_ends_the_command_before_it_listens(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkError, match="cannot be used to keep audio"), open_keeper(tmp_path / "file"):
        pass
