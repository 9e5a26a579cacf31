"""A microphone that may be unplugged: captured in a process of its own, looked for until it is back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from typing import Literal

import numpy as np

from flexiast.errors import DeviceError, DeviceLostError
from flexiast_runtime.device_stream import WAKE_S, Delivery, DeviceStream, StreamEndedError
from flexiast_runtime.devices import choose, input_devices
from flexiast_runtime.source import Block, Notice
from flexiast_runtime.timeline import Timeline, uptime_s

RETRY_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses before a lost device is looked for again; the last one repeats."""
SETTLED_S = 1.0
"""A device that has delivered for so long is looked for from the shortest pause on when it is lost again."""

OnLoss = Literal["retry", "exit"]
EMPTY = Block(np.empty((0, 1), np.float32))


class Microphone:
    """An input device at its own default rate; its first two channels at most, or the one that is chosen."""

    def __init__(
        self,
        device: str | None = None,
        *,
        channel: int | None = None,
        on_loss: OnLoss = "retry",
        clock: Callable[[], float] = uptime_s,
        retry_s: tuple[float, ...] = RETRY_S,
    ) -> None:
        """``device`` as `devices.choose` takes it; ``channel`` counts from 1; ``clock`` must run on in suspend.

        Raises DeviceError where none or several fit, or there is no such channel.
        """
        self._device = choose(input_devices(), device)
        self.name, self.rate_hz = self._device.name, self._device.rate_hz
        if channel is not None and not 1 <= channel <= self._device.channels:
            raise DeviceError(f"{self.name} has no channel {channel}; give one from 1 to {self._device.channels}")
        self._channel, self._on_loss, self._clock, self._retry_s = channel, on_loss, clock, retry_s

    def blocks(self) -> Iterator[Block]:
        """Blocks until the iterator is closed; empty ones while nothing comes.

        Raises DeviceError if the device cannot be opened at first. When it is lost later, a block says so; what comes
        once it is found again says how much is missing. With ``on_loss="exit"`` DeviceLostError follows instead.
        """
        timeline, pauses = Timeline(self.rate_hz), self._pauses()
        delivered_s, reason = yield from self._stretch(timeline, again=False)
        if not delivered_s:
            raise DeviceError(f"{self.name} cannot be opened: {reason}")
        while True:
            if delivered_s:
                yield EMPTY._replace(notice=Notice("lost", reason))
            if self._on_loss == "exit":
                raise DeviceLostError(
                    f"{self.name} was lost: {reason}; check that it is plugged in, then start again, "
                    "or let it be looked for with --on-device-loss retry"
                )
            if delivered_s >= SETTLED_S:
                pauses = self._pauses()
            yield from _pause(next(pauses))
            delivered_s, reason = yield from self._stretch(timeline, again=True)

    def _pauses(self) -> Iterator[float]:
        return itertools.chain(self._retry_s, itertools.repeat(self._retry_s[-1]))

    def _stretch(self, timeline: Timeline, *, again: bool) -> Generator[Block, None, tuple[float, str]]:
        """Blocks of one capture process; when it ends, for how many seconds it delivered and why it no longer does."""
        since_s, reason = None, ""
        with DeviceStream(self._device, self._channel) as stream:
            try:
                for delivery in stream.deliveries():
                    if delivery is None:
                        yield EMPTY
                        continue
                    found = again and since_s is None
                    since_s = since_s or time.monotonic()
                    yield self._block(delivery, timeline, found=found)
            except StreamEndedError as error:
                reason = str(error)
        return 0.0 if since_s is None else time.monotonic() - since_s, reason

    def _block(self, delivery: Delivery, timeline: Timeline, *, found: bool) -> Block:
        arrived = len(delivery.samples) + delivery.missed
        lost = delivery.missed + timeline.push(self._clock(), arrived, broken=found or delivery.overflowed)
        notice = Notice("found", f"{lost / self.rate_hz:.1f} s are missing") if found else None
        return Block(delivery.samples, lost, notice, timeline.drift_ppm)


def _pause(seconds: float) -> Iterator[Block]:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(WAKE_S, left_s))
        yield EMPTY
