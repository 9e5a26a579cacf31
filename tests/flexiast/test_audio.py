"""Audio files: what is read, resampled and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.audio import find_audio, read_audio
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
    with pytest.raises(DataError, match=r"absent\.wav cannot be read as audio"):
        read_audio(tmp_path / "absent.wav", 16_000)


def test_what_is_no_audio_says_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("not audio at all")
    with pytest.raises(DataError, match=r"notes\.wav cannot be read as audio: .*expected WAV, FLAC"):
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


def test_audio_is_found_anywhere_but_in_hidden_places(tmp_path: Path, write_audio: WriteAudio) -> None:
    silence = np.zeros(10, np.float32)
    seen = [write_audio(tmp_path / name, silence, format="WAV") for name in ("a/b/deep.wav", "a/LOUD.WAV", "z.flac")]
    for name in ("a/.hidden.wav", ".trash/old.wav", "a/.cache/x/y.wav"):
        write_audio(tmp_path / name, silence)
    (tmp_path / "a" / "notes.txt").write_text("text")
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == sorted(seen)
