"""Channels as sources of their own: each gets its column of every block, and the device is opened once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DeviceLostError, FlexiastError
from flexiast_runtime.audio.capture import Capture, merge_captures
from flexiast_runtime.audio.channels import open_channels, split_channels
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Block, Float, Notice, chunks

RATE = 16_000


class Device:
    """Delivers these blocks, then an error if there is one; counts how often it was opened and closed."""

    name, rate_hz = "mic", RATE

    def __init__(self, blocks: list[Block], error: Exception | None = None) -> None:
        self.script, self.error = blocks, error
        self.opened = self.closed = 0

    def blocks(self) -> Iterator[Block]:
        self.opened += 1
        try:
            yield from self.script
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1


def samples(frames: int, channels: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).uniform(-1, 1, (frames, channels)).astype(np.float32)


@given(st.integers(1, 4), st.lists(st.integers(0, 300), max_size=12), st.randoms())
def test_each_channel_is_its_column_whatever_the_order_of_reading(
    channels: int, lengths: list[int], random: object
) -> None:
    device = Device([Block(samples(length, channels, seed)) for seed, length in enumerate(lengths)])
    readers = [source.blocks() for source in split_channels(device, channels)]
    heard: list[list[Float]] = [[] for _ in readers]
    left = list(range(channels))
    while left:
        place = random.choice(left)  # type: ignore[attr-defined]
        block = next(readers[place], None)
        if block is None:
            left.remove(place)
        else:
            heard[place].append(block.samples)
    for place, found in enumerate(heard):
        assert [len(one) for one in found] == lengths
        for one, block in zip(found, device.script, strict=True):
            np.testing.assert_array_equal(one[:, 0] if len(one) else one[:0, 0], block.samples[:, place])
    assert (device.opened, device.closed) == (1, 1)


def test_losses_and_notices_reach_every_channel() -> None:
    lost = Notice("lost", "it is gone")
    device = Device(
        [Block(samples(10, 2)), Block(np.empty((0, 1), np.float32), notice=lost), Block(samples(10, 2), 99)]
    )
    for source in split_channels(device, 2):
        found = list(source.blocks())
        assert [(len(block.samples), block.lost, block.notice) for block in found] == [
            (10, 0, None),
            (0, 0, lost),
            (10, 99, None),
        ]


def test_a_failure_is_raised_to_every_channel() -> None:
    for source in split_channels(Device([Block(samples(10, 2))], DeviceLostError("gone")), 2):
        blocks = source.blocks()
        next(blocks)
        with pytest.raises(DeviceLostError, match="gone"):
            next(blocks)


def test_a_channel_that_is_no_longer_read_holds_nothing_up_and_the_last_one_closes_the_device() -> None:
    device = Device([Block(samples(10, 2))] * 1_000)
    first, second = (source.blocks() for source in split_channels(device, 2))
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert device.closed == 0
    assert sum(1 for _ in second) == 999
    assert device.closed == 1


@pytest.mark.parametrize("live", [True, False])
def test_captured_together_each_has_its_own_level_and_audio(live: bool) -> None:
    """As `listen` reads them: a loud channel, a quiet one, a dead one."""
    gains = np.float32([0.5, 0.05, 0.0])
    blocks = [Block(gains * samples(1_600, 1, seed)) for seed in range(5)]
    device = Device(blocks)
    sources = [Monitored(source) for source in split_channels(device, 3)]
    captures = [Capture(source, RATE, 1_600, live=live) for source in sources]
    heard: list[list[Float]] = [[], [], []]
    for place, chunk in merge_captures(captures):
        heard[place].append(chunk.samples)
    for place, gain in enumerate(gains):
        np.testing.assert_array_equal(
            np.concatenate(heard[place]), np.concatenate([b.samples[:, place] for b in blocks])
        )
        assert sources[place].signal.peak_dbfs == pytest.approx(20 * np.log10(gain) if gain else -120, abs=0.1)
    assert [source.name for source in sources] == [f"mic channel {number}" for number in (1, 2, 3)]
    assert device.opened == 1


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_each_channel_of_a_file_is_read_alone(channels: int, tmp_path: Path) -> None:
    path, played = tmp_path / "a.wav", samples(5_000, channels)
    soundfile.write(path, played, RATE, subtype="FLOAT")
    sources = open_channels(path, RATE, channel="each")
    assert [source.channel for source in sources] == list(range(1, channels + 1))
    names = [f"{path} channel {number}" for number in range(1, channels + 1)]
    assert [source.name for source in sources] == (names if channels > 1 else [str(path)])
    for place, source in enumerate(sources):
        found = np.concatenate([chunk.samples for chunk in chunks(source, RATE)])
        np.testing.assert_array_equal(found, played[:, place])


def test_what_is_said_of_a_file_is_said_once(tmp_path: Path) -> None:
    path, said = tmp_path / "a.wav", []
    soundfile.write(path, samples(5_000, 2), RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-400])
    for source in open_channels(path, RATE, channel="each", keep_cut=True, log=said.append):
        assert sum(len(chunk.samples) for chunk in chunks(source, RATE)) == 4_900
    assert len(said) == 1 and "cut short" in said[0]
    with pytest.raises(FlexiastError, match="breaks off"):
        open_channels(path, RATE, channel="each")
