"""Windows, against features of the whole clip cut by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import UsageError
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, Spec
from flexiast_runtime.detection.framer import Framer, Window

Float = NDArray[np.float32]

STEPS = st.sampled_from([160, 800, 1_600, 3_200, 4_800, 6_080])
"""From one hop to all 38 frames of a window."""
CLIPS = st.integers(0, 20_000)
BLOCKS = st.lists(st.integers(0, 5_000), max_size=12)
"""Block lengths; what they leave of the clip comes as a last block."""


@pytest.fixture(scope="module")
def frontend(tiny_spec: Spec) -> Frontend:
    return Frontend(tiny_spec.frontend)


def noise(samples: int) -> Float:
    return np.random.default_rng(samples).normal(scale=0.1, size=samples).astype(np.float32)


def in_blocks(samples: Float, sizes: list[int]) -> list[Float]:
    return np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), len(samples)))


def framed(framer: Framer, samples: Float, sizes: list[int]) -> list[Window]:
    whole = [window for block in in_blocks(samples, sizes) for window in framer.push(block)]
    return whole + list(framer.flush())


def cut_by_hand(frontend: Frontend, samples: Float, step: int) -> list[tuple[int, int, Float]]:
    """(start, end, features) of every window of a clip, until each frame has been in one."""
    spec, frames, windows, seen = frontend.spec, frontend(samples), [], 0
    while seen < len(frames):
        start = len(windows) * step
        rows = frames[start // spec.hop_samples :][: spec.window_frames]
        padding = np.full((spec.window_frames - len(rows), spec.mel_bins), frontend.floor, np.float32)
        windows.append((start, min(start + spec.window_samples, len(samples)), np.concatenate((rows, padding))))
        seen = start // spec.hop_samples + len(rows)
    return windows


@given(CLIPS, BLOCKS, STEPS)
def test_every_frame_is_new_in_one_window(frontend: Frontend, clip: int, sizes: list[int], step: int) -> None:
    windows = framed(Framer(frontend, step), samples := noise(clip), sizes)
    new = np.concatenate([window.new for window in windows]) if windows else np.empty((0, 32), np.float32)
    np.testing.assert_allclose(new, frontend(samples), atol=1e-6, rtol=0)  # BLAS sums blocks of any size its own way


@given(CLIPS, BLOCKS, STEPS)
def test_blocks_that_complete_no_window_cost_no_features(
    tiny_spec: Spec, clip: int, sizes: list[int], step: int
) -> None:
    class Counted(Frontend):
        calls = 0

        def __call__(self, waveform: Float) -> Float:
            self.calls += 1
            return super().__call__(waveform)

    count_noun = Counted(tiny_spec.frontend)
    windows = framed(Framer(count_noun, step), noise(clip), sizes)
    assert count_noun.calls <= len(windows) + 1  # what is left at the end may be less than a frame


@given(CLIPS, BLOCKS, STEPS)
@example(6_320, [], 1_600)  # all frames of a window, but not all of its samples
@example(8_000, [], 1_600)  # two whole windows and no rest
def test_windows_are_the_same_for_blocks_of_any_size(
    frontend: Frontend, samples: int, sizes: list[int], step: int
) -> None:
    clip = noise(samples)
    found, expected = framed(Framer(frontend, step), clip, sizes), cut_by_hand(frontend, clip, step)
    assert [(window.start, window.end) for window in found] == [(start, end) for start, end, _ in expected]
    for window, (_, _, features) in zip(found, expected, strict=True):
        # the matrix product of other numbers of frames adds in another order: last digits of float32
        np.testing.assert_allclose(window.features, features, rtol=0, atol=1e-5)


@given(CLIPS, STEPS)
def test_every_frame_is_in_some_window(frontend: Frontend, samples: int, step: int) -> None:
    spec, seen = frontend.spec, set()
    for window in framed(Framer(frontend, step), noise(samples), []):
        first = window.start // spec.hop_samples
        seen |= set(range(first, first + spec.frames_in(window.end - window.start)))
    assert seen == set(range(spec.frames_in(samples)))


@given(CLIPS, BLOCKS, STEPS)
@example(6_320, [6_320], 1_600)
def test_no_window_ends_after_the_audio_that_is_there(
    frontend: Frontend, samples: int, sizes: list[int], step: int
) -> None:
    # a window's whole frames end 80 samples before the window does
    framer = Framer(frontend, step)
    for block in in_blocks(noise(samples), sizes):
        assert all(window.end <= framer.end for window in framer.push(block))
    assert all(window.end == samples for window in framer.flush())


@given(CLIPS, STEPS)
def test_a_rest_becomes_one_window_padded_with_silence(frontend: Frontend, samples: int, step: int) -> None:
    framer = Framer(frontend, step)
    list(framer.push(noise(samples)))
    rest = list(framer.flush())
    assert len(rest) <= 1
    for window in rest:
        frames = frontend.spec.frames_in(window.end - window.start)
        assert (window.features[frames:] == np.float32(frontend.floor)).all()
        assert (window.features[:frames] != np.float32(frontend.floor)).any(axis=1).all()


@given(st.integers(400, 20_000), STEPS)
def test_only_the_first_window_is_called_first(frontend: Frontend, samples: int, step: int) -> None:
    first, *others = framed(Framer(frontend, step), noise(samples), [])
    assert first.first
    assert not any(window.first for window in others)


@given(st.integers(0, 10_000), st.integers(0, 10_000), STEPS, st.sampled_from([30_000, 2**31 - 100, 2**53 + 1]))
def test_after_a_restart_nothing_of_before_is_left(
    frontend: Frontend, before: int, after: int, step: int, restart: int
) -> None:
    framer = Framer(frontend, step)
    framed(framer, noise(before), [])
    framer.restart(restart)
    found, fresh = framed(framer, noise(after), []), framed(Framer(frontend, step), noise(after), [])
    assert [(w.start - restart, w.end - restart, w.first) for w in found] == [(w.start, w.end, w.first) for w in fresh]
    for window, expected in zip(found, fresh, strict=True):
        assert np.array_equal(window.features, expected.features)
    assert framer.end == restart + after


@given(STEPS, st.integers(0, 5), st.integers(1, 6_320))
def test_a_window_comes_with_its_last_sample_not_with_the_next_block(
    frontend: Frontend, step: int, more: int, block: int
) -> None:
    framer, window = Framer(frontend, step), frontend.spec.window_samples
    end = window + more * step
    assert sum(len(list(framer.push(part))) for part in in_blocks(noise(end - 1), [block])) == more
    (last,) = framer.push(noise(1))
    assert last.end == end


class CountingFrontend(Frontend):
    """Counts the frames it has computed."""

    def __init__(self, spec: FrontendSpec) -> None:
        super().__init__(spec)
        self.computed = 0

    def __call__(self, waveform: Float) -> Float:
        features = super().__call__(waveform)
        self.computed += len(features)
        return features


@given(CLIPS, BLOCKS, STEPS)
def test_each_frame_is_computed_once(frontend: Frontend, samples: int, sizes: list[int], step: int) -> None:
    counting = CountingFrontend(frontend.spec)
    framed(Framer(counting, step), noise(samples), sizes)
    assert counting.computed == frontend.spec.frames_in(samples)


def test_neighbouring_windows_share_their_frames(frontend: Frontend) -> None:
    windows = framed(Framer(frontend, 1_600), noise(16_000), [])
    for before, after in pairwise(windows[:-1]):
        assert np.array_equal(before.features[10:], after.features[:-10])


@pytest.mark.parametrize("step", [0, -160, 100, 161, 6_240, 6_400, 16_000])
def test_a_step_that_is_no_hop_or_would_leave_frames_out_is_refused(frontend: Frontend, step: int) -> None:
    with pytest.raises(UsageError, match=r"multiple of 0\.01 s, at most 0\.38 s"):
        Framer(frontend, step)
