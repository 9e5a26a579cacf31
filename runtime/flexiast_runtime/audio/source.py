"""Where audio comes from: blocks at the source's own rate, converted to mono chunks at the model's.

A source delivers; it neither paces the model nor drops for it. It never waits either: a source that has nothing now
gives an empty block that says what to wait for. So one thread reads any number of them. `listen` puts a ring between
source and model, `classify` reads as fast as it goes: the same conversion, the same sample counter.
"""

from __future__ import annotations

import io
import select
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from flexiast.data.audio import open_audio
from flexiast.errors import DataError
from flexiast.log import Log, log_nothing
from flexiast.text import printable_line
from flexiast_runtime.audio.mixing import Mixer
from flexiast_runtime.audio.stall import LATE_S, STALL_S, PipeClock
from flexiast_runtime.audio.timeline import uptime_s

Float = NDArray[np.float32]

BLOCK_S = 0.1
"""Seconds of audio that files and pipes are read in."""
IDLE_S = 1.0
"""Longest wait for a source that is lost: each shows a service manager that it is still looked for"""
HELD_S, HELD_PIECE_S = 0.5, 0.001
"""Audio from which what resampling holds back is measured, and the pieces that it comes in: the resolution. soxr holds
36 ms from 48 kHz to 16 kHz, and 116 from 8 kHz."""
MIN_WAIT_S = 0.01
"""Shortest wait for an empty pipe"""
BURST_S = 0.25
"""Seconds after a stall in which the late audio may still arrive, all at once"""


class Notice(NamedTuple):
    """A change of a source, reported once."""

    state: Literal["lost", "found", "no signal", "signal", "channels"]
    reason: str


@dataclass(frozen=True)
class Wait:
    """Why a source has nothing now, and when it is worth asking again."""

    timeout_s: float
    """After so long at the latest"""
    fileno: int | None = None
    """Readable as soon as there is something"""
    wake_after: Callable[[float], float] | None = None
    """Makes ``fileno`` readable only once so many more seconds of audio have come; returns the timeout for that"""

    def request(self, seconds: float) -> Wait:
        """The wait of a reader that needs so many more seconds of audio, where the source can count them itself."""
        return self if self.wake_after is None else Wait(self.wake_after(seconds), self.fileno)


class Block(NamedTuple):
    """What a device or file delivers at once."""

    samples: Float
    """[frames, channels] in [-1, 1]"""
    lost: int = 0
    """Frames known to be missing before it."""
    notice: Notice | None = None
    """Reported with it; such a block may hold no samples."""
    drift_ppm: float | None = None
    """How much slower the device's clock is than the machine's, where that is known"""
    arrived_s: float | None = None
    """When its last frame arrived, by `uptime_s`, where the source knows; else it arrives when it is read"""
    wait: Wait | None = None
    """What to wait for before the next block is asked for; such a block holds no samples"""


class Chunk(NamedTuple):
    """Mono audio at the model's rate."""

    start: int
    """Number of its first sample since the stream began; a jump past the last end is a discontinuity."""
    samples: Float
    notices: tuple[Notice, ...] = ()
    """Reported with it; such a chunk may hold no samples."""
    arrived_s: float | None = None
    """As of the block"""
    wait: Wait | None = None
    """As of the block; such a chunk holds no samples"""


NOTHING = np.empty((0, 1), np.float32)


