"""Augmentations: within their limits, and what the same change of the waveform does to its log-mel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec
from flexiast.training.augment import (
    DECAY_S,
    FILTER_KNOTS,
    LONG,
    NAT_PER_DB,
    SILENCE,
    Loudness,
    Noise,
    audible_part,
    cut_audible,
    echo,
    equalise,
    gain,
    half,
    level,
    mask,
    mix,
    mix_log_mel,
    place,
    place_audible,
    scale_to_snr,
)

Float = NDArray[np.float32]

MELS = 24
SEEDS = st.integers(0, 2**32)


def sound(frames: int, seed: int = 0) -> Float:
    """Log-mel of no real sound, well above silence."""
    return np.random.default_rng(seed).normal(size=(frames, MELS)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


@pytest.fixture(scope="session")
def frontend(build_frontend_spec: Callable[..., FrontendSpec]) -> Frontend:
    """64 mel bins: none is so narrow that no FFT bin falls into it."""
    return Frontend(build_frontend_spec(mel_bins=64))


# ----- place


@given(st.integers(1, 300), st.integers(1, 120), st.floats(0, 1), SEEDS)
@example(300, 98, 1.0, 0)
@example(1, 98, 1.0, 0)
def test_a_clip_of_any_length_stands_in_the_window_with_silence_around_it(
    length: int, frames: int, shift: float, seed: int
) -> None:
    clip = sound(length)
    before = clip.copy()
    window, real = place(clip, frames, shift, np.random.default_rng(seed))
    assert (window.shape, window.dtype) == ((frames, MELS), np.float32)
    outside = np.ones(frames, bool)
    outside[real] = False
    assert (window[outside] == SILENCE).all()
    held = window[real]
    starts = [start for start in range(length - len(held) + 1) if np.array_equal(clip[start : start + len(held)], held)]
    assert len(starts) == 1  # an unbroken part of the clip
    assert real.start == 0 or starts == [0]  # of which the window cuts off only what stands over its ends
    assert real.stop == frames or starts == [length - len(held)]
    assert np.array_equal(clip, before)


@given(st.integers(1, 300), st.integers(1, 120), st.floats(0, 1), SEEDS)
def test_no_more_of_a_clip_is_lost_than_the_shift_says_and_never_more_than_half(
    length: int, frames: int, shift: float, seed: int
) -> None:
    _, real = place(sound(length), frames, shift, np.random.default_rng(seed))
    whole = min(length, frames)
    assert real.stop - real.start >= whole - min(int(shift * frames), whole // 2)


@pytest.mark.parametrize("length", [30, 98, 300])
def test_every_place_within_reach_is_taken(length: int) -> None:
    frames, reach = 98, 14  # 0.15 of 98 frames; a clip of 30 may lose 14 of its own 15
    found = set()
    for seed in range(3_000):
        clip = np.arange(length, dtype=np.float32)[:, None].repeat(MELS, axis=1)
        window, real = place(clip, frames, 0.15, np.random.default_rng(seed))
        found.add(real.start - int(window[real.start, 0]))  # where the clip begins, in frames of the window
    slack = frames - length
    assert found == set(range(min(slack, 0) - reach, max(slack, 0) + reach + 1))


# ----- gain


@given(st.floats(0, 40), SEEDS)
def test_gain_stays_within_its_limits_and_is_one_number(limit_db: float, seed: int) -> None:
    log_mel = sound(10)
    shifts = gain(log_mel, limit_db, np.random.default_rng(seed)) - log_mel
    assert np.ptp(shifts) < 1e-5  # float32 at values under 16
    assert abs(shifts.mean()) <= limit_db * math.log(10) / 10 + 1e-5


def test_gains_reach_both_limits() -> None:
    zeros = np.zeros((1, MELS), np.float32)
    shifts = [float(gain(zeros, 8.0, np.random.default_rng(seed))[0, 0]) / NAT_PER_DB for seed in range(300)]
    # the extremes of 300 uniform draws lie within a twentieth of the ends, but for one seed in 10,000
    assert min(shifts) < -7.6
    assert max(shifts) > 7.6


@given(SEEDS)
def test_a_gain_is_that_of_the_waveform(frontend: Frontend, seed: int) -> None:
    waveform = noise(4_000)
    log_mel = frontend.log_mel(waveform)
    changed = gain(log_mel, 8.0, np.random.default_rng(seed))
    factor = math.exp(float(np.median(changed - log_mel)) / 2)
    # samples are float32 in [-1, 1]: a louder waveform is rounded elsewhere, and float32 logarithms too
    np.testing.assert_allclose(changed, frontend.log_mel(np.float32(factor) * waveform), rtol=0, atol=1e-4)


@given(st.sampled_from([gain, equalise]), SEEDS)
def test_nothing_sinks_below_silence(change: Callable[[Float, float, np.random.Generator], Float], seed: int) -> None:
    quiet = np.full((4, MELS), SILENCE, np.float32) + np.float32(0.5)
    assert (change(quiet, 40.0, np.random.default_rng(seed)) >= SILENCE).all()


# ----- filters


@given(st.floats(0, 40), SEEDS)
def test_a_filter_stays_within_its_limits_and_is_the_same_in_every_frame(limit_db: float, seed: int) -> None:
    log_mel = sound(10)
    response = equalise(log_mel, limit_db, np.random.default_rng(seed)) - log_mel
    assert np.ptp(response, axis=0).max() < 1e-5  # float32
    assert np.abs(response).max() <= limit_db * math.log(10) / 10 + 1e-5


@given(SEEDS)
def test_a_filter_is_a_polygon_of_few_corners(seed: int) -> None:
    response = equalise(np.zeros((1, 128), np.float32), 6.0, np.random.default_rng(seed))[0]
    bends = np.abs(np.diff(response, 2)) > 1e-5  # float32
    # a corner between two bins bends the line at both of them
    assert bends.sum() <= 2 * (FILTER_KNOTS - 2)
    assert np.ptp(response) > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_filter_is_that_of_the_waveform(frontend: Frontend, seed: int) -> None:
    spec, waveform = frontend.spec, noise(320_000)
    log_mel = frontend.log_mel(waveform)
    changed = equalise(log_mel, 6.0, np.random.default_rng(seed))
    response = (changed - log_mel)[0]
    edges = 1127 * np.log1p(np.array([spec.low_hz, spec.high_hz]) / 700)  # Kaldi's mel scale
    centres = 700 * np.expm1(np.linspace(*edges, spec.mel_bins + 2)[1:-1] / 1127)
    amplitudes = np.exp(response / 2)
    taps = signal.firwin2(
        1_025, [0, *centres, 8_000], [amplitudes[0], *amplitudes, amplitudes[-1]], fs=spec.sample_rate_hz
    )
    filtered = frontend.log_mel(signal.fftconvolve(waveform, taps, mode="same").astype(np.float32))
    # The energy of 2,000 frames of noise is known to 3 % (0.03 nat) in a bin; at the corners of the polygon a mel
    # filter averages over its width, across which 12 dB between neighbouring corners may change by tenths of a nat.
    error = np.abs(np.mean(filtered - changed, axis=0))
    assert error.max() < 0.3
    assert error.mean() < 0.03


# ----- mixing


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_mixing_adds_the_energies_of_unrelated_waveforms(frontend: Frontend, share: float) -> None:
    one, other = noise(320_000, 1), noise(320_000, 2)
    mixed = mix(frontend.log_mel(one), frontend.log_mel(other), share)
    summed = frontend.log_mel((share * one + (1 - share) * other).astype(np.float32))
    ratios = np.exp(mixed).mean(axis=0, dtype=np.float64) / np.exp(summed).mean(axis=0, dtype=np.float64)
    # The cross term of two noises in a filter of one FFT bin has at most 0.71 of their energy as its deviation; over
    # 1,000 frames that do not overlap it averages to 0.022: five deviations for the worst of the bins.
    assert np.abs(ratios - 1).max() < 0.11
    assert abs(ratios.mean() - 1) < 0.01  # 64 bins: an eighth of 0.022, thrice


def test_a_sound_mixed_with_silence_is_softer_by_its_share(frontend: Frontend) -> None:
    waveform = noise(4_000)
    log_mel, silence = frontend.log_mel(waveform), frontend.log_mel(np.zeros(4_000, np.float32))
    for share in (0.5, 0.8, 1.0):
        expected = frontend.log_mel(np.float32(share) * waveform)
        # float32, and silence is not nothing: 1e-7 beside energies above 1e-3
        np.testing.assert_allclose(mix(log_mel, silence, share), expected, rtol=0, atol=1e-3)


@given(st.floats(0.5, 1))
def test_silence_mixed_with_silence_is_silence(share: float) -> None:
    silence = np.full((4, MELS), SILENCE, np.float32)
    assert np.array_equal(mix(silence, silence, share), silence)


@given(st.floats(0.5, 1), SEEDS)
def test_mixing_is_loudest_of_both_and_at_most_their_sum(share: float, seed: int) -> None:
    one, other = sound(5, seed), sound(5, seed + 1)
    mixed = mix(one, other, share)
    assert mixed.dtype == np.float32
    energies = share**2 * np.exp(one.astype(np.float64)) + (1 - share) ** 2 * np.exp(other.astype(np.float64))
    np.testing.assert_allclose(mixed, np.log(energies), rtol=0, atol=1e-5)  # float32 logarithms


@given(SEEDS, st.sampled_from([0.0, 1e-3, 20.0, np.inf]))
def test_energies_of_two_sounds_are_added(seed: int, apart: float) -> None:
    one = sound(5, seed)
    other = sound(5, seed + 1) - np.float32(apart)  # down to nothing, which an empty filter holds
    expected = np.logaddexp(one.astype(np.float64), other.astype(np.float64))
    np.testing.assert_allclose(mix_log_mel(one, other), expected, rtol=0, atol=4e-6)  # float32 of values up to 20
    assert np.array_equal(mix_log_mel(one, other), mix_log_mel(other, one))


# ----- masks

FLOOR = -1.25


def bands(masked: Float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Frames and mel bins that are floor throughout."""
    floor = masked == np.float32(FLOOR)
    return np.flatnonzero(floor.all(axis=1)), np.flatnonzero(floor.all(axis=0))


