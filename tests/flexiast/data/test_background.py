"""Background: stretches of recordings, what of them validates, and windows cut from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.data.audio import read_audio
from flexiast.data.background import STRETCH_S, Chain, background_clips, split_stretches, stretches_of
from flexiast.data.clips import Clip
from flexiast.data.dataset import read_dataset
from flexiast.data.shards import write_shards
from flexiast.errors import DataError

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]

RATE = 1_000


@pytest.fixture
def recordings(tmp_path: Path, write_audio: WriteAudio) -> list[Clip]:
    """Of 0.2 s, 30 s and 101 s, each sample of which tells its place."""
    clips = []
    for number, seconds in enumerate((0.2, 30, 101)):
        samples = (np.arange(round(seconds * RATE)) / (200 * RATE)).astype(np.float32)
        clips.append(Clip(write_audio(tmp_path / f"{number}.wav", samples, RATE, subtype="FLOAT"), (), ""))
    return clips


def test_stretches_are_the_recordings_without_gap_or_overlap(recordings: list[Clip]) -> None:
    stretches, errors = stretches_of(recordings, RATE)
    assert not errors
    assert all(STRETCH_S <= seconds < 2 * STRETCH_S for seconds in stretches.seconds[1:])
    whole = np.concatenate([read_audio(clip.path, RATE) for clip in recordings])
    np.testing.assert_array_equal(np.concatenate(stretches[:]), whole)
    assert stretches.hours == pytest.approx(len(whole) / RATE / 3600)


def test_stretches_have_the_models_rate(recordings: list[Clip]) -> None:
    stretches, _ = stretches_of(recordings, 2 * RATE)
    for seconds, waveform in zip(stretches.seconds, stretches, strict=True):
        assert abs(len(waveform) - 2 * RATE * seconds) <= 1  # resamplers round


def test_the_last_fifth_validates(recordings: list[Clip]) -> None:
    stretches, _ = stretches_of(recordings, RATE)
    training, validation = split_stretches(stretches)
    assert (len(training), len(validation)) == (6, 1)
    assert (training + validation).stretches == stretches.stretches


def test_of_one_stretch_nothing_validates(recordings: list[Clip]) -> None:
    training, validation = split_stretches(stretches_of(recordings[:1], RATE)[0])
    assert (len(training), len(validation)) == (1, 0)


def test_windows_lie_side_by_side_and_are_spread_evenly(recordings: list[Clip]) -> None:
    stretches, _ = stretches_of(recordings[1:], RATE)
    everything = stretches.windows(500, most=10_000)
    assert len(everything) == 60 + 5 * 40  # 20.2 s of each of five stretches hold forty
    assert all(len(window) == 500 for window in everything)
    np.testing.assert_array_equal(np.concatenate(everything[:60]), read_audio(recordings[1].path, RATE))
    some = stretches.windows(500, most=26)
    assert some.stretches == everything.stretches[::10]


def test_a_recording_shorter_than_a_window_is_one(recordings: list[Clip]) -> None:
    windows = stretches_of(recordings[:1], RATE)[0].windows(500, most=10)
    assert [len(window) for window in windows] == [200]


def test_a_chain_is_its_parts_one_after_the_other() -> None:
    parts = tuple([np.full(1, value, np.float32) for value in values] for values in ((0, 1), (), (2,)))
    chain = Chain(parts)
    assert [float(waveform[0]) for waveform in chain] == [0, 1, 2]
    assert [float(waveform[0]) for waveform in chain[1:]] == [1, 2]
    assert float(chain[-1][0]) == 2
    with pytest.raises(IndexError):
        chain[3]


def test_bad_recordings_are_left_out_and_most_bad_are_listed(recordings: list[Clip], tmp_path: Path) -> None:
    bad = []
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        (tmp_path / name).write_bytes(b"no audio")
        bad.append(Clip(tmp_path / name, (), ""))
    with pytest.raises(DataError, match="4 of 7 files") as caught:
        stretches_of([*bad, *recordings], RATE)
    assert all(clip.path.name in str(caught.value) for clip in bad)
    stretches, errors = stretches_of([*bad[:2], *recordings], RATE)
    assert len(errors) == 2
    assert stretches.stretches == stretches_of(recordings, RATE)[0].stretches


def test_files_and_folders_are_background(recordings: list[Clip], tmp_path: Path) -> None:
    assert [clip.path for clip in background_clips([tmp_path])] == [clip.path for clip in recordings]
    assert background_clips([recordings[1].path]) == (recordings[1],)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no audio"):
        background_clips([tmp_path, tmp_path / "empty"])
    with pytest.raises(DataError, match="does not exist"):
        background_clips([tmp_path / "absent"])


def test_background_comes_back_from_shards(recordings: list[Clip], tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "bell.wav", np.zeros(1_000, np.float32), RATE)
    lines = ["path,label,split", "bell.wav,bell,train", *(f"{clip.path.name},,train" for clip in recordings)]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    write_shards(read_dataset(tmp_path / "clips.csv"), tmp_path, tmp_path / "shards", shard_bytes=100_000)
    packed = read_dataset(tmp_path / "shards")
    assert (packed.labels, len(packed.background)) == (("bell",), 3)
    stretches, _ = stretches_of(packed.background, RATE)
    for found, expected in zip(stretches, stretches_of(recordings, RATE)[0], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_csv_of_moments_is_background_in_their_order_in_the_recording(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    ramp = np.arange(50 * 8_000) / 400_000
    write_audio(tmp_path / "beds" / "a.wav", ramp, 8_000, subtype="FLOAT")
    lines = ["path,start_s,end_s,label,score", "beds/a.wav,40,45.5,,0.9", "beds/a.wav,1.25,3,,0.8", "beds/a.wav,,,,0.1"]
    (tmp_path / "hard.csv").write_text("\n".join(lines))
    stretches, errors = stretches_of(background_clips([tmp_path / "hard.csv"]), 8_000)
    assert not errors
    assert [one.start / 8_000 for one in stretches.stretches] == [0, 25, 1.25, 40]
    assert stretches.seconds == [25, 25, 1.75, 5.5]
    np.testing.assert_array_equal(stretches[2], np.float32(ramp[10_000:24_000]))
    np.testing.assert_array_equal(stretches[3], np.float32(ramp[320_000:364_000]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav,1,2,dog", "line 2 has the label 'dog', and background has none"),
        ("a.wav,2,1,", "line 2: start_s '2' and end_s '1' are no stretch of time"),
        ("a.wav,2,,", "are no stretch of time"),
        ("a.wav,-1,2,", "are no stretch of time"),
        ("a.wav,one,two,", "are no stretch of time"),
        ("a.wav,1,9,", "lasts 5.00 s, and 1 s to 9 s of it were named"),
    ],
)
def test_moments_that_cannot_be_are_refused(
    tmp_path: Path, write_audio: Callable[..., Path], line: str, message: str
) -> None:
    write_audio(tmp_path / "a.wav", np.full(40_000, 0.1), 8_000)
    (tmp_path / "hard.csv").write_text(f"path,start_s,end_s,label\n{line}\n")
    with pytest.raises(DataError, match=message):
        stretches_of(background_clips([tmp_path / "hard.csv"]), 8_000)