class Source(Protocol):
    """A stream of audio blocks."""

    @property
    def name(self) -> str: ...

    @property
    def rate_hz(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """Blocks until the source ends, an empty one with a wait while it has nothing; closing releases the source."""
        ...


def read_blocks(source: Source) -> Iterator[Block]:
    """The blocks of one source, for a reader that waits for nothing else; empty ones let it look round."""
    for block in source.blocks():
        yield block
        if block.wait is not None:
            wait_for([block.wait])


def wait_for(waits: Iterable[Wait], *more: int) -> None:
    """Wait until one of the sources is worth asking again, or one of ``more`` file descriptors is readable."""
    waits = list(waits)
    filenos = [*more, *(wait.fileno for wait in waits if wait.fileno is not None)]
    timeout_s = max(0.0, min(wait.timeout_s for wait in waits))
    if not filenos:  # Windows, which has no poll, has no source with one either
        time.sleep(timeout_s)
        return
    poll = select.poll()
    for fileno in filenos:
        poll.register(fileno, select.POLLIN)
    poll.poll(1000 * timeout_s)


class FileSource:
    """An audio file, read in blocks; longer ones cost less, shorter ones can be paced."""

    def __init__(
        self,
        path: Path,
        block_s: float = BLOCK_S,
        *,
        name: str | None = None,
        channel: int | None = None,
        keep_cut: bool = False,
        log: Log = log_nothing,
    ) -> None:
        """The other arguments are those of ``open_audio``; raises DataError for what is no audio."""
        self.name, self.channel = printable_line(name or str(path)), channel
        self._block_s, self._log = block_s, log
        self.start_frame = 0
        """Where the blocks begin"""
        self._open = partial(open_audio, path, name=name, channel=channel, keep_cut=keep_cut)
        with self._open() as file:
            self.rate_hz, self.channels = file.rate_hz, file.channels

    def blocks(self) -> Iterator[Block]:
        with self._open(log=self._log) as file:
            yield from map(Block, file.blocks(round(self._block_s * self.rate_hz), self.start_frame))


FILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3")
"""First bytes of audio files; a microphone that begins with exactly these samples is not to be expected."""

_Read = tuple[bytes, int, Notice | None, Wait | None]
"""Bytes, samples missing before them, a notice, and what to wait for where there are no bytes"""


class PcmSource:
    """Raw PCM from a pipe: mono, signed 16-bit little-endian, as ``arecord -t raw -f S16_LE -c 1 -r RATE`` writes.

    An unbuffered pipe is watched like a microphone: one that stalls is lost until it goes on, and what did not come in
    the meantime is missing.
    """

    def __init__(
        self, stream: BinaryIO, rate_hz: int, name: str = "stdin", clock: Callable[[], float] = uptime_s
    ) -> None:
        """``clock`` must run on in suspend."""
        self.name, self.rate_hz, self._stream, self._clock = name, rate_hz, stream, clock
        self.channel: int | None = None  # it has one only

    def blocks(self) -> Iterator[Block]:
        pending, is_first = b"", True
        for content, lost, notice, wait in self._read_watched() if self._can_be_watched else self._read_unwatched():
            if content and is_first:
                self._check_raw(content)
                is_first = False
            pending += content
            whole = len(pending) // 2 * 2
            samples = np.frombuffer(pending[:whole], "<i2").astype(np.float32) / np.float32(32768)
            pending = pending[whole:]
            if len(samples) or not content:
                yield Block(samples[:, None], lost, notice, wait=wait)
        if pending:
            raise DataError(
                f"{self.name} ended inside a sample; expected raw 16-bit little-endian mono PCM at {self.rate_hz} Hz"
            )

    def _check_raw(self, first: bytes) -> None:
        """Raise DataError for the beginning of a file: read as samples it would be noise."""
        if first.startswith(FILE_MAGIC):
            raise DataError(
                f"{self.name} is an audio file, which begins with {first[:4].decode('latin-1')}; expected raw 16-bit "
                "little-endian mono PCM: name the file instead, or convert it with ffmpeg -f s16le -ac 1"
            )

    @property
    def _can_be_watched(self) -> bool:
        """What a buffer holds cannot be waited for, and Windows has no poll."""
        return isinstance(self._stream, io.FileIO) and hasattr(select, "poll")

    def _read_unwatched(self) -> Iterator[_Read]:
        # read1 hands over what a pipe holds now: a slow microphone is not waited for until a block is full.
        read = getattr(self._stream, "read1", self._stream.read)
        while content := read(self._size):
            yield content, 0, None, None

    def _read_watched(self) -> Iterator[_Read]:
        """No bytes and a wait while the pipe is empty."""
        pipe, poll, fileno = PipeClock(), select.poll(), self._stream.fileno()
        poll.register(fileno, select.POLLIN)
        while True:
            pipe.start_wait(self._clock())
            is_lost = False
            while not poll.poll(0):
                overdue_s, notice, timeout_s = pipe.overdue_s(self._clock()), None, IDLE_S
                if not is_lost and overdue_s > STALL_S:
                    is_lost = True
                    notice = Notice("lost", f"no audio for {overdue_s:.1f} s: the program that writes it has stalled")
                elif not is_lost:
                    timeout_s = max(MIN_WAIT_S, STALL_S - overdue_s)
                yield b"", 0, notice, Wait(timeout_s, fileno)
            content = self._read_burst(poll, pipe) if is_lost else self._stream.read(self._size)
            if not content:
                return
            now_s, came_s = self._clock(), len(content) / (2 * self.rate_hz)
            missing_s = pipe.overdue_s(now_s, came_s) if is_lost else 0.0
            lost = round(missing_s * self.rate_hz) if missing_s > LATE_S else 0
            pipe.receive(now_s, came_s, lost / self.rate_hz)
            yield content, lost, Notice("found", f"{lost / self.rate_hz:.1f} s are missing") if is_lost else None, None

    def _read_burst(self, poll: select.poll, pipe: PipeClock) -> bytes:
        """What arrives at once after a stall: all late audio, if the writer kept it."""
        content, end_s = b"", self._clock() + BURST_S
        while (left_s := end_s - self._clock()) > 0 and poll.poll(1000 * left_s):
            chunk = self._stream.read(self._size)
            content += chunk
            if not chunk or not pipe.overdue_s(self._clock(), len(content) / (2 * self.rate_hz)):
                break
        return content

    @property
    def _size(self) -> int:
        """Bytes of a block."""
        return 2 * round(BLOCK_S * self.rate_hz)


class RealTime:
    """A source slowed to real time, so that a file behaves like a microphone."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.rate_hz = source.name, source.rate_hz
        self._source, self._clock = source, clock

    def blocks(self) -> Iterator[Block]:
        started, delivered = self._clock(), 0
        for block in self._source.blocks():
            delivered += len(block.samples)
            while (early_s := started + delivered / self.rate_hz - self._clock()) > 0:
                yield Block(NOTHING, wait=Wait(early_s))
            yield block


def open_recording(
    path: Path,
    rate_hz: int,
    block_s: float = BLOCK_S,
    *,
    name: str | None = None,
    channel: int | None = None,
    keep_cut: bool = False,
    log: Log = log_nothing,
) -> FileSource | PcmSource:
    """A file, or a pipe that has a name (a FIFO, or what a shell writes for ``<(…)``), read as stdin is.

    ``rate_hz`` is that of a pipe's samples. Raises DataError for what is no audio.
    """
    if path.is_fifo():
        if channel is not None:
            raise DataError(f"{path} is a pipe, which has one channel; leave --channel out")
        try:
            # Unbuffered: what a paused writer has written so far is processed now.
            return PcmSource(path.open("rb", buffering=0), rate_hz, printable_line(str(path)))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return FileSource(path, block_s, name=name, channel=channel, keep_cut=keep_cut, log=log)


def chunks(source: Source, rate_hz: int) -> Iterator[Chunk]:
    """Blocks of a source → mono chunks at ``rate_hz``, channels mixed, resampled with state from block to block.

    A block without samples gives a chunk without, so a reader can wait or stop while a source delivers nothing.
    """
    resampler = _resampler(source.rate_hz, rate_hz)
    mixer, start = Mixer(source.rate_hz), 0
    for block in source.blocks():
        if not len(block.samples) and not block.lost:
            yield Chunk(start, NOTHING[:, 0], _notices(block), wait=block.wait)
            continue
        mono = mixer.mix(block.samples)[:, 0]
        if block.lost:
            if len(rest := _flush(resampler)):
                yield Chunk(start, rest, arrived_s=block.arrived_s)
            start += len(rest) + round(block.lost * rate_hz / source.rate_hz)
            resampler = _resampler(source.rate_hz, rate_hz)
        samples = _resample(resampler, mono)
        notices = _notices(block)
        if len(samples) or notices or not len(mono):  # the resampler may hold a short block, never its notice
            yield Chunk(start, samples, notices, block.arrived_s)
            start += len(samples)
    if len(rest := _flush(resampler)):
        yield Chunk(start, rest)


def _notices(block: Block) -> tuple[Notice, ...]:
    return () if block.notice is None else (block.notice,)


def _resampler(source_hz: int, target_hz: int) -> soxr.ResampleStream | None:
    return None if source_hz == target_hz else soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32")


@cache
def measure_held_s(source_hz: int, target_hz: int) -> float:
    """Seconds of audio that resampling holds back at most: its filter, and a piece that is transformed at once."""
    if (resampler := _resampler(source_hz, target_hz)) is None:
        return 0.0
    piece, held_s, delivered = np.zeros(round(HELD_PIECE_S * source_hz), np.float32), 0.0, 0
    for number in range(1, round(HELD_S / HELD_PIECE_S)):
        delivered += len(resampler.resample_chunk(piece))
        held_s = max(held_s, number * len(piece) / source_hz - delivered / target_hz)
    return held_s


def _resample(resampler: soxr.ResampleStream | None, mono: Float) -> Float:
    return mono if resampler is None else resampler.resample_chunk(mono)


def _flush(resampler: soxr.ResampleStream | None) -> Float:
    """What the filter still holds: some milliseconds, without which the counter would fall behind."""
    nothing = np.empty(0, np.float32)
    return resampler.resample_chunk(nothing, last=True) if resampler else nothing
