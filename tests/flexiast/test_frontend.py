"""Log-mel features, against torchaudio's Kaldi filter bank; streaming against offline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import signal

from flexiast.evaluation.evaluate import Windows
from flexiast.extras import require
from flexiast.frontend import FeatureStream, Frontend
from flexiast.spec import LOG_FLOOR, FrontendSpec
from flexiast_runtime.detection.framer import Framer

Float = NDArray[np.float32]
FrontendSpecs = Callable[..., FrontendSpec]

DATA_SETS = pytest.mark.parametrize("data_set", ["esc50", "commands", "speakers"])


def kaldi(waveform: Float, spec: FrontendSpec, dtype: torch.dtype) -> NDArray[np.float64]:
    """Log-mel energies of the second implementation, computed in this precision."""
    features = require("torchaudio.compliance.kaldi", "train").fbank(
        torch.from_numpy(waveform).to(dtype)[None],
        htk_compat=True,
        sample_frequency=spec.sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=spec.mel_bins,
        dither=0.0,
        frame_length=1000 * spec.taper_samples / spec.sample_rate_hz,
        frame_shift=1000 * spec.hop_samples / spec.sample_rate_hz,
        low_freq=spec.low_hz,
        high_freq=spec.high_hz,
        preemphasis_coefficient=spec.preemphasis,
    )
    return features.double().numpy()


def noise(samples: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


# ----- Kaldi


@DATA_SETS
def test_features_of_real_audio_are_kaldis(
    data_set: str, real_waveforms: Callable[[str, int], list[Float]], build_frontend_spec: FrontendSpecs
) -> None:
    frontend = Frontend(build_frontend_spec())
    for waveform in real_waveforms(data_set, 20):
        expected = kaldi(waveform, frontend.spec, torch.float64)
        # filters and powers are float32: a quiet bin may differ by some of its last digits
        np.testing.assert_allclose(frontend.log_mel(waveform), expected, rtol=0, atol=1e-3)


@DATA_SETS
def test_features_of_real_audio_are_kaldis_in_single_precision(
    data_set: str, real_waveforms: Callable[[str, int], list[Float]], build_frontend_spec: FrontendSpecs
) -> None:
    frontend = Frontend(build_frontend_spec())
    for waveform in real_waveforms(data_set, 20):
        error = np.abs(frontend.log_mel(waveform) - kaldi(waveform, frontend.spec, torch.float32))
        # the median only: torchaudio's float32 itself strays by up to 9e-3 nat in quiet bins beside loud ones
        assert np.median(error) < 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {"mel_bins": 40, "low_hz": 60.0, "high_hz": 7_600.0},
        {"sample_rate_hz": 8_000, "taper_samples": 200, "hop_samples": 80, "high_hz": 4_000.0, "mel_bins": 64},
        {"sample_rate_hz": 32_000, "taper_samples": 1_024, "hop_samples": 320, "high_hz": 14_000.0, "preemphasis": 0.0},
    ],
    ids=["fewer bins", "8 kHz", "32 kHz"],
)
def test_other_front_ends_are_kaldis_too(fields: dict[str, float], build_frontend_spec: FrontendSpecs) -> None:
    frontend = Frontend(build_frontend_spec(**fields))
    waveform = noise(frontend.spec.window_samples)
    expected = kaldi(waveform, frontend.spec, torch.float64)
    np.testing.assert_allclose(frontend.log_mel(waveform), expected, rtol=0, atol=1e-3)  # as on real audio


def test_features_are_normalised_as_in_ast(build_frontend_spec: FrontendSpecs) -> None:
    frontend = Frontend(build_frontend_spec(mean=-4.27, std=4.57))
    waveform = noise(3_000)
    expected = (frontend.log_mel(waveform).astype(np.float64) + 4.27) / (2 * 4.57)
    np.testing.assert_allclose(frontend(waveform), expected, atol=1e-6)  # one float32 rounding of values under 4


# ----- silence, offsets and lengths


def test_silence_is_the_floor(build_frontend_spec: FrontendSpecs) -> None:
    frontend = Frontend(build_frontend_spec())
    silence = np.zeros(frontend.spec.window_samples, np.float32)
    assert (frontend(silence) == np.float32(frontend.floor)).all()
    expected = (np.log(LOG_FLOOR) - frontend.spec.mean) / (2 * frontend.spec.std)
    assert frontend.floor == pytest.approx(expected, abs=1e-6)  # float32


@given(st.integers(0, 20_000))
def test_a_short_waveform_is_padded_with_the_floor_at_its_end(build_frontend_spec: FrontendSpecs, samples: int) -> None:
    frontend = Frontend(build_frontend_spec())
    waveform = noise(samples)
    window = frontend.window(waveform)
    whole = min(frontend.spec.frames_in(samples), 98)
    assert window.shape == (98, 128)
    # the same frames in chunks of other sizes: float32 products may sum in another order
    np.testing.assert_allclose(window[:whole], frontend(waveform)[:whole], atol=1e-5)
    assert (window[whole:] == np.float32(frontend.floor)).all()


@given(st.floats(-0.5, 0.5))
def test_an_offset_does_not_matter(build_frontend_spec: FrontendSpecs, offset: float) -> None:
    frontend = Frontend(build_frontend_spec())
    waveform = noise(4_000)
    shifted = frontend.log_mel(waveform + np.float32(offset))
    # adding the offset rounds the samples themselves, by 3e-8 of 0.1
    np.testing.assert_allclose(shifted, frontend.log_mel(waveform), rtol=0, atol=1e-3)


def test_a_louder_waveform_is_shifted_by_its_gain(build_frontend_spec: FrontendSpecs) -> None:
    frontend = Frontend(build_frontend_spec())
    waveform = noise(4_000)
    quiet, loud = frontend.log_mel(waveform), frontend.log_mel(2 * waveform)
    heard = quiet > np.log(LOG_FLOOR) + 2  # empty filters stay at the floor
    assert heard.mean() > 0.9
    np.testing.assert_allclose((loud - quiet)[heard], 2 * np.log(2), atol=1e-5)  # float32 logarithms


# ----- streaming


class CountingFrontend(Frontend):
    """Counts the frames that are computed."""

    frames = 0

    def log_mel(self, waveform: Float) -> Float:
        log_mel = super().log_mel(waveform)
        self.frames += len(log_mel)
        return log_mel


def push_in_blocks(frontend: Frontend, waveform: Float, sizes: list[int]) -> Float:
    """Features of a waveform that arrives in blocks of these sizes, and what is left in one more."""
    ends = np.minimum(np.cumsum(sizes), len(waveform)).astype(int)
    stream = FeatureStream(frontend)
    return np.concatenate([stream.push(block) for block in np.split(waveform, ends)])


@given(st.integers(0, 12_000), st.lists(st.integers(0, 3_000), max_size=30))
def test_streaming_in_blocks_of_any_size_is_offline(
    build_frontend_spec: FrontendSpecs, samples: int, sizes: list[int]
) -> None:
    frontend = CountingFrontend(build_frontend_spec())
    waveform = noise(samples)
    streamed = push_in_blocks(frontend, waveform, sizes)
    assert frontend.frames == frontend.spec.frames_in(samples)  # each frame once: a step costs its own frames only
    # frames are the same; only float32 products may sum in another order
    np.testing.assert_allclose(streamed, frontend(waveform), rtol=0, atol=1e-5)


def test_a_step_computes_its_own_frames_only(build_frontend_spec: FrontendSpecs) -> None:
    frontend = CountingFrontend(build_frontend_spec())
    stream, step = FeatureStream(frontend), 4_000
    stream.push(noise(16_000))
    for _ in range(5):
        before = frontend.frames
        stream.push(noise(step))
        assert frontend.frames - before == step // 160


def test_frames_that_leave_gaps_are_refused(build_frontend_spec: FrontendSpecs) -> None:
    with pytest.raises(ValidationError, match="gaps"):
        build_frontend_spec(taper_samples=64, hop_samples=100, mel_bins=8)


def test_a_reset_stream_starts_anew(build_frontend_spec: FrontendSpecs) -> None:
    frontend = Frontend(build_frontend_spec())
    stream = FeatureStream(frontend)
    stream.push(noise(700, seed=1))
    stream.reset()
    assert np.array_equal(stream.push(noise(2_000)), frontend(noise(2_000)))


# ----- windows of a clip


@given(st.integers(0, 400))
def test_windows_hold_every_frame_once(build_frontend_spec: FrontendSpecs, frames: int) -> None:
    spec = build_frontend_spec()
    held = spec.windows_in(240 + 160 * frames)
    assert sum(held) == frames
    assert all(real == 98 for real in held[:-1])
    assert len(held) == max(1, -(-frames // 98))


# ----- bin means


@pytest.fixture(scope="session")
def removing(build_frontend_spec: FrontendSpecs) -> Frontend:
    return Frontend(build_frontend_spec(remove_bin_means=True))


@pytest.fixture(scope="session")
def keeping(build_frontend_spec: FrontendSpecs) -> Frontend:
    return Frontend(build_frontend_spec())


@given(st.integers(0, 98), st.integers(0, 98))
def test_bin_means_are_removed_where_there_is_sound(removing: Frontend, one: int, other: int) -> None:
    features = np.random.default_rng(0).normal(loc=1.0, size=(98, 128)).astype(np.float32)
    before = features.copy()
    start, stop = sorted((one, other))
    finished = removing.finish(features, slice(start, stop))
    assert np.array_equal(features, before)
    if start == stop:
        assert np.array_equal(finished, features)  # nothing sounds: nothing is known of a mean
        return
    expected = signal.detrend(features[start:stop].astype(np.float64), axis=0, type="constant")
    np.testing.assert_allclose(finished[start:stop], expected, rtol=0, atol=1e-5)  # a float32 sum of values under 5
    outside = np.delete(finished, np.arange(start, stop), axis=0)
    assert (outside == np.float32(removing.floor)).all()


@given(st.integers(0, 98), st.integers(0, 98))
def test_bin_means_stay_unless_the_spec_removes_them(keeping: Frontend, one: int, other: int) -> None:
    features = np.random.default_rng(0).normal(size=(98, 128)).astype(np.float32)
    assert np.array_equal(keeping.finish(features, slice(*sorted((one, other)))), features)


@given(st.integers(400, 30_000))
def test_windows_with_their_bin_means_removed_are_detrended(
    removing: Frontend, keeping: Frontend, samples: int
) -> None:
    waveform = noise(samples)
    real_frames, (cut, whole) = (
        removing.spec.windows_in(samples),
        (Windows([waveform], each) for each in (removing, keeping)),
    )
    for found, plain, real in zip(cut[:], whole[:], real_frames, strict=True):
        expected = signal.detrend(plain[:real].astype(np.float64), axis=0, type="constant")
        np.testing.assert_allclose(found[:real], expected, rtol=0, atol=1e-5)  # as above
        assert (found[real:] == np.float32(removing.floor)).all()


@given(st.integers(400, 40_000), st.lists(st.integers(0, 9_000), max_size=6))
def test_the_window_the_windows_and_the_framer_remove_the_same_means(
    removing: Frontend, samples: int, sizes: list[int]
) -> None:
    waveform, spec = noise(samples), removing.spec
    framer = Framer(removing, spec.window_frames * spec.hop_samples)  # window after window, as `Windows` cuts them
    blocks = np.split(waveform, np.minimum(np.cumsum(sizes, dtype=int), samples))
    live = [window.features for block in blocks for window in framer.push(block)]
    live += [window.features for window in framer.flush()]
    offline = Windows([waveform], removing)[:]
    # frames in chunks of other sizes sum in another order, and so do their means
    np.testing.assert_allclose(live, offline, rtol=0, atol=1e-5)
    np.testing.assert_allclose(removing.window(waveform), offline[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(removing.pad(removing(waveform)[:98]), offline[0], rtol=0, atol=1e-5)


@given(st.floats(-20, 20))
def test_without_bin_means_a_channel_does_not_matter(removing: Frontend, gain_db: float) -> None:
    waveform = noise(removing.spec.window_samples)
    found = removing.window(np.float32(10 ** (gain_db / 20)) * waveform)
    heard = removing.log_mel(waveform).min(axis=0) > np.log(LOG_FLOOR) + 6  # 20 dB softer, it is still above the floor
    assert heard.mean() > 0.8
    np.testing.assert_allclose(found[:, heard], removing.window(waveform)[:, heard], rtol=0, atol=1e-4)  # float32
