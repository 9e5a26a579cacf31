"""Channels → mono: what any channel holds is heard, and a mix that cancels is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast_runtime.audio.mixing import Mixer, measure_powers

Float = NDArray[np.float32]
RATE = 16_000
BLOCKS = st.sampled_from([100, 512, 1_600])


def noise(seconds: float, seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def mixed(samples: Float, block: int) -> tuple[Float, Mixer]:
    mixer = Mixer(RATE)
    parts = [mixer.mix(samples[start : start + block]) for start in range(0, len(samples), block)]
    return np.concatenate(parts)[:, 0], mixer


def level(samples: Float) -> float:
    return 20 * float(np.log10(samples.std()))


@pytest.mark.parametrize(
    ("gains", "fault"),
    [
        ((1, 1), None),
        ((1, 0.7), None),
        ((1, -1), "opposite phase"),
        ((0.3, -1), "opposite phase"),
        ((1, 0), "channel 2 is silent"),
        ((0, 1), "channel 1 is silent"),
    ],
)
@given(block=BLOCKS)
def test_what_is_mixed_is_as_loud_as_what_was_heard(gains: tuple[float, float], fault: str | None, block: int) -> None:
    """Within 1.5 dB, what a mean of gains 1 and 0.7 loses: nothing is lost to a phase or to a dead channel."""
    sound = noise(2)
    found, mixer = mixed(np.stack([np.float32(gain) * sound for gain in gains], axis=1), block)
    assert level(found) == pytest.approx(level(sound), abs=1.5)
    said = mixer.fault
    assert (said is None) if fault is None else (fault in (said or ""))


@given(BLOCKS, st.integers(0, 100))
def test_channels_that_hear_different_things_are_averaged(block: int, seed: int) -> None:
    samples = np.stack((noise(2, seed), noise(2, seed + 1_000)), axis=1)
    found, mixer = mixed(samples, block)
    np.testing.assert_allclose(found, samples.mean(axis=1), atol=1e-6)
    assert (mixer.alone, mixer.fault) == (None, None)


@given(BLOCKS)
def test_a_channel_that_comes_back_is_heard_again_without_a_click(block: int) -> None:
    sound = noise(4)
    second = np.where(np.arange(len(sound)) < 2 * RATE, np.float32(0), sound)
    found, mixer = mixed(np.stack((sound, second), axis=1), block)
    assert mixer.alone is None
    settled = slice(RATE // 2, None)  # alone, or the mean of two alike: the same
    np.testing.assert_allclose(found[settled], sound[settled], atol=1e-6)


@given(BLOCKS, st.integers(0, 100))
def test_of_two_that_are_equally_loud_one_is_kept(block: int, seed: int) -> None:
    """Opposite phase, each with noise of its own, so that now one is the louder, now the other."""
    sound = noise(3)
    samples = np.stack((sound + 0.1 * noise(3, seed + 1), 0.1 * noise(3, seed + 2) - sound), axis=1)
    found, mixer = mixed(samples, block)
    assert mixer.alone is not None
    np.testing.assert_array_equal(found[RATE // 2 :], samples[RATE // 2 :, mixer.alone])


@given(BLOCKS)
def test_a_dead_channel_beside_noise_of_the_converter_is_told_by_the_sound(block: int) -> None:
    samples = np.stack((noise(2) + 1e-3 * noise(2, 1), 1e-3 * noise(2, 2)), axis=1)
    found, mixer = mixed(samples, block)
    np.testing.assert_array_equal(found[RATE // 2 :], samples[RATE // 2 :, 0])
    assert "channel 2 is silent; only channel 1 is used" in (mixer.fault or "")


def test_nothing_is_said_of_silence_or_of_an_offset() -> None:
    samples = np.tile(np.float32([0.2, -0.2]), (RATE, 1))
    found, mixer = mixed(samples, 512)
    assert (mixer.alone, mixer.fault) == (None, None)
    assert measure_powers(samples).loss_db == 0
    np.testing.assert_allclose(found, 0, atol=1e-7)


def test_a_device_that_comes_back_with_other_channels_is_another() -> None:
    mixer = Mixer(RATE)
    for gains in ((1, -1), (1,), (1, 1), (1, 1, 1)):
        sound = noise(1)
        found = mixer.mix(np.stack([np.float32(gain) * sound for gain in gains], axis=1))
        assert found.shape == (RATE, 1)
    assert (mixer.alone, mixer.fault) == (None, None)
    np.testing.assert_allclose(found[:, 0], sound, atol=1e-6)


def test_mono_is_left_alone() -> None:
    samples = noise(1)[:, None]
    assert mixed(samples, 512)[0].tolist() == samples[:, 0].tolist()
