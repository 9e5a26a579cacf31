"""Blocks, the resampler and windows fit: a window never waits for one more block than it must."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.audio import microphone as mic
from flexiast_runtime.audio.alignment import (
    BLOCK_S,
    LONGEST_BLOCK_S,
    MARGIN_S,
    SHORTEST_BLOCK_S,
    WindowTiming,
    is_whole,
)
from flexiast_runtime.audio.device_stream import Delivery, DeviceStream
from flexiast_runtime.audio.devices import InputDevice
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.source import HELD_PIECE_S, Wait, chunks, measure_held_s

MODEL_HZ = 16_000
BLOCKS, LOST_BLOCK = 100, 50
FULL_S = 100.0


RATES_HZ = (8_000, 16_000, 44_100, 48_000)


@given(st.integers(1, 100), st.integers(4, 1_000), st.sampled_from(RATES_HZ), st.floats(0, 0.2))
def test_a_step_is_whole_blocks_or_a_block_whole_steps(
    step_hops: int, window_hops: int, rate_hz: int, held_s: float
) -> None:
    windows = WindowTiming(MODEL_HZ, window_hops / 100, step_hops / 100)
    block_s, skipped_s = windows.choose_block_s(rate_hz), windows.find_start_s(rate_hz, held_s)
    ratio = windows.step_s / block_s
    assert min(abs(value - round(value)) for value in (ratio, 1 / ratio)) < 1e-6
    assert SHORTEST_BLOCK_S - 1e-9 <= block_s <= LONGEST_BLOCK_S + 1e-9
    assert block_s <= BLOCK_S + 1e-9 or is_whole(block_s * rate_hz)
    assert 0 <= skipped_s < block_s + 1e-9
    blocks = (skipped_s + windows.window_s + held_s + MARGIN_S) / block_s
    assert blocks == pytest.approx(round(blocks), abs=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_what_resampling_holds_back_is_known(rate_hz: int) -> None:
    """Whatever pieces it gets; the measurement looks once a piece, so it may miss the most by that."""
    resampler = soxr.ResampleStream(rate_hz, MODEL_HZ, 1, dtype="float32")
    pieces = np.random.default_rng(rate_hz).integers(1, rate_hz // 50, 400)
    came = np.cumsum([len(resampler.resample_chunk(np.zeros(size, np.float32))) for size in pieces])
    most_s = float((np.cumsum(pieces) / rate_hz - came / MODEL_HZ).max())
    assert most_s - HELD_PIECE_S <= measure_held_s(rate_hz, MODEL_HZ) <= most_s + 0.01


def test_without_resampling_nothing_is_held_back() -> None:
    assert measure_held_s(MODEL_HZ, MODEL_HZ) == 0


class Played(DeviceStream):
    """A device in virtual time that delivers a block at once, and reports one loss. A sample is its time / FULL_S."""

    def __init__(self, device: InputDevice, channels: range | None, block_s: float) -> None:
        self._block_s, self.block_frames = block_s, round(block_s * device.rate_hz)
        self.held_s, self._resample = 0.0, lambda samples: samples

    def __exit__(self, *_: object) -> None:
        pass

    def deliveries(self) -> Iterator[Delivery | Wait]:
        times_s = np.arange(self.block_frames) * self._block_s / self.block_frames
        for number in range(BLOCKS):
            samples = ((number * self._block_s + times_s) / FULL_S).astype(np.float32)
            yield Delivery(samples[None, :, None], ((number + 1) * self._block_s,), (number == LOST_BLOCK,), 0)


@pytest.mark.parametrize(("window_s", "step_s"), [(1.0, 0.25), (2.0, 0.5), (1.0, 0.3), (0.32, 0.08)])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_window_is_complete_as_soon_as_resampling_allows(
    rate_hz: int, window_s: float, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a loss. Beyond what resampling holds back, it waits for the margin and for times that are rounded."""
    monkeypatch.setattr(mic, "input_devices", lambda: (InputDevice(0, "mic", "ALSA", 1, rate_hz),))
    monkeypatch.setattr(mic, "DeviceStream", Played)
    source = Microphone("mic", windows=WindowTiming(MODEL_HZ, window_s, step_s))
    waits_s = []
    for now_s, sounded_s in _windows(source, round(window_s * MODEL_HZ), round(step_s * MODEL_HZ)):
        waits_s.append(now_s - sounded_s)
    assert len(waits_s) > 10
    assert min(waits_s) > 0
    assert max(waits_s) <= measure_held_s(rate_hz, MODEL_HZ) + MARGIN_S + 0.001


def _windows(source: Microphone, window: int, step: int) -> Iterator[tuple[float, float]]:
    """When each window was complete, and when the last sound in it was."""
    held = np.empty(0, np.float32)
    end = 0
    for chunk in chunks(source, MODEL_HZ):
        if chunk.arrived_s is None:  # the device is gone
            return
        if chunk.start != end:
            held = held[:0]
        held, end = np.concatenate((held, chunk.samples)), chunk.start + len(chunk.samples)
        while len(held) >= window:
            yield chunk.arrived_s, FULL_S * float(held[window - 1]) + 1 / MODEL_HZ
            held = held[step:]