@given(st.integers(2, 120), st.integers(2, 128), st.integers(0, 3), st.floats(0, 1), SEEDS)
def test_masks_are_so_many_bands_of_frames_and_of_bins_and_all_else_is_kept(
    frames: int, mels: int, masks: int, widest: float, seed: int
) -> None:
    features = np.random.default_rng(0).random((frames, mels), np.float32)  # above the floor everywhere
    before = features.copy()
    masked = mask(features, masks, widest, FLOOR, np.random.default_rng(seed))
    assert np.array_equal(features, before)
    in_frames, in_mels = bands(masked)
    kept = np.ones((frames, mels), bool)
    kept[in_frames, :] = False
    kept[:, in_mels] = False
    assert np.array_equal(masked[kept], features[kept])
    assert (masked[~kept] == np.float32(FLOOR)).all()
    if len(in_frames) == frames or len(in_mels) == mels:
        return  # all is masked: the bands of the other axis cannot be told
    for band, size in ((in_frames, frames), (in_mels, mels)):
        assert len(band) <= masks * int(widest * size)
        assert np.count_nonzero(np.diff(band) > 1) < max(1, masks)


def test_masks_have_all_widths_up_to_the_widest_and_lie_anywhere() -> None:
    features = np.ones((50, 40), np.float32)
    drawn = [bands(mask(features, 1, 0.2, FLOOR, np.random.default_rng(seed))) for seed in range(1_000)]
    for found, size in zip(zip(*drawn, strict=True), (50, 40), strict=True):
        assert {len(band) for band in found} == set(range(int(0.2 * size) + 1))
        assert {place for band in found for place in band} == set(range(size))


