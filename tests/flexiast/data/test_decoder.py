"""Files that lie about their length, are joined or damaged: heard for as long as they sound, or refused in words."""

from __future__ import annotations

import io
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import flexiast.data.decoder
from benchmarks.field import CASES, Case, check_case, ffmpeg_s, hear, judge_mp3, make_noise, mix_mp3s
from flexiast.data import flac, mpeg
from flexiast.data.audio import Part, check_audio, open_audio, read_audio
from flexiast.data.spliced import splice
from flexiast.errors import DataError

Float = NDArray[np.float32]
MP3S = 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_odd_file_is_heard_whole_or_refused_and_the_same_each_time(
    case: Case, tmp_path: Path, data_root: Path
) -> None:
    answer = check_case(case, data_root.parent / "field", tmp_path)
    if answer is None:
        pytest.skip(f"{case.name} is absent")
    assert answer[1] == []


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the second reader")
def test_mp3s_cut_and_joined_at_random_are_as_long_as_ffmpeg_says_or_doubted(tmp_path: Path) -> None:
    verdicts = [judge_mp3(hear(path), ffmpeg_s(path)) for path in mix_mp3s(tmp_path, MP3S, seed=0)]
    assert "wrong" not in verdicts
    assert verdicts.count("right") >= 0.9 * MP3S, "a doubt is for the few files in which frames were lost"


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
def test_every_frame_of_an_mp3_is_counted(tmp_path: Path, mode: str, rate_hz: int) -> None:
    path = tmp_path / "clip.mp3"
    soundfile.write(path, make_noise(1.5, rate_hz), rate_hz, format="MP3", bitrate_mode=mode)
    found = mpeg.scan(io.BytesIO(path.read_bytes()))
    assert found is not None
    (stream,) = found.streams
    assert (stream.kind.rate_hz, found.junk_bytes) == (rate_hz, 0)
    assert stream.announced == stream.frames  # the encoder counts them too
    assert hear(path).seconds == pytest.approx(1.5, abs=2 * stream.kind.samples / rate_hz)


