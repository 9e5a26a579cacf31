"""Audio that PyAV decodes: written by it in many containers, read back like any other file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.data import media
from flexiast.data.audio import Part, check_audio, decode_audio, open_audio, read_audio
from flexiast.data.dataset import read_dataset
from flexiast.data.search import search_folder
from flexiast.errors import DataError

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'flexiast[media]'")

Float = NDArray[np.float32]
MakeTone = Callable[..., Float]

LOSSLESS = {"mka": "flac", "mov": "pcm_s16le", "wv": "wavpack", "tta": "tta"}
LOSSY = {"m4a": "aac", "mp4": "aac", "3gp": "aac", "aac": "aac", "webm": "libopus", "mkv": "libopus", "ac3": "ac3"}
FORMATS = {"m4a": "ipod", "aac": "adts", "mka": "matroska", "mkv": "matroska"}
PADDING_S = 0.07
"""Two frames of the codec with the longest ones (ac3, 1,536 samples at 44.1 kHz): no codec here pads more."""


def write_media(path: Path, samples: Float, rate_hz: int, codec: str, options: dict[str, str] | None = None) -> Path:
    """Mono [samples] encoded as the suffix says."""
    suffix = path.suffix[1:]
    with av.open(str(path), "w", format=FORMATS.get(suffix), options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None, :], "fltp", "mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        context = stream.codec_context
        if codec in LOSSLESS.values():
            context.format = "s16p" if codec == "wavpack" else "s16"
        context.open()
        resampler = av.AudioResampler(context.format, "mono", rate_hz, frame_size=context.frame_size or None)
        for converted in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_sound_comes_back_to_the_sample(tmp_path: Path, make_tone: MakeTone, suffix: str) -> None:
    tone = make_tone(440, 0.7, 44_100)
    samples, rate_hz = decode_audio(write_media(tmp_path / f"x.{suffix}", tone, 44_100, LOSSLESS[suffix]))
    assert rate_hz == 44_100
    assert len(samples) == len(tone)
    np.testing.assert_allclose(samples, tone, atol=2 / 2**15)  # rounded to 16 bits


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_sound_comes_back_as_long_and_as_loud(tmp_path: Path, make_tone: MakeTone, suffix: str) -> None:
    tone = make_tone(440, 1.3, 48_000)
    path = write_media(tmp_path / f"x.{suffix}", tone, 48_000, LOSSY[suffix])
    check_audio(path)
    samples, rate_hz = decode_audio(path)
    assert rate_hz == 48_000
    assert 0 <= len(samples) - len(tone) <= PADDING_S * 48_000
    inner = slice(9_600, 48_000)  # past what encoders fade in
    assert np.sqrt(np.mean(samples[inner] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)  # bit rates are low
    spectrum = np.abs(np.fft.rfft(samples[inner] * np.hanning(38_400)))
    assert spectrum.argmax() == 440 * 38_400 // 48_000


@pytest.mark.parametrize(("suffix", "codec"), [("ogg", "flac"), ("wav", "g722"), ("wav", "mp3")])
def test_containers_of_libsndfile_with_the_codec_of_another_are_read_whole_or_refused_as_cut(
    tmp_path: Path, make_tone: MakeTone, suffix: str, codec: str
) -> None:
    """libsndfile knows the first two containers and not what FFmpeg writes into them, and MP3 in WAV by its padding."""
    tone = make_tone(440, 4.0, 16_000)
    path = write_media(tmp_path / f"x.{suffix}", tone, 16_000, codec)
    samples = read_audio(path, 16_000)
    assert abs(len(samples) - len(tone)) <= 1_105 + 1_152  # an MP3 encoder's delay and its last frame
    inner = slice(8_000, 48_000)
    assert np.sqrt(np.mean(samples[inner] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="breaks off"):
        read_audio(path, 16_000)


def test_blocks_joined_are_the_whole(tmp_path: Path, make_tone: MakeTone) -> None:
    path = write_media(tmp_path / "x.m4a", make_tone(440, 1.0, 44_100), 44_100, "aac")
    with open_audio(path) as file:
        (whole,) = file.blocks(10**7)
    for size in (1, 1000, 4096, 10**6):
        with open_audio(path) as file:
            blocks = list(file.blocks(size))
        assert {len(block) for block in blocks[:-1]} <= {size}
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_the_content_decides_and_not_the_name(tmp_path: Path, make_tone: MakeTone) -> None:
    """Telephones send AAC that is named .wav; a shard names nothing at all."""
    path = write_media(tmp_path / "x.m4a", make_tone(440, 0.5, 44_100), 44_100, "aac")
    expected = read_audio(path, 16_000)
    (tmp_path / "x.wav").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav", 16_000), expected)
    (tmp_path / "shard.tar").write_bytes(b"before" + path.read_bytes() + b"after")
    np.testing.assert_array_equal(read_audio(tmp_path / "shard.tar", 16_000, Part(6, path.stat().st_size)), expected)


@pytest.mark.parametrize(("suffix", "codec"), [("mka", "flac"), ("mov", "pcm_s16le"), ("m4a", "aac")])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_is_never_taken_as_whole(
    tmp_path: Path, make_tone: MakeTone, suffix: str, codec: str, share: float
) -> None:
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(10 * 16_000)).astype(np.float32)  # ten seconds: a tenth is over the slack
    front = {"movflags": "faststart"} if suffix in {"m4a", "mov"} else None  # else the header would be cut off too
    path = write_media(tmp_path / f"x.{suffix}", noise, 16_000, codec, front)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"breaks off|cannot be read as audio"):
        read_audio(path, 16_000)


@pytest.mark.parametrize("content", [b"", b"\0" * 5_000, b"text " * 1_000, bytes(range(256)) * 40])
def test_what_is_no_medium_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.m4a").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.m4a"):
        decode_audio(tmp_path / "x.m4a")


def test_a_picture_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        output.mux(stream.encode(None))
    with pytest.raises(DataError, match="holds no sound"):
        decode_audio(tmp_path / "x.mp4")


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXTINF:1,\nsecret.wav\n", "ffconcat version 1.0\nfile secret.wav\n"])
def test_a_playlist_opens_no_other_file(
    tmp_path: Path, make_tone: MakeTone, write_audio: Callable[..., Path], playlist: str
) -> None:
    """One could name an address on the net."""
    write_audio(tmp_path / "secret.wav", make_tone(440))
    (tmp_path / "x.m4a").write_text(playlist)
    with pytest.raises(DataError, match="cannot be read as audio"):
        decode_audio(tmp_path / "x.m4a")


def test_media_are_clips_where_pyav_is_installed_and_else_counted_with_the_remedy(
    tmp_path: Path, make_tone: MakeTone, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "set" / "dog" / "a.wav", make_tone(440))
    path = write_media(tmp_path / "set" / "dog" / "b.m4a", make_tone(440, 0.5, 44_100), 44_100, "aac")
    assert {clip.path.name for clip in read_dataset(tmp_path / "set").clips} == {"a.wav", "b.m4a"}
    for module in ("flexiast.data.media", "flexiast.data.search"):
        monkeypatch.setattr(f"{module}.is_available", lambda: False)
    assert {clip.path.name for clip in read_dataset(tmp_path / "set").clips} == {"a.wav"}
    assert "1 .m4a file (to read them: pip install 'flexiast[media]'" in str(search_folder(tmp_path).left_out)
    with pytest.raises(DataError, match=r"For \.m4a install PyAV \(pip install 'flexiast\[media\]'\)"):
        decode_audio(path)


def test_the_file_is_closed_whatever_happens(tmp_path: Path, make_tone: MakeTone) -> None:
    path = write_media(tmp_path / "x.m4a", make_tone(440, 0.5, 44_100), 44_100, "aac")
    for content in (path.read_bytes(), b"no medium"):
        file = io.BytesIO(content)
        opened = media.open_media(file, "x")
        if opened is not None:
            opened.close()
        assert file.closed
