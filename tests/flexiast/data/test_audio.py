"""Audio files: what is read, resampled and refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.data.audio import Part, check_audio, check_bad_files, read_audio
from flexiast.data.riff import SLACK_BYTES, find_data
from flexiast.data.search import find_audio
from flexiast.errors import DataError

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]


def loudest_hz(samples: Float, rate_hz: int) -> float:
    return float(
        np.fft.rfftfreq(len(samples), 1 / rate_hz)[np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax()]
    )


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac"])
def test_a_mono_file_at_the_models_rate_is_read_as_it_is(
    tmp_path: Path, write_audio: WriteAudio, make_tone: Callable[..., Float], name: str
) -> None:
    tone = make_tone(440)
    samples = read_audio(write_audio(tmp_path / name, tone, subtype="PCM_24"), 16_000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone, rtol=0, atol=2**-23)  # one step of 24 bits


@pytest.mark.parametrize("hz", [440, 1_000, 5_000])
def test_stereo_at_44100_hz_becomes_mono_at_16000_with_its_pitch_and_level(
    tmp_path: Path, write_audio: WriteAudio, make_tone: Callable[..., Float], hz: int
) -> None:
    tone = make_tone(hz, seconds=1.0, rate_hz=44_100)
    stereo = np.stack((tone, np.zeros_like(tone)), axis=1)
    samples = read_audio(write_audio(tmp_path / "stereo.wav", stereo, 44_100, subtype="FLOAT"), 16_000)
    assert len(samples) == 16_000
    assert loudest_hz(samples, 16_000) == pytest.approx(hz, abs=1)  # one bin of the FFT
    expected = make_tone(hz, seconds=1.0, amplitude=0.25)  # the mean with a silent channel
    # away from the ends, where the resampler meets what is not there
    np.testing.assert_allclose(samples[800:-800], expected[800:-800], rtol=0, atol=1e-3)


def test_what_the_models_rate_cannot_hold_is_filtered_not_folded(
    tmp_path: Path, write_audio: WriteAudio, make_tone: Callable[..., Float]
) -> None:
    path = write_audio(tmp_path / "high.wav", make_tone(10_000, seconds=1.0, rate_hz=44_100), 44_100, subtype="FLOAT")
    samples = read_audio(path, 16_000)
    assert np.abs(samples[800:-800]).max() < 1e-3  # 54 dB under the tone; folded, it would stand at 6 kHz in full


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("absent.wav", "file/absent.wav"):
        with pytest.raises(DataError, match=r"absent\.wav does not exist"):
            read_audio(tmp_path / name, 16_000)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(DataError, match=r"empty\.wav cannot be read as audio: it is empty"):
        read_audio(tmp_path / "empty.wav", 16_000)


def test_the_only_file_is_refused_in_its_own_words() -> None:
    with pytest.raises(DataError, match=r"^a\.wav does not exist$"):
        check_bad_files([DataError("a.wav does not exist")], 1)


@given(files=st.integers(2, 200), bad=st.integers(0, 200))
def test_more_than_half_of_the_files_bad_is_an_error_that_names_the_first(files: int, bad: int) -> None:
    bad = min(bad, files)
    errors = [DataError(f"{number}.wav is bad") for number in range(bad)]
    if bad <= files / 2:
        check_bad_files(errors, files)
        return
    with pytest.raises(DataError, match=rf"^{bad} of {files} files cannot be used, more than half") as caught:
        check_bad_files(errors, files)
    listed = str(caught.value).splitlines()[1:]
    assert listed[:20] == [f"  {number}.wav is bad" for number in range(min(bad, 20))]
    assert listed[20:] == ([f"  … and {bad - 20} more"] if bad > 20 else [])


def test_what_is_no_audio_says_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("not audio at all")
    with pytest.raises(DataError, match=r"notes\.wav cannot be read as audio: .*\w; expected WAV, FLAC"):
        read_audio(tmp_path / "notes.wav", 16_000)


def test_a_file_without_samples_is_refused(tmp_path: Path, write_audio: WriteAudio) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        read_audio(write_audio(tmp_path / "empty.wav", np.zeros(0, np.float32)), 16_000)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path: Path, write_audio: WriteAudio, bad: float) -> None:
    samples = np.zeros(1_000, np.float32)
    samples[500] = bad
    with pytest.raises(DataError, match="not numbers"):
        read_audio(write_audio(tmp_path / "bad.wav", samples, subtype="FLOAT"), 16_000)


def test_samples_that_no_recorder_wrote_are_refused(tmp_path: Path, write_audio: WriteAudio) -> None:
    loud = np.full(1_000, 1e30, np.float32)
    with pytest.raises(DataError, match=r"samples up to 1e\+30, expected -1 … 1"):
        read_audio(write_audio(tmp_path / "loud.wav", loud, subtype="FLOAT"), 16_000)


def wav(folder: Path, **options: str) -> bytes:
    """A quarter of a second of ones at half of full scale."""
    soundfile.write(folder / "whole.wav", np.full(4_000, 0.5, np.float32), 16_000, **options)
    return (folder / "whole.wav").read_bytes()


@pytest.mark.parametrize("options", [{}, {"format": "WAVEX"}, {"format": "RF64"}, {"subtype": "IMA_ADPCM"}])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_wav_cut_short_is_named_whether_decoded_or_not(tmp_path: Path, options: dict[str, str], share: float) -> None:
    content = wav(tmp_path, **options)
    check_audio(tmp_path / "whole.wav")
    (tmp_path / "cut.wav").write_bytes(content[: round(share * len(content))])
    with pytest.raises(DataError, match=r"cut\.wav breaks off: its header announces [\d.]+ s \([\d,]+ bytes"):
        read_audio(tmp_path / "cut.wav", 16_000)
    with pytest.raises(DataError, match="breaks off"):
        check_audio(tmp_path / "cut.wav")
    (tmp_path / "shard").write_bytes(b"before" + content)
    with pytest.raises(DataError, match="breaks off"):
        read_audio(tmp_path / "shard", 16_000, Part(6, round(share * len(content))))


@given(
    st.one_of(
        st.sampled_from([0, 2**32 - 1, 2**32 - 37, 2**31 - 1, 2**31, 0x7FFFF000]),  # recorders cut off or into pipes
        st.integers(8_000, 8_000 + SLACK_BYTES),  # the header count_noun too
    ),
    st.sampled_from([0, 36, 8_036, 2**32 - 1]),
)
def test_a_length_that_nobody_wrote_is_the_files_own(
    tmp_path_factory: pytest.TempPathFactory, size: int, riff_size: int
) -> None:
    folder = tmp_path_factory.mktemp("unended")
    content = bytearray(wav(folder, subtype="PCM_16"))
    expected = read_audio(folder / "whole.wav", 16_000)
    struct.pack_into("<I", content, 40, size)
    struct.pack_into("<I", content, 4, riff_size)
    (folder / "piped.wav").write_bytes(content)
    check_audio(folder / "piped.wav")
    np.testing.assert_array_equal(read_audio(folder / "piped.wav", 16_000), expected)
    (folder / "shard").write_bytes(b"before" + content)
    np.testing.assert_array_equal(read_audio(folder / "shard", 16_000, Part(6, len(content))), expected)
    assert (folder / "piped.wav").read_bytes() == content


def test_an_empty_wav_with_a_title_holds_no_samples(tmp_path: Path) -> None:
    title = b"LIST" + struct.pack("<I", 4) + b"INFO"
    empty = bytearray(wav(tmp_path, subtype="PCM_16")[:44] + title)
    struct.pack_into("<I", empty, 40, 0)
    struct.pack_into("<I", empty, 4, len(empty) - 8)
    (tmp_path / "empty.wav").write_bytes(empty)
    with pytest.raises(DataError, match="holds no samples"):
        read_audio(tmp_path / "empty.wav", 16_000)


@given(st.binary(max_size=200), st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"RF64\0\0\0\0WAVE", b"RIFF"]))
def test_what_is_no_wav_has_no_chunk_of_samples(content: bytes, head: bytes) -> None:
    found = find_data(io.BytesIO(head + content))
    assert (found is None) or (b"data" in content and 0 <= found.found < len(content))


def test_audio_is_found_anywhere_but_in_hidden_places(tmp_path: Path, write_audio: WriteAudio) -> None:
    silence = np.zeros(10, np.float32)
    seen = [write_audio(tmp_path / name, silence, format="WAV") for name in ("a/b/deep.wav", "a/LOUD.WAV", "z.flac")]
    for name in ("a/.hidden.wav", ".trash/old.wav", "a/.cache/x/y.wav"):
        write_audio(tmp_path / name, silence)
    (tmp_path / "a" / "notes.txt").write_text("text")
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == sorted(seen)
