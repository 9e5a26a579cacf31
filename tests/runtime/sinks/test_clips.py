"""The sound of each event as a file: which samples, and which files stay."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import SinkError, SinkUnavailableError
from flexiast_runtime.records import Event
from flexiast_runtime.sinks.audio_history import AudioHistory
from flexiast_runtime.sinks.clips import NAME, Clip, Clips, Retention, clip_name, expired
from flexiast_runtime.sinks.sink import Hearing
from flexiast_runtime.source import Chunk
from tests.runtime.sinks.conftest import event
from tests.runtime.sinks.test_jsonl import full_disk

RATE_HZ = 100
"""Small, so that seconds are few samples."""


def ramp(start: int, end: int) -> np.ndarray:
    """Audio whose every sample tells its number: exact in 16 bits."""
    return (np.arange(start, end) % 30_000 / 32_768).astype(np.float32)


@given(
    pieces=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 90)), max_size=8),
    seconds=st.floats(0.05, 1.0),
    wanted=st.tuples(st.integers(0, 400), st.integers(0, 400)),
)
def test_a_history_is_the_end_of_the_stream_with_silence_in_its_gaps(
    pieces: list[tuple[int, int]], seconds: float, wanted: tuple[int, int]
) -> None:
    """Compared with an array of everything that was pushed."""
    history, everything = AudioHistory(seconds, RATE_HZ), np.zeros(0, np.float32)
    for gap, length in pieces:
        start = len(everything) + gap
        samples = ramp(start, start + length)
        history.push(Chunk(start, samples))
        everything = np.concatenate([everything, np.zeros(gap, np.float32), samples])
    begin = max(0, len(everything) - round(seconds * RATE_HZ))
    first, end = max(min(wanted), begin), max(wanted)
    got = history.read(min(wanted), max(wanted))
    assert (history.begin, got.start) == (begin, first)
    np.testing.assert_array_equal(got.samples, everything[first:end])


def test_a_reader_waits_for_what_is_to_come_and_no_longer_when_nothing_is(
    eventually: Callable[[Callable[[], Any]], Any],
) -> None:
    history, got = AudioHistory(1.0, RATE_HZ), []
    readers = [threading.Thread(target=lambda end=end: got.append(history.read(0, end, 60.0))) for end in (20, 50)]
    for reader in readers:
        reader.start()
    history.push(Chunk(0, ramp(0, 10)))
    history.push(Chunk(10, ramp(10, 30)))
    eventually(lambda: got)
    assert len(got[0].samples) == 20 and readers[1].is_alive()
    history.end()
    for reader in readers:
        reader.join()
    np.testing.assert_array_equal(got[1].samples, ramp(0, 30))


def heard(start_s: float, end_s: float, **fields: Any) -> Event:
    samples = {"start_sample": round(start_s * RATE_HZ), "end_sample": round(end_s * RATE_HZ)}
    return event(sample_rate_hz=RATE_HZ, **samples | fields)


def clips(folder: Path, history: AudioHistory, **options: Any) -> Clips:
    sink = Clips(folder, **options)
    sink.open(Hearing(histories={"kitchen": history}))
    return sink


def test_a_clip_holds_the_sound_and_what_was_before_and_after_it(tmp_path: Path) -> None:
    history = AudioHistory(60.0, RATE_HZ)
    history.push(Chunk(0, ramp(0, 2000)))
    sound = heard(5.0, 7.0)
    clips(tmp_path / "new", history, pre_s=1.5, post_s=0.5).deliver(sound)
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == f"20261125T152342Z_dog_{sound.id}.flac"
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(samples, ramp(350, 750))  # FLAC is lossless, and 16 bits hold the ramp


def test_a_clip_at_the_end_holds_what_there_is_and_one_too_old_is_refused(tmp_path: Path) -> None:
    history = AudioHistory(2.0, RATE_HZ)
    history.push(Chunk(0, ramp(0, 1000)))
    history.end()
    sink = clips(tmp_path, history)
    sink.deliver(heard(7.0, 9.9))
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], ramp(800, 1000))
    with pytest.raises(SinkError, match=r"the audio of dog at 1\.0 s is no longer held"):
        sink.deliver(heard(1.0, 2.0))


def test_a_full_disk_is_tried_again_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    history = AudioHistory(60.0, RATE_HZ)
    history.push(Chunk(0, ramp(0, 2000)))
    sink = clips(tmp_path, history)
    with full_disk(50), pytest.raises(SinkUnavailableError, match="cannot be written"):
        sink.deliver(heard(5.0, 7.0))
    assert not list(tmp_path.iterdir())
    sink.deliver(heard(5.0, 7.0))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(SinkError, match=r"cannot be used for clips: .*; name another"):
        clips(next(tmp_path.iterdir()), history)


@pytest.mark.parametrize(
    ("label", "began_at_s", "name"),
    [
        ("Dog bark", 1_795_620_222.9, "20261125T152342Z_Dog-bark_"),
        ("../../etc/passwd", 0.0, "19700101T000000Z_etc-passwd_"),
        ("犬", None, "0000012.30s_sound_"),
        ("x" * 300, None, f"0000012.30s_{'x' * 60}_"),
    ],
)
def test_a_name_tells_time_label_and_id_and_is_plain(label: str, began_at_s: float | None, name: str) -> None:
    one = heard(12.3, 13.0, label=label, began_at_s=began_at_s)
    assert clip_name(one) == f"{name}{one.id}.flac"


@given(st.text(), st.one_of(st.none(), st.floats(0, 4e9)), st.integers(0, 10**9))
def test_every_name_is_known_again(label: str, began_at_s: float | None, start: int) -> None:
    one = event(label=label, start_sample=start, end_sample=start + 1, began_at_s=began_at_s)
    assert NAME.fullmatch(clip_name(one))


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=12),
    st.one_of(st.none(), st.integers(0, 100)),
    st.one_of(st.none(), st.integers(0, 200)),
)
def test_what_stays_is_the_newest_within_both_limits(
    found: list[tuple[int, int]], age_s: int | None, total: int | None
) -> None:
    files = [Clip(Path(f"{place}.flac"), float(when), size) for place, (when, size) in enumerate(found)]
    gone = expired(files, Retention(age_s, total), 100.0)
    stay = [clip for clip in files if clip not in gone]
    assert [clip.written_s for clip in gone] == sorted(clip.written_s for clip in gone)
    assert all(100 - clip.written_s <= (1e9 if age_s is None else age_s) for clip in stay)
    assert total is None or len(stay) <= 1 or sum(clip.size for clip in stay) <= total
    if age_s is None and total is None:
        assert not gone
    if age_s is None and gone:
        assert max(clip.written_s for clip in gone) <= min(clip.written_s for clip in stay)


def test_only_its_own_files_go(tmp_path: Path) -> None:
    history = AudioHistory(60.0, RATE_HZ)
    history.push(Chunk(0, ramp(0, 5000)))
    sink = clips(tmp_path, history, retention=Retention(3600.0, None), wall=lambda: 1e9)
    for number in range(3):
        sink.deliver(heard(number, number + 1.0))
    old = [tmp_path / clip_name(heard(number, number + 1.0)) for number in range(2)]
    mine = tmp_path / "20261125T152342Z_my holiday.flac"
    mine.write_bytes(b"precious")
    for path in (*old, mine):
        os.utime(path, (1e9 - 4000, 1e9 - 4000))
    half = tmp_path / f".{clip_name(heard(8.0, 9.0))}.tmp-abc"
    for path in (half, tmp_path / ".notes.tmp-abc"):
        path.write_bytes(b"half")
    sink.deliver(heard(9.0, 10.0))
    sink.open(Hearing(histories={"kitchen": history}))
    expected = {clip_name(heard(2.0, 3.0)), clip_name(heard(9.0, 10.0)), mine.name, ".notes.tmp-abc"}
    assert {path.name for path in tmp_path.iterdir()} == expected
