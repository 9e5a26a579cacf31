"""The sound of each event as a file: which samples, and which files stay."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError, SinkError, SinkUnavailableError, UsageError
from flexiast_runtime.audio.source import Chunk, FileSource, chunks
from flexiast_runtime.detection.records import Event
from flexiast_runtime.history.clips import NAME
from flexiast_runtime.sinks import clips as clips_module
from flexiast_runtime.sinks import retention as retention_module
from flexiast_runtime.sinks.audio_history import AudioHistory, RecordingAudio
from flexiast_runtime.sinks.clips import Clips, clip_name
from flexiast_runtime.sinks.parse import parse_sink
from flexiast_runtime.sinks.retention import CLOCK, Keeper, Retention
from flexiast_runtime.sinks.sink import RunContext
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
    sink.open(RunContext(histories={"kitchen": history}))
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
    ("label", "started_at_s", "name"),
    [
        ("Dog bark", 1_795_620_222.9, "20261125T152342Z_Dog-bark_"),
        ("../../etc/passwd", 0.0, "19700101T000000Z_etc-passwd_"),
        ("犬", None, "0000012.30s_sound_"),
        ("x" * 300, None, f"0000012.30s_{'x' * 60}_"),
    ],
)
def test_a_name_tells_time_label_and_id_and_is_plain(label: str, started_at_s: float | None, name: str) -> None:
    one = heard(12.3, 13.0, label=label, started_at_s=started_at_s)
    assert clip_name(one) == f"{name}{one.id}.flac"


@given(st.text(), st.one_of(st.none(), st.floats(0, 4e9)), st.integers(0, 10**9))
def test_every_name_is_known_again(label: str, started_at_s: float | None, start: int) -> None:
    one = event(label=label, start_sample=start, end_sample=start + 1, started_at_s=started_at_s)
    assert NAME.fullmatch(clip_name(one))


NOW_S, DAY_S = 1_795_620_222.0, 86400.0


class Folder:
    """Clips of given ages in a folder, and a keeper whose clocks are set by hand."""

    def __init__(self, path: Path) -> None:
        self.path, self.wall_s, self.up_s, self.synchronised = path, NOW_S, 0.0, False
        self.said: list[str] = []

    def keeper(self, retention: Retention, find_reviewed: Any = lambda event_ids: frozenset()) -> Keeper:
        return Keeper(
            self.path,
            retention,
            NAME,
            wall=lambda: self.wall_s,
            log=self.said.append,
            synchronised=lambda: self.synchronised,
            monotonic=lambda: self.up_s,
            find_reviewed=find_reviewed,
        )

    def write(self, number: int, written_s: float, size: int = 1) -> Path:
        path = self.path / clip_name(event(number))
        path.write_bytes(bytes(size))
        os.utime(path, (written_s, written_s))
        return path

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.name != CLOCK)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50), st.booleans()), max_size=12),
    st.one_of(st.none(), st.integers(1, 60)),
    st.one_of(st.none(), st.integers(1, 200)),
    st.integers(0, 60),
)
def test_reviewed_clips_stay_longer_and_go_last(
    found: list[tuple[int, int, bool]], age_s: int | None, total: int | None, longer_s: int
) -> None:
    """By age first; then by size the oldest without a verdict, then the oldest with one, never the newest.

    Beyond its longer time, a clip with a verdict is as any other.
    """
    with tempfile.TemporaryDirectory() as path:
        folder, clips, limit_s = Folder(Path(path)), [], (age_s or 0) + longer_s
        for number, (age, size, reviewed) in enumerate(found):
            file = folder.write(number, folder.wall_s - age, size)
            clips.append((-age, file.name, size, reviewed and age <= limit_s))
        names = {event(number).id for number, (_, _, reviewed) in enumerate(found) if reviewed}
        retention = Retention(age_s, total, limit_s)
        folder.keeper(retention, lambda event_ids: names & set(event_ids)).make_room()
        left = [one for one in sorted(clips) if age_s is None or one[3] or -one[0] <= age_s]
        going = [one for reviewed in (False, True) for one in left[:-1] if one[3] is reviewed]
        while going and total is not None and sum(one[2] for one in left) > total:
            left.remove(going.pop(0))
        assert folder.names() == sorted(one[1] for one in left)


def test_while_verdicts_cannot_be_read_no_clip_is_removed_before_its_longer_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for number, age in enumerate((5, 15, 25)):
        folder.write(number, folder.wall_s - age)

    def find_reviewed(_: object) -> frozenset[str]:
        raise DataError("damaged")

    folder.keeper(Retention(10, None, 20), find_reviewed).make_room()
    assert len(folder.names()) == 2
    assert len([line for line in folder.said if "no clip is removed before its time" in line]) == 1


def test_keep_reviewed_needs_a_database_and_a_limit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --to sqlite"):
        Clips(tmp_path, retention=Retention(10, None, 20)).open(RunContext())
    for text, reason in (("keep-reviewed=30d", "without keep or total"), ("keep=30d&keep-reviewed=1d", "shorter")):
        with pytest.raises(UsageError, match=reason):
            parse_sink(f"clips:{tmp_path}#{text}")


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=12),
    st.one_of(st.none(), st.integers(1, 100)),
    st.one_of(st.none(), st.integers(1, 200)),
)
def test_what_stays_is_the_newest_within_both_limits(
    found: list[tuple[int, int]], age_s: int | None, total: int | None
) -> None:
    """Compared with a second implementation, which goes from the newest to the oldest."""
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        files = [(NOW_S - age, folder.write(n, NOW_S - age, size).name, size) for n, (age, size) in enumerate(found)]
        stay, held = [], 0
        for written_s, name, size in sorted(files, reverse=True):
            held += size
            if (age_s is None or NOW_S - written_s <= age_s) and (total is None or held <= total or not stay):
                stay.append(name)
            else:
                break
        keeper = folder.keeper(Retention(age_s, total))
        keeper.make_room()
        assert folder.names() == sorted(stay)
        keeper.report()
        keeper.report()
        assert len(folder.said) == (len(stay) < len(files))  # said, once
        assert all(f" {len(files) - len(stay)} of the oldest clips removed" in line for line in folder.said)


def test_room_is_made_for_a_clip_before_it_is_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for number in range(4):
        folder.write(number, NOW_S - 100 + number, 100)
    keeper = folder.keeper(Retention(None, 400))
    keeper.make_room(150)
    assert folder.names() == sorted(clip_name(event(number)) for number in (2, 3))
    keeper.add(folder.write(9, NOW_S, 150).name)
    keeper.make_room(1000)  # larger than all: then it is alone
    assert not folder.names()


def test_the_folder_is_listed_at_the_start_and_every_hour_and_not_for_each_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed, list_all = Folder(tmp_path), [], retention_module.list_files
    monkeypatch.setattr(retention_module, "list_files", lambda *where: (listed.append(where), list_all(*where))[1])
    keeper = folder.keeper(Retention(None, 5))
    for number in range(20):
        keeper.make_room(1)
        keeper.add(folder.write(number, NOW_S + number).name)
    assert len(listed) == 1 and len(folder.names()) == 5
    foreign = [folder.write(number, NOW_S + number) for number in range(100, 110)]  # of another program
    folder.up_s += 3601.0
    keeper.make_room(1)
    assert len(listed) == 2 and folder.names() == sorted(path.name for path in foreign[-4:])


@pytest.mark.parametrize("boot_s", [NOW_S + 3650 * DAY_S, NOW_S + 200 * DAY_S, 0.0, 946_684_800.0])
@pytest.mark.parametrize("known", [True, False], ids=["known", "upgraded"])
def test_a_board_that_boots_in_another_year_removes_nothing(tmp_path: Path, boot_s: float, known: bool) -> None:
    folder, keep = Folder(tmp_path), Retention(30 * DAY_S, None)
    for number in range(5):
        folder.write(number, NOW_S - number * DAY_S)
    if known:
        folder.keeper(keep).make_room()
        assert (tmp_path / CLOCK).exists()
    folder.wall_s = boot_s
    keeper = folder.keeper(keep)
    keeper.make_room()
    keeper.add(folder.write(9, boot_s).name)  # as the system's clock dates it
    keeper.make_room()
    assert len(folder.names()) == 6
    (said,) = folder.said
    assert "until the clock is synchronised" in said
    folder.wall_s, folder.up_s, folder.synchronised = NOW_S + 28 * DAY_S, 60.0, True
    keeper.make_room()
    # Of the four clips whose age is known to be beyond 30 days then two are left.
    assert clip_name(event(9)) in folder.names() and len(folder.names()) == 4
    keeper.report()
    assert "2 of the oldest clips removed, 0.0 MB, by keep" in folder.said[-1]


def test_age_goes_on_where_a_clock_is_a_little_wrong_or_the_board_was_off(tmp_path: Path) -> None:
    folder, keep = Folder(tmp_path), Retention(30 * DAY_S, None)
    folder.write(0, NOW_S - 40 * DAY_S)
    folder.keeper(keep).make_room()
    assert not folder.names()  # a month in a drawer
    folder.write(1, NOW_S)
    folder.wall_s = NOW_S - 3600.0  # summer time set by hand
    keeper = folder.keeper(keep)
    keeper.make_room()
    folder.wall_s, folder.up_s = NOW_S + 31 * DAY_S, 31 * DAY_S
    keeper.make_room()
    assert not folder.names()
    assert not [line for line in folder.said if "clock" in line]


def test_a_recording_is_read_again_in_any_order_as_it_was_listened_to(tmp_path: Path) -> None:
    """Compared with the samples that the same file gives when it is read at once; 120 ms are held in between."""
    path, rng = tmp_path / "long.flac", np.random.default_rng(5)
    soundfile.write(path, rng.uniform(-0.5, 0.5, (44_100, 2)), 44_100)
    source = FileSource(path)
    whole = np.concatenate([chunk.samples for chunk in chunks(source, 16_000)])
    audio = RecordingAudio(source, 0.12, 16_000)
    for start, length in [(0, 100), (3000, 5000), (7900, 200), (10, 3000), (15_000, 9000), (12_000, 4000), (20_000, 5)]:
        got = audio.read(start, start + length)
        np.testing.assert_array_equal(got.samples, whole[start : start + length])
    audio.push(Chunk(0, whole))
    audio.end()
    np.testing.assert_array_equal(audio.read(0, 10).samples, whole[:10])


def test_a_clip_has_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips_module, "LONGEST_S", 3.0)
    history = AudioHistory(60.0, RATE_HZ)
    history.push(Chunk(0, ramp(0, 2000)))
    clips(tmp_path, history).deliver(heard(5.0, 15.0))
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], ramp(1300, 1600))


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
    sink.open(RunContext(histories={"kitchen": history}))
    expected = {clip_name(heard(2.0, 3.0)), clip_name(heard(9.0, 10.0)), mine.name, ".notes.tmp-abc", CLOCK}
    assert {path.name for path in tmp_path.iterdir()} == expected