def test_mp3s_joined_by_their_tags_are_heard_whole_and_said_to_be_joined(tmp_path: Path) -> None:
    path, part, said = tmp_path / "joined.mp3", tmp_path / "part.mp3", list[str]()
    soundfile.write(part, make_noise(1, 8_000), 8_000, format="MP3", bitrate_mode="CONSTANT")
    tag, frames = b"ID3\3\0\0\0\0\0\x64" + bytes(100), mpeg.scan(io.BytesIO(part.read_bytes()))
    assert frames is not None
    path.write_bytes(part.read_bytes() + tag + part.read_bytes())
    heard = len(read_audio(path, 8_000, log=said.append))
    assert heard == pytest.approx(2 * len(read_audio(part, 8_000)), abs=3 * frames.streams[0].kind.samples)
    assert [text for text in said if "joined.mp3 holds tags between its frames in one place" in text] == said[-1:]


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_a_flac_whose_header_says_too_little_is_heard_whole(tmp_path: Path, rate_hz: int, seconds: float) -> None:
    path, said = tmp_path / "short.flac", list[str]()
    samples = make_noise(seconds, rate_hz, 2)
    soundfile.write(path, samples, rate_hz)
    content = bytearray(path.read_bytes())
    info = flac.read_stream_info(io.BytesIO(content), 0)
    assert info is not None
    assert flac.count_samples(io.BytesIO(content), range(len(content)), info.block_size) == len(samples)
    content[22:26] = (len(samples) // 2).to_bytes(4, "big")  # the lower four bytes of the length
    path.write_bytes(content)
    with open_audio(path, log=said.append) as audio:
        heard = np.concatenate(list(audio.blocks(1_000)))
    path.write_bytes(content[:21] + bytes([content[21] & 0xF0]) + len(samples).to_bytes(4, "big") + content[26:])
    np.testing.assert_array_equal(heard, soundfile.read(path, dtype="float32")[0])
    assert [text for text in said if f"leaves out the last {seconds / 2:.2f} s; all is heard" in text] == said


@pytest.mark.parametrize(
    "tag", [b"ID3\3\0\0\x7f\x7f\x7f\x7f", b"APETAGEX" + struct.pack("<IIII", 2000, 1 << 30, 1, 1 << 29) + bytes(8)]
)
def test_a_tag_that_claims_more_than_the_file_does_not_end_it(tag: bytes, tmp_path: Path) -> None:
    path, part, said = tmp_path / "joined.mp3", tmp_path / "part.mp3", list[str]()
    soundfile.write(part, make_noise(1, 16_000), 16_000, format="MP3", bitrate_mode="CONSTANT")
    path.write_bytes(part.read_bytes() + tag + part.read_bytes())
    whole = len(read_audio(part, 16_000))
    assert len(read_audio(path, 16_000, log=said.append)) == pytest.approx(2 * whole, abs=4 * 576)
    assert any("bytes of no MPEG audio" in text for text in said)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s9--00.wav\n", "git annex get"),
        (bytes(range(64)), "expected WAV"),
    ],
)
def test_a_file_that_stands_for_one_that_was_not_fetched_is_named(content: bytes, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav cannot be read as audio: .*{remedy}"):
        read_audio(tmp_path / "a.wav", 16_000)


@pytest.mark.parametrize("seconds", [1.0, 2.0, 100.0])
def test_an_aiff_whose_header_tells_another_length_is_heard_as_long_as_it_is(seconds: float, tmp_path: Path) -> None:
    path, said = tmp_path / "a.aiff", list[str]()
    soundfile.write(path, make_noise(2, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    at = content.index(b"COMM") + 10
    content[at : at + 4] = round(seconds * 16_000).to_bytes(4, "big")
    path.write_bytes(content)
    assert len(read_audio(path, 16_000, log=said.append)) == 32_000
    expected = f"a.aiff: its header announces {seconds:.2f} s, 2.00 s are there and heard"
    assert [text for text in said if expected in text] == said
    assert len(said) == (seconds != 2.0)


@pytest.mark.parametrize("kept", [4, 12, 40])
def test_a_frame_of_which_only_the_beginning_is_there_lasts_as_long_as_others(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp3"
    soundfile.write(path, make_noise(1, 8_000), 8_000, format="MP3", bitrate_mode="CONSTANT")
    content = path.read_bytes()
    whole = mpeg.scan(io.BytesIO(content))
    assert whole is not None
    sizes, place = [], whole.streams[0].ranges[0].start
    while place < len(content):
        frame = mpeg.parse_header(content[place : place + 4])
        assert frame is not None
        sizes.append(frame.size)
        place += frame.size
    path.write_bytes(content[: whole.streams[0].ranges[0].start + sum(sizes[:5]) + kept])
    cut = mpeg.scan(io.BytesIO(path.read_bytes()))
    assert cut is not None
    assert (cut.streams[0].frames, cut.streams[0].missing) == (6, sizes[5] - kept)
    if shutil.which("ffmpeg"):
        assert hear(path).seconds == pytest.approx(ffmpeg_s(path), abs=1e-3)


def test_what_libmpg123_prints_of_a_damaged_file_is_said_once_with_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, said = tmp_path / "damaged.mp3", []
    soundfile.write(path, make_noise(3), 16_000, format="MP3", bitrate_mode="VARIABLE")
    content = bytearray(path.read_bytes())
    frames = mpeg.scan(io.BytesIO(content)).streams[0].ranges[0]  # type: ignore[union-attr]
    for place in range(frames.start + 2_000, frames.stop - 2_000, 1_000):
        content[place : place + 200] = bytes(range(200))
    path.write_bytes(content)
    read_audio(path, 16_000, log=said.append)
    assert capfd.readouterr() == ("", "")
    assert [text for text in said if "damaged.mp3 holds damaged MP3 frames" in text] == said[-1:]


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_joined_streams_of_other_kinds_sound_as_the_first_one_does(tmp_path: Path, suffix: str) -> None:
    content = b""
    for seconds, rate_hz, channels in ((2.0, 16_000, 1), (3.0, 44_100, 2)):
        soundfile.write(tmp_path / f"part.{suffix}", make_noise(seconds, rate_hz, channels), rate_hz)
        content += (tmp_path / f"part.{suffix}").read_bytes()
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(content)
    with open_audio(path) as audio:
        blocks = list(audio.blocks(4_096))
        assert audio.rate_hz == 16_000
    assert {block.shape[1] for block in blocks} == {1}
    # An MP3 encoder adds up to two frames at each end, of which those of the second file stay
    assert sum(map(len, blocks)) / 16_000 == pytest.approx(5.0, abs=0.15 if suffix == "mp3" else 1e-3)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_file_inside_another_is_read_as_by_itself(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, make_noise(1), 16_000)
    content = (tmp_path / name).read_bytes()
    (tmp_path / "shard").write_bytes(b"before" + content + b"after")
    inside = read_audio(tmp_path / "shard", 16_000, Part(6, len(content)))
    np.testing.assert_array_equal(inside, read_audio(tmp_path / name, 16_000))


@pytest.mark.parametrize("error", [ValueError, MemoryError, RuntimeError, OverflowError, TypeError, OSError])
@pytest.mark.parametrize("when", ["opened", "read"])
def test_whatever_a_decoder_raises_is_the_files_data_error(
    error: type[Exception], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "odd.wav", make_noise(1), 16_000)
    choose = flexiast.data.decoder.choose_decoder

    def fail(*_: object) -> None:
        raise error("array is too big")

    def choose_and_fail(*source: Any) -> flexiast.data.decoder.Decoder:
        decoder = choose(*source)
        monkeypatch.setattr(decoder, "read_block", fail)
        return decoder

    monkeypatch.setattr(flexiast.data.decoder, "choose_decoder", fail if when == "opened" else choose_and_fail)
    for read in (check_audio, lambda path: read_audio(path, 16_000)):
        with pytest.raises(DataError, match=r"odd\.wav .*array is too big"):
            read(tmp_path / "odd.wav")


def test_one_channel_is_read_by_itself(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "two.wav", make_noise(1, channels=2), 16_000, subtype="FLOAT")
    with open_audio(tmp_path / "two.wav", channel=2) as audio:
        found = np.concatenate(list(audio.blocks(1_000)))
    np.testing.assert_array_equal(found, make_noise(1, channels=2)[:, 1:])
    with (
        pytest.raises(DataError, match=r"two\.wav has no channel 3; give one from 1 to 2"),
        open_audio(tmp_path / "two.wav", channel=3),
    ):
        pass


@pytest.mark.parametrize(
    "channels",
    [
        [make_noise(1), make_noise(1)],
        [make_noise(1), make_noise(1, seed=1)],  # two rooms
        [make_noise(1), 0.1 * make_noise(1)],
        [0 * make_noise(1), 0 * make_noise(1)],
    ],
    ids=["equal", "independent", "20 dB apart", "silence"],
)
def test_ordinary_channels_give_no_warning(tmp_path: Path, channels: Sequence[Float]) -> None:
    said: list[str] = []
    soundfile.write(tmp_path / "two.wav", np.concatenate(channels, axis=1), 16_000, subtype="FLOAT")
    read_audio(tmp_path / "two.wav", 16_000, log=said.append)
    assert said == []


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.tuples(st.integers(0, 90), st.integers(0, 30)))),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 60)), max_size=5),
)
def test_a_spliced_file_is_its_pieces_joined(
    pieces: list[bytes | tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    below = bytes(range(100))
    parts = [piece if isinstance(piece, bytes) else range(piece[0], min(100, sum(piece))) for piece in pieces]
    whole = b"".join(part if isinstance(part, bytes) else below[part.start : part.stop] for part in parts)
    file = splice(io.BytesIO(below), parts)
    assert file.read() == whole
    assert file.seek(0, io.SEEK_END) == len(whole)
    for place, size in reads:
        file.seek(place)
        assert file.read(size) == whole[place : place + size]


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("zeros", [200, 40_000])
def test_zeros_behind_the_samples_are_room_that_a_recorder_took(
    tmp_path: Path, write_audio: Callable[..., Path], subtype: str, zeros: int
) -> None:
    path = write_audio(tmp_path / "taken.wav", make_noise(1), 16_000, subtype=subtype)
    expected = read_audio(path, 16_000)
    path.write_bytes(path.read_bytes() + bytes(zeros))
    np.testing.assert_array_equal(read_audio(path, 16_000), expected)


@pytest.mark.parametrize("behind", [b"", b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf59.27.100\0"])
def test_a_wav_without_samples_is_refused_whatever_chunk_follows(behind: bytes, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes() + behind)
    with pytest.raises(DataError, match=r"a\.wav .*holds no samples"):
        read_audio(tmp_path / "a.wav", 16_000)


def test_channels_that_cancel_in_a_part_of_a_recording_are_named(tmp_path: Path) -> None:
    """As where a plug comes loose in the middle; quiet hiss in opposite phase says nothing of the sound."""
    same, said = make_noise(60, 16_000)[:, 0], list[str]()
    signs = np.where(np.arange(len(same)) < 45 * 16_000, 1, -1)
    for level, name in ((1.0, "loose"), (1e-4, "hiss")):
        stereo = np.stack((same, signs * same), axis=1)
        stereo[45 * 16_000 :] *= level
        soundfile.write(tmp_path / f"{name}.wav", stereo, 16_000, subtype="FLOAT")
        read_audio(tmp_path / f"{name}.wav", 16_000, log=said.append)
    (warning,) = said
    found = re.search(r"loose\.wav has channels that cancel each other in (\d+)% of its time", warning)
    assert found is not None
    assert int(found[1]) == pytest.approx(25, abs=12)  # stretches of six seconds