# ----- all of them

CHANGES: list[Callable[[Float, np.random.Generator], Float]] = [
    lambda x, rng: place(x, 50, 0.15, rng)[0],
    lambda x, rng: gain(x, 8.0, rng),
    lambda x, rng: equalise(x, 6.0, rng),
    lambda x, rng: mask(x, 1, 0.2, FLOOR, rng),
]


@pytest.mark.parametrize("change", CHANGES, ids=["place", "gain", "equalise", "mask"])
def test_a_change_is_a_function_of_its_input_and_the_generator(
    change: Callable[[Float, np.random.Generator], Float],
) -> None:
    log_mel = sound(40)
    before = log_mel.copy()
    drawn = [change(log_mel, np.random.default_rng(seed)).tobytes() for seed in (*range(10), *range(10))]
    assert drawn[:10] == drawn[10:]
    assert len(set(drawn)) > 5  # some of ten may meet by chance among twenty places
    assert np.array_equal(log_mel, before)


# ----- noise


def coloured(samples: int, tilt_db: float, rate_hz: int) -> Float:
    """Noise whose power falls or rises by so many dB in each octave, from the waveform's spectrum."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(samples))
    hz = np.maximum(np.fft.rfftfreq(samples, 1 / rate_hz), 20)
    return np.fft.irfft(spectrum * (hz / 1_000) ** (tilt_db / (20 * math.log10(2))), samples).astype(np.float32)


@pytest.mark.parametrize("tilt_db", [-9.0, -3.0, 0.0, 3.0])
def test_noise_has_the_log_mel_of_a_waveform_of_its_colour(
    frontend: Frontend, monkeypatch: pytest.MonkeyPatch, tilt_db: float
) -> None:
    monkeypatch.setattr("flexiast.training.augment.TILTS_DB", (tilt_db, tilt_db))
    found = Noise(frontend, 0)(3_000, 0.0, np.random.default_rng(0))
    expected = frontend.log_mel(coloured(3_000 * 160, tilt_db, 16_000))
    difference = found.mean(axis=0) - expected.mean(axis=0)
    # Above the bins that share an FFT bin with their neighbours; the dark noise leaks 9 dB an octave through the taper.
    assert np.abs(difference[8:] - difference[8:].mean()).max() < 0.3
    np.testing.assert_allclose(found.std(axis=0)[8:], expected.std(axis=0)[8:], atol=0.1)


def test_no_two_noises_are_alike_but_those_of_one_generator(frontend: Frontend) -> None:
    make = Noise(frontend, 0)
    one, again, other = (make(50, 6.0, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@given(SEEDS, st.floats(-10, 60))
def test_noise_stands_at_its_distance_from_the_sound(seed: int, snr_db: float) -> None:
    loud, hiss = 8 + sound(30, seed), sound(98, seed + 1)  # so loud that nothing reaches the floor
    energies = [
        float(np.exp(each.astype(np.float64)).sum(axis=1).mean()) for each in (loud, scale_to_snr(hiss, snr_db, loud))
    ]
    assert 10 * math.log10(energies[0] / energies[1]) == pytest.approx(snr_db, abs=1e-3)  # float32
    assert level(loud) == pytest.approx(math.log(energies[0]), abs=1e-4)


@pytest.mark.parametrize("mels", [64, 128])
def test_filters_that_nothing_fills_stay_empty(build_frontend_spec: Callable[..., FrontendSpec], mels: int) -> None:
    frontend = Frontend(build_frontend_spec(mel_bins=mels))
    empty = (frontend.log_mel(noise(16_000)) == SILENCE).all(axis=0)
    assert empty.any() == (mels == 128)
    found = Noise(frontend, 0)(50, 6.0, np.random.default_rng(0))
    assert np.array_equal(np.isneginf(found), np.broadcast_to(empty, found.shape))


# ----- level, place and room, for runs with a background


@pytest.mark.parametrize("dbfs", [-50.0, -23.0, -3.0])
@pytest.mark.parametrize("tilt_db", [-3.0, 0.0])
def test_loudness_is_that_of_the_waveform(
    build_frontend_spec: Callable[..., FrontendSpec], dbfs: float, tilt_db: float
) -> None:
    frontend = Frontend(build_frontend_spec())
    waveform = coloured(32_000, tilt_db, 16_000)
    waveform = (waveform / np.sqrt((waveform**2).mean()) * 10 ** (dbfs / 20)).astype(np.float32)
    # a mel bin is undone of its pre-emphasis at its centre, and what lies under 20 Hz is not seen
    assert Loudness(frontend).dbfs(frontend.log_mel(waveform)) == pytest.approx(dbfs, abs=1.0)


@given(st.floats(-50, -10), SEEDS)
def test_a_level_is_set_and_silence_stays_silent(frontend: Frontend, dbfs: float, seed: int) -> None:
    loudness, log_mel = Loudness(frontend), frontend.log_mel(noise(16_000, seed % 1_000))
    log_mel[:10], log_mel[:, 3] = SILENCE, SILENCE
    found = loudness.set(log_mel, dbfs)
    assert (found[:10] == SILENCE).all()
    assert (found[:, 3] == SILENCE).all()
    assert loudness.dbfs(found) == pytest.approx(dbfs, abs=0.05)  # bins at -50 dBFS may end at the floor


@pytest.mark.parametrize(
    ("first", "last", "length"), [(0, 20, 20), (30, 50, 98), (70, 98, 98), (5, 300, 310), (0, 1, 1)]
)
def test_what_is_audible_stands_anywhere_inside_the_window(first: int, last: int, length: int) -> None:
    clip = np.full((length, MELS), SILENCE, np.float32)
    clip[first:last] = sound(last - first)
    assert audible_part(clip) == slice(first, last)
    starts = set()
    for seed in range(400):
        window, real = place_audible(clip, 98, np.random.default_rng(seed))
        assert window.shape == (98, MELS)
        heard = np.flatnonzero((window > SILENCE).any(axis=1))
        assert len(heard) == min(98, last - first)
        assert real.start <= heard[0] <= heard[-1] < real.stop
        starts.add(int(heard[0]))
    if last - first < 98:
        assert {0, 98 - (last - first)} <= starts  # to both edges


@given(SEEDS)
def test_half_of_a_clip_is_its_beginning_or_its_end(seed: int) -> None:
    clip = np.full((80, MELS), SILENCE, np.float32)
    clip[20:60] = sound(40)
    found = half(clip, np.random.default_rng(seed))
    heard = found[(found > SILENCE).any(axis=1)]
    assert 14 <= len(heard) <= 20
    assert np.array_equal(heard, clip[20 : 20 + len(heard)]) or np.array_equal(heard, clip[60 - len(heard) : 60])


@given(SEEDS)
def test_an_echo_decays_as_its_room_does(seed: int) -> None:
    """Behind one loud frame energy falls by 60 dB in the room's time, and none comes before it."""
    clip = np.full((98, MELS), SILENCE, np.float32)
    clip[10] = 10.0
    found = echo(clip, 0.01, np.random.default_rng(seed))
    np.testing.assert_allclose(found[:11], clip[:11], atol=1e-5)  # float32
    fall_db = (found[11, 0] - found[30, 0]) / NAT_PER_DB
    decay_s = 60 * 0.19 / fall_db
    assert DECAY_S[0] - 1e-3 <= decay_s <= DECAY_S[1] + 1e-3
    assert (np.diff(found[11:40, 0]) < 0).all()


