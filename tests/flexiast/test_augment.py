"""Augmentations: pure, within their stated limits, and never more than they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.augment import GAIN_DB, MASK_SHARE, SHIFT, SPEED, mixup, random_window, spec_augment

Float = NDArray[np.float32]

WINDOW = 4_000
REACH = int(SHIFT * WINDOW)
SEEDS = st.integers(0, 2**32)

# ----- random windows


@given(st.integers(int(REACH * (1 + 2 * SPEED)), 4 * WINDOW), SEEDS)
def test_a_clip_of_any_length_fills_part_of_one_window(length: int, seed: int) -> None:
    waveform = np.ones(length, np.float32)
    window = random_window(waveform, WINDOW, np.random.default_rng(seed))
    assert (window.shape, window.dtype) == ((WINDOW,), np.float32)
    assert np.isfinite(window).all()
    assert window.any()  # a labelled clip never becomes silence
    again = random_window(waveform, WINDOW, np.random.default_rng(seed))
    assert np.array_equal(window, again)
    assert np.array_equal(waveform, np.ones(length, np.float32))  # the data set is not touched


def test_a_clip_shorter_than_the_shift_fills_part_of_one_window() -> None:
    for seed in range(200):
        assert random_window(np.ones(REACH // 2, np.float32), WINDOW, np.random.default_rng(seed)).any()


@given(SEEDS)
def test_a_window_holds_at_least_what_the_shift_leaves(seed: int) -> None:
    window = random_window(np.ones(WINDOW, np.float32), WINDOW, np.random.default_rng(seed))
    # of a clip as long as the window: the shift's share is lost at one end, and the fastest speed's
    assert np.count_nonzero(window) >= WINDOW * (1 - SHIFT - SPEED) - 1


@given(SEEDS)
def test_speed_changes_pitch_within_its_limits(make_tone: Callable[..., Float], seed: int) -> None:
    window = random_window(make_tone(1_000, seconds=1.0), 8_000, np.random.default_rng(seed))
    heard = np.fft.rfftfreq(8_000, 1 / 16_000)[np.abs(np.fft.rfft(window)).argmax()]
    bin_hz = 2
    assert 1_000 * (1 - SPEED) - bin_hz <= heard <= 1_000 * (1 + SPEED) + bin_hz


@given(SEEDS)
def test_gain_stays_within_its_limits(seed: int) -> None:
    window = random_window(np.full(WINDOW, 0.1, np.float32), WINDOW, np.random.default_rng(seed))
    level_db = 20 * np.log10(np.median(window[window != 0]) / 0.1)  # the median leaves out the resampler's ripple
    assert abs(level_db) <= GAIN_DB + 0.1


def test_windows_differ_from_draw_to_draw(make_tone: Callable[..., Float]) -> None:
    rng = np.random.default_rng(0)
    drawn = {random_window(make_tone(1_000), WINDOW, rng).tobytes() for _ in range(10)}
    assert len(drawn) == 10


# ----- mixup


@given(st.integers(1, 16), st.floats(0.05, 5.0), SEEDS)
def test_a_mixed_clip_is_at_least_half_itself_and_its_target_too(clips: int, alpha: float, seed: int) -> None:
    identity = np.eye(clips, dtype=np.float32)
    waveforms, targets = mixup(identity, identity, np.random.default_rng(seed), alpha)
    assert np.array_equal(waveforms, targets)  # the same shares of the same clips
    assert (np.diag(waveforms) >= 0.5).all()
    assert (waveforms >= 0).all()
    np.testing.assert_allclose(waveforms.sum(axis=1), 1, atol=1e-6)  # float32
    assert (np.count_nonzero(waveforms, axis=1) <= 2).all()


def test_clips_are_mixed_with_others() -> None:
    identity = np.eye(32, dtype=np.float32)
    waveforms, _ = mixup(identity, identity, np.random.default_rng(0), 0.4)
    assert np.count_nonzero(waveforms.sum(axis=0) != 1) > 16


# ----- masks

FLOOR = -1.25


def masked_bands(masked: torch.Tensor) -> tuple[list[int], list[int]]:
    """Frames and mel bins that are floor throughout, of one clip [frames, mels]."""
    floor = masked == FLOOR
    return floor.all(dim=1).nonzero().flatten().tolist(), floor.all(dim=0).nonzero().flatten().tolist()


@given(st.integers(10, 120), st.integers(10, 128), st.integers(0, 2**31))
def test_masks_are_one_band_of_frames_and_one_of_bins_and_all_else_is_kept(frames: int, mels: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = torch.rand(4, frames, mels)  # above the floor everywhere
    before = features.clone()
    masked = spec_augment(features, FLOOR)
    assert masked.shape == features.shape
    assert torch.equal(features, before)
    for clip, original in zip(masked, features, strict=True):
        for band, size in zip(masked_bands(clip), (frames, mels), strict=True):
            assert len(band) <= int(MASK_SHARE * size)
            assert (np.diff(band) == 1).all()
        in_frames, in_mels = masked_bands(clip)
        kept = torch.ones(frames, mels, dtype=torch.bool)
        kept[in_frames, :] = False
        kept[:, in_mels] = False
        assert torch.equal(clip[kept], original[kept])


def test_clips_of_a_batch_have_masks_of_their_own() -> None:
    torch.manual_seed(0)
    masked = spec_augment(torch.rand(8, 98, 128), FLOOR)
    frames, mels = zip(*(masked_bands(clip) for clip in masked), strict=True)
    assert len(set(map(tuple, frames))) > 6  # two of eight may meet by chance
    assert len(set(map(tuple, mels))) > 6


def test_masks_are_drawn_from_torchs_generator() -> None:
    features = torch.rand(4, 98, 128)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(spec_augment(features, FLOOR))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
