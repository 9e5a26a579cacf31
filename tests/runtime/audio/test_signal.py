"""What a source is like, against NumPy on the whole signal; notices exactly when they are due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast_runtime.audio.signal import FLOOR_DBFS, NO_SIGNAL_S, Monitored
from flexiast_runtime.audio.source import Block, Notice, chunks

Float = NDArray[np.float32]
RATE = 1_000


class Blocks:
    """A source of given blocks."""

    name, rate_hz = "blocks", RATE

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterator[Block]:
        yield from self._blocks


def noise(seconds: float, scale: float = 0.1, channels: int = 1) -> Float:
    return np.random.default_rng(0).normal(0, scale, (round(seconds * RATE), channels)).astype(np.float32)


def cut(samples: Float, size: int = 100) -> list[Block]:
    return [Block(samples[start : start + size]) for start in range(0, len(samples), size)]


def watched(blocks: Iterable[Block]) -> tuple[Monitored, list[Block]]:
    source = Monitored(Blocks(blocks))
    return source, list(source.blocks())


def states(blocks: Iterable[Block]) -> list[str]:
    return [block.notice.state for block in blocks if block.notice is not None]


# ----- level


@pytest.mark.parametrize("offset", [0.0, 0.3], ids=["centred", "offset"])
def test_the_level_is_that_of_the_sound_without_its_offset(offset: float) -> None:
    time = np.arange(RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 50 * time) + offset).astype(np.float32)[:, None]
    signal = watched([Block(tone)] * 8)[0].signal
    assert signal.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert signal.peak_dbfs == pytest.approx(20 * np.log10(0.5 + offset), abs=0.01)
    assert signal.dc_offset == pytest.approx(offset, abs=0.001)


def test_silence_has_the_lowest_level_and_no_infinity() -> None:
    signal = watched([Block(np.zeros((10, 1), np.float32))])[0].signal
    assert (signal.level_dbfs, signal.peak_dbfs) == (FLOOR_DBFS, FLOOR_DBFS)


@given(st.integers(0, 50), st.sampled_from([1.0, -1.0, 32_767 / 32_768, 7.0]))
def test_samples_at_full_scale_are_counted(count: int, value: float) -> None:
    samples = np.clip(noise(1), -0.9, 0.9)
    samples[np.random.default_rng(1).permutation(len(samples))[:count]] = value
    assert watched(cut(samples))[0].signal.clipped == count


# ----- silence


@pytest.mark.parametrize("value", [0.0, -0.25], ids=["zeros", "offset"])
def test_no_signal_is_said_once_and_so_is_its_return(value: float) -> None:
    still = np.full((8 * RATE, 2), value, np.float32)
    source, heard = watched(cut(np.concatenate((noise(1, channels=2), still, noise(1, channels=2)))))
    assert states(heard) == ["no signal", "signal"]
    before = sum(len(block.samples) for block in heard[: [bool(block.notice) for block in heard].index(True)])
    assert before == pytest.approx((1 + NO_SIGNAL_S) * RATE, abs=200)  # to a block or two
    assert source.signal.silent_s == 0


def test_a_quiet_room_has_a_signal() -> None:
    one_bit = (noise(8) > 0.3).astype(np.float32) / 32_768  # now and then the last of 16 bits
    assert states(watched(cut(one_bit))[1]) == []


# ----- channels


@pytest.mark.parametrize(("gains", "channel"), [((1, -1), 1), ((0.3, -1), 2), ((0, 1), 2)])
def test_a_mix_that_would_cancel_is_said_once_and_the_loudest_channel_is_heard(
    gains: tuple[float, float], channel: int
) -> None:
    sound = noise(5)
    source, heard = watched(cut(sound * np.float32(gains)))
    assert states(heard) == ["channels"]
    (notice,) = (block.notice for block in heard if block.notice is not None)
    assert f"only channel {channel} is used" in notice.reason
    assert source.signal.channel == channel
    assert f"channel {channel} alone" in source.signal.faults()
    mono = np.concatenate([block.samples for block in heard])
    np.testing.assert_allclose(np.abs(mono[RATE:]), np.abs(sound[RATE:]), atol=1e-7)
    assert source.signal.level_dbfs == pytest.approx(20 * np.log10(sound[-100:].std()), abs=0.01)


# ----- what is missing or no number


@given(st.lists(st.integers(0, 500), max_size=10))
def test_gaps_are_counted_and_passed_on(lost: list[int]) -> None:
    source, heard = watched(Block(noise(0.1), lost=frames) for frames in lost)
    assert source.signal.gaps == sum(frames > 0 for frames in lost)
    assert source.signal.lost_s == pytest.approx(sum(lost) / RATE)
    assert [block.lost for block in heard] == lost


@pytest.mark.parametrize("invalid", [np.nan, np.inf, -np.inf])
def test_a_few_samples_that_are_no_numbers_become_silence(invalid: float) -> None:
    samples = noise(0.1)
    samples[50] = invalid
    source, heard = watched([Block(samples)])
    assert source.signal.invalid == 1
    assert heard[0].samples[50] == 0
    assert np.array_equal(np.delete(heard[0].samples, 50), np.delete(samples, 50))
    assert np.array_equal(samples[50], [invalid], equal_nan=True)  # the device's own buffer is left alone


def test_a_block_of_no_numbers_is_a_discontinuity_of_its_length() -> None:
    broken, good = np.full((100, 1), np.nan, np.float32), noise(0.1)
    notice = Notice("found", "plugged in")
    blocks = [Block(good), Block(broken, lost=7, notice=notice), Block(broken), Block(good)]
    source, heard = watched(blocks)
    assert [(len(block.samples), block.lost, block.notice) for block in heard] == [
        (100, 0, None),
        (0, 0, notice),
        (100, 207, None),
    ]
    assert (source.signal.invalid, source.signal.gaps) == (200, 1)
    starts = [chunk.start for chunk in chunks(Monitored(Blocks(blocks)), RATE)]
    assert starts == [0, 100, 307]