def test_an_echo_is_the_sum_over_all_frames_before() -> None:
    """By a loop over frames, as the definition says."""
    clip, hop_s = sound(40), 0.01
    found = echo(clip, hop_s, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    kept = 10.0 ** (-6 * hop_s / (rng.uniform(*DECAY_S) * np.linspace(1, 0.5, MELS)))
    direct = 10 ** (-rng.uniform(0, 15) / 10)
    energy, tail = np.exp(clip.astype(np.float64)), np.zeros(MELS)
    for frame, expected in enumerate(energy):
        wet = (1 - kept) * tail * direct
        np.testing.assert_allclose(found[frame], np.log(expected + wet), atol=1e-3)  # 30 dB down the sum ends
        tail = kept * (tail + expected)


@given(st.integers(0, 400), st.integers(1, 40), st.integers(10, 60), st.integers(0, 100))
def test_a_long_clip_is_cut_where_something_sounds(first: int, length: int, frames: int, seed: int) -> None:
    clip = np.full((450, 4), -12.0, np.float32)  # a room
    clip[first : first + length, 1] = -1.0  # 48 dB above it
    cut = cut_audible(clip, frames, np.random.default_rng(seed))
    assert cut.shape == (frames, 4)
    assert cut.max() == -1.0


@given(st.integers(1, 75), st.integers(0, 100))
def test_a_clip_of_one_window_is_not_cut_and_a_steady_one_anywhere(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert LONG * 60 == 75
    clip = rng.normal(size=(length, 4)).astype(np.float32)
    assert cut_audible(clip, 60, rng) is clip
    steady = np.tile(np.arange(600, dtype=np.float32)[:, None] / 600, (1, 4))
    starts = {float(cut_audible(steady, 60, rng)[0, 0]) for _ in range(200)}  # of 0 to 0.9
    assert min(starts) < 0.2
    assert max(starts) > 0.7
