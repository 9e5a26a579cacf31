"""Judged sounds as a listener's windows: what is in them, and what fills them up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec
from flexiast.training.judged_sounds import MOST_WINDOWS, QUIET_SHARE, JudgedSound, cut_windows

BuildFrontend = Callable[..., FrontendSpec]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


@given(
    samples=st.integers(1, 60_000),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    frames=st.integers(2, 120),
)
def test_windows_are_whole_and_hold_the_middle_of_what_they_are_cut_around(
    build_frontend_spec: BuildFrontend, samples: int, edges: tuple[float, float], frames: int
) -> None:
    frontend = Frontend(build_frontend_spec(frames, mel_bins=32))
    first, last = sorted(round(edge * samples) for edge in edges)
    judged = JudgedSound(noise(samples), slice(first, last), None)
    windows = cut_windows(judged, frontend, np.random.default_rng(0))
    assert windows.shape[1:] == (frames, 32)
    assert 1 <= len(windows) <= min(MOST_WINDOWS, 1 + (last - first) // 8_000)
    own = {row.tobytes() for row in frontend.log_mel(np.pad(judged.waveform, (0, max(0, 400 - samples))))}
    assert all(row.tobytes() in own for row in windows.reshape(-1, 32))  # nothing is made up


def test_a_window_within_the_clip_is_the_clips_own(build_frontend_spec: BuildFrontend) -> None:
    frontend = Frontend(build_frontend_spec(50, mel_bins=32))
    waveform = noise(32_000)
    (window,) = cut_windows(JudgedSound(waveform, slice(16_000, 16_160), None), frontend, np.random.default_rng(0))
    log_mel = frontend.log_mel(waveform)
    starts = [start for start in range(len(log_mel) - 49) if np.array_equal(log_mel[start : start + 50], window)]
    assert starts == [100 - 25]  # the sound's first frame stands in the middle


def test_what_is_missing_sounds_like_the_room(build_frontend_spec: BuildFrontend) -> None:
    """A tone with little around it: the frames that fill the window up are those without the tone."""
    frontend = Frontend(build_frontend_spec(300, mel_bins=32))
    waveform = 0.01 * noise(16_000)
    waveform[4_800:11_200] += np.sin(np.arange(6_400)).astype(np.float32)
    windows = cut_windows(JudgedSound(waveform, slice(4_800, 11_200), "tone"), frontend, np.random.default_rng(0))
    levels, own = windows.mean(axis=2), frontend.log_mel(waveform).mean(axis=1)
    quiet = np.quantile(own, QUIET_SHARE)
    loud = (levels > quiet + 1).sum(axis=1)
    assert (loud <= 45).all()  # 40 frames of tone and those that touch it, of 300
    assert (loud >= 30).all()


def test_the_same_seed_cuts_the_same_windows(build_frontend_spec: BuildFrontend) -> None:
    frontend = Frontend(build_frontend_spec(98, mel_bins=32))
    judged = JudgedSound(noise(9_000), slice(3_000, 8_000), None)
    one, other, third = (cut_windows(judged, frontend, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


@pytest.mark.parametrize("seconds", [1, 40])
def test_a_long_sound_is_cut_all_over(build_frontend_spec: BuildFrontend, seconds: int) -> None:
    frontend = Frontend(build_frontend_spec(98, mel_bins=32))
    samples = 16_000 * seconds
    windows = cut_windows(JudgedSound(noise(samples), slice(0, samples), None), frontend, np.random.default_rng(0))
    assert len(windows) == min(MOST_WINDOWS, 1 + 2 * seconds - (seconds == 1))
