"""A microphone that may be unplugged: captured in a process of its own, reopened when it is back."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple

from flexiast.errors import DeviceError, DeviceLostError
from flexiast_runtime.audio.alignment import BLOCK_S, WindowTiming
from flexiast_runtime.audio.capture_process import FIRST_CHANNELS
from flexiast_runtime.audio.channels import Channel
from flexiast_runtime.audio.device_stream import Delivery, DeviceStream, StreamEndedError
from flexiast_runtime.audio.devices import NOT_THERE_YET, InputDevice, choose, input_devices, is_absent
from flexiast_runtime.audio.source import IDLE_S, NOTHING, Block, Notice, Wait, measure_held_s
from flexiast_runtime.audio.timeline import Timeline

RETRY_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses between attempts to reopen a lost device; the last one repeats."""
SETTLED_S = 1.0
"""Seconds of audio after which the pauses start again from the shortest one"""

CLAIMED_CHANNELS = 32
"""PulseAudio and ALSA's plug offer 32 to 128 channels, whatever their card has; the first two of these are its own."""
ABSENT_RATE_HZ = 48_000
"""Assumed rate of a microphone that is not connected yet: most have it."""

OnLoss = Literal["retry", "exit"]


class Microphone:
    """An input device at its own default rate; its first two channels at most, the one that is chosen, or each."""

    def __init__(
        self,
        device: str | None = None,
        *,
        windows: WindowTiming | None = None,
        channel: Channel | None = None,
        on_loss: OnLoss = "retry",
        may_come: bool = False,
        retry_s: tuple[float, ...] = RETRY_S,
    ) -> None:
        """``device`` as `devices.choose` takes it; ``channel`` counts from 1.

        Blocks and their beginning are laid for the reader's ``windows``; without, nothing is left out.

        With ``may_come`` the device may be missing or in use at the start: it counts as lost and is reopened later.

        Raises DeviceError where none or several fit, or there is no such channel.
        """
        there = input_devices()
        self.is_absent = may_come and device is not None and is_absent(there, device)
        self._device = absent_device(device or "") if self.is_absent else choose(there, device)
        self._may_come = may_come
        self.name, self.rate_hz = self._device.name, self._device.rate_hz
        self.channels = self._select_channels(channel)
        """Those that its blocks hold, counted from 1; None for the first two at most"""
        self._windows = windows
        self._block_s = BLOCK_S if windows is None else windows.choose_block_s(self.rate_hz)
        self._on_loss, self._retry_s = on_loss, retry_s

    def blocks(self) -> Iterator[Block]:
        """Blocks until the iterator is closed; empty ones, with a wait, while nothing has come.

        Raises DeviceError if the device cannot be opened at first, unless it may come. A later loss is reported in the
        notice of a block, and so is the return, with the missing seconds. With ``on_loss="exit"`` a loss raises
        DeviceLostError.
        """
        timeline, pauses = Timeline(self.rate_hz), self._pauses()
        delivered_s, reason = yield from self._stretch(timeline, again=False)
        if not delivered_s and not self._may_come:
            raise DeviceError(f"{self.name} cannot be opened: {reason}")
        is_known = False  # whether its loss was reported
        while True:
            if delivered_s or not is_known:
                is_known = True
                yield Block(NOTHING, notice=Notice("lost", reason))
            if self._on_loss == "exit":
                raise DeviceLostError(
                    f"{self.name} was lost: {reason}; check that it is plugged in, then start again, "
                    "or wait for it with --on-device-loss retry"
                )
            if delivered_s >= SETTLED_S:
                pauses = self._pauses()
            yield from _pause(next(pauses))
            delivered_s, reason = yield from self._stretch(timeline, again=True)

    def _select_channels(self, channel: Channel | None) -> range | None:
        own = self._device.channels
        if channel is None:
            return None
        if channel == "each":
            is_unknown = self.is_absent or own >= CLAIMED_CHANNELS
            return range(1, 1 + (FIRST_CHANNELS if is_unknown else own))
        if not self.is_absent and not 1 <= channel <= own:
            raise DeviceError(f"{self.name} has no channel {channel}; give one from 1 to {own}")
        return range(channel, channel + 1)

    def _pauses(self) -> Iterator[float]:
        return itertools.chain(self._retry_s, itertools.repeat(self._retry_s[-1]))

    def _stretch(self, timeline: Timeline, *, again: bool) -> Generator[Block, None, tuple[float, str]]:
        """Blocks of one capture process; when it ends, for how many seconds it delivered and why it no longer does."""
        since_s, reason = None, ""
        with DeviceStream(self._device, self.channels, self._block_s) as stream:
            try:
                for delivery in stream.deliveries():
                    if isinstance(delivery, Wait):
                        yield Block(NOTHING, wait=delivery)
                        continue
                    is_first = since_s is None
                    since_s = since_s or time.monotonic()
                    for run in self._split(delivery, stream.block_frames, timeline, found=is_first and again):
                        yield self._block(stream, delivery, run, timeline.drift_ppm, is_first=is_first)
                        is_first = False
            except StreamEndedError as error:
                reason = str(error)
        return 0.0 if since_s is None else time.monotonic() - since_s, reason

    def _split(self, delivery: Delivery, block_frames: int, timeline: Timeline, *, found: bool) -> Iterator[_Run]:
        """A delivery as one run, or as several where frames are missing within it."""
        first, missed = 0, delivery.missed * block_frames
        lost = missed
        notice = None
        for place, (arrived_s, overflowed) in enumerate(zip(delivery.arrived_s, delivery.overflowed, strict=True)):
            came = block_frames + (0 if place else missed)
            gap = timeline.push(arrived_s, came, broken=overflowed or (found and not place))
            if found and not place:
                lost += gap
                missing = f"{lost / self.rate_hz:.1f} s are missing" if lost else "audio starts now"
                notice = Notice("found", missing)
            elif gap and place:
                yield _Run(slice(first, place), lost, notice)
                first, lost, notice = place, gap, None
            else:
                lost += gap
        yield _Run(slice(first, None), lost, notice)

    def _block(
        self, stream: DeviceStream, delivery: Delivery, run: _Run, drift_ppm: float | None, *, is_first: bool
    ) -> Block:
        """A run as one block. Where audio begins, also after a loss, the reader's windows begin, when it suits them."""
        skipped_s = 0.0
        if (is_first or run.lost) and self._windows is not None:
            held_s = stream.held_s + measure_held_s(self.rate_hz, self._windows.rate_hz)
            skipped_s = self._windows.find_start_s(self.rate_hz, held_s)
        samples = stream.resample(delivery.samples[run.blocks], skipped_s)
        lost = run.lost and run.lost + math.floor(skipped_s * self.rate_hz)
        return Block(samples, lost, run.notice, drift_ppm, delivery.arrived_s[run.blocks][-1])


class _Run(NamedTuple):
    """Blocks of a delivery with nothing missing between them."""

    blocks: slice
    lost: int
    """Frames missing before them"""
    notice: Notice | None


def absent_device(name: str) -> InputDevice:
    """A microphone that is not there yet; it will be resampled to this rate, whatever its own is."""
    return InputDevice(NOT_THERE_YET, name, "", 1, ABSENT_RATE_HZ)


def _pause(seconds: float) -> Iterator[Block]:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        yield Block(NOTHING, wait=Wait(min(IDLE_S, left_s)))
