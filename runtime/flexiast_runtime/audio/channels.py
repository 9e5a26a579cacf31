"""Channels as sources of their own: each has its own name, level and events.

A device is opened once, and its blocks are handed to all of its channels. A file is decoded once for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from flexiast.log import Log, log_nothing
from flexiast_runtime.audio.source import BLOCK_S, Block, FileSource, PcmSource, Source, open_recording

Channel = int | Literal["each"]
"""One channel, counted from 1, or each as a source"""


def channel_name(source: str, channel: int) -> str:
    return f"{source} channel {channel}"


def open_channels(
    path: Path,
    rate_hz: int,
    block_s: float = BLOCK_S,
    *,
    name: str | None = None,
    channel: Channel | None = None,
    keep_cut: bool = False,
    log: Log = log_nothing,
) -> list[FileSource | PcmSource]:
    """`open_recording`, with one source for each channel of a file where ``channel`` is ``"each"``.

    A file of one channel keeps its name. What is said of a file is said once.
    """
    if channel != "each":
        return [open_recording(path, rate_hz, block_s, name=name, channel=channel, keep_cut=keep_cut, log=log)]
    mix = open_recording(path, rate_hz, block_s, name=name, keep_cut=keep_cut)
    if isinstance(mix, PcmSource):
        return [mix]
    numbers, log_once = range(1, mix.channels + 1), _log_once(log)
    sources: list[FileSource | PcmSource] = []
    for number in numbers:
        source = FileSource(path, block_s, name=name, channel=number, keep_cut=keep_cut, log=log_once)
        if len(numbers) > 1:
            source.name = channel_name(mix.name, number)
        sources.append(source)
    return sources


def split_channels(source: Source, count: int) -> list[Source]:
    """The channels of a live source, whose blocks hold ``count`` of them. All are to be read, in any order.

    What the source reports, its losses and its failure reach every channel.
    """
    shared = _SharedBlocks(source, count)
    return [_ChannelSource(source, shared, place) for place in range(count)]


class _ChannelSource:
    def __init__(self, source: Source, shared: _SharedBlocks, place: int) -> None:
        self.name, self.rate_hz = channel_name(source.name, place + 1), source.rate_hz
        self._shared, self._place = shared, place

    def blocks(self) -> Iterator[Block]:
        try:
            while (block := self._shared.take(self._place)) is not None:
                alone = block.samples[:, self._place : self._place + 1] if len(block.samples) else block.samples
                yield block._replace(samples=alone)
        finally:
            self._shared.leave(self._place)


class _SharedBlocks:
    """The blocks of one source for several readers. Whoever lacks one fetches the next for all."""

    def __init__(self, source: Source, readers: int) -> None:
        self._blocks = source.blocks()
        self._waiting: dict[int, deque[Block]] = {place: deque() for place in range(readers)}
        self._failure: Exception | None = None
        self._ended = False

    def take(self, place: int) -> Block | None:
        """The reader's next block; None at the end. Raises what the source raised."""
        waiting = self._waiting[place]
        if not waiting and not self._ended:
            self._fetch()
        if waiting:
            return waiting.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    def leave(self, place: int) -> None:
        """Stop collecting blocks for a reader; the last one releases the source."""
        self._waiting.pop(place, None)
        if not self._waiting:
            self._blocks.close()  # type: ignore[attr-defined]

    def _fetch(self) -> None:
        try:
            block = next(self._blocks)
        except StopIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 (raised to each reader)
            self._ended, self._failure = True, error
        else:
            for waiting in self._waiting.values():
                waiting.append(block)


def _log_once(log: Log) -> Callable[[str], None]:
    spoken: set[str] = set()

    def once(text: str) -> None:
        if text not in spoken:
            spoken.add(text)
            log(text)

    return once
