"""Sources read by threads: what comes out is what went in, whoever stops, fails or is late."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError
from flexiast_runtime.audio.capture import Capture, limit_chunks, merge_captures
from flexiast_runtime.audio.source import Block, Chunk, Notice, chunks

RATE, STEP = 16_000, 5


class Script:
    """A source that delivers blocks of numbered samples and remembers whether it was released."""

    name, rate_hz = "script", RATE

    def __init__(self, blocks: int, error: BaseException | None = None, after: threading.Event | None = None) -> None:
        self._blocks, self._error, self._after = blocks, error, after
        self.released = threading.Event()

    def blocks(self) -> Iterator[Block]:
        try:
            for index in range(self._blocks):
                yield Block(np.arange(100 * index, 100 * (index + 1), dtype=np.float32)[:, None])
            if self._after is not None:
                self._after.wait(10)
            if self._error is not None:
                raise self._error
        finally:
            self.released.set()


def test_capture_hands_over_what_the_source_delivers() -> None:
    found = list(Capture(Script(50), RATE, STEP, live=False))
    expected = list(chunks(Script(50), RATE))
    assert np.array_equal(np.concatenate([c.samples for c in found]), np.concatenate([c.samples for c in expected]))
    assert [c.start for c in found] == list(np.cumsum([0, *(len(c.samples) for c in found[:-1])]))


def test_an_error_of_the_source_is_raised_where_the_chunks_are_read() -> None:
    found = []
    with pytest.raises(DataError, match="half a file"):
        found.extend(Capture(Script(3, DataError("half a file")), RATE, 1_000, live=False))
    assert sum(len(item.samples) for item in found) == 300


@pytest.mark.parametrize("live", [True, False], ids=["live", "lossless"])
def test_a_reader_that_leaves_releases_the_source(live: bool) -> None:
    source = Script(1_000_000)
    stream = merge_captures([Capture(source, RATE, STEP, live=live)])
    next(stream)
    stream.close()
    assert source.released.is_set()


def test_a_stopped_capture_ends_the_stream_and_keeps_what_is_held() -> None:
    source = Script(1_000_000)
    capture = Capture(source, RATE, 100, live=False, steps=4)
    read = 0
    for item in capture:
        assert item.start == read  # nothing is lost on the way to the end
        read += len(item.samples)
        capture.stop()
    assert 0 < read <= 2 * 400
    assert source.released.is_set()


def test_a_signal_that_ends_the_ring_while_it_is_waited_for_is_not_missed() -> None:
    """The handler runs in the reading thread, between its look at the ring and its wait for a change."""

    class Interrupted(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is threading.main_thread():
                capture.stop()
                release.set()
                assert timeout is not None, "waits for ever: nobody will wake it"
            return False

    release = threading.Event()
    capture = Capture(Script(0, after=release), RATE, STEP, live=True, changed=Interrupted())
    assert list(capture) == []


@given(st.integers(1, 30), st.integers(0, 2_999))
def test_when_a_sample_sounded_is_known_however_late_it_is_read(blocks: int, sample: int) -> None:
    class Sounding(Script):
        def blocks(self) -> Iterator[Block]:
            for block in super().blocks():
                clock[0] += len(block.samples) / RATE
                yield block

    clock = [1e9]
    capture = Capture(Sounding(blocks), RATE, STEP, live=True, wall=lambda: clock[0], clock=lambda: clock[0] - 1e9 + 77)
    assert capture.unix_s(sample) is None
    for _ in capture:
        pass
    assert capture.unix_s(sample) == pytest.approx(1e9 + sample / RATE, abs=1e-6)  # of the sum's rounding


class Timed(Script):
    """Blocks that come when they have sounded, each after a pause."""

    def __init__(self, clock: list[float], pauses_s: list[float]) -> None:
        super().__init__(len(pauses_s))
        self._clock, self._pauses_s = clock, pauses_s

    def blocks(self) -> Iterator[Block]:
        for block, pause_s in zip(super().blocks(), self._pauses_s, strict=True):
            self._clock[0] += pause_s + len(block.samples) / RATE
            yield block._replace(lost=round(pause_s * RATE))


@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 20.0]), min_size=2, max_size=9), st.sampled_from([-3_600.0, 0.0, 7.0]))
def test_the_wall_clock_is_the_one_that_is_set_now_also_for_what_sounded_before(
    pauses_s: list[float], is_set_by_s: float
) -> None:
    """Recorded audio has no time of its own; a clock that is set corrects what it said before."""
    clock, offset = [77.0], 1e9
    capture = Capture(
        Timed(clock, pauses_s), RATE, STEP, live=True, wall=lambda: clock[0] + offset, clock=lambda: clock[0]
    )
    for _ in capture:
        pass
    offset += is_set_by_s
    samples = round(sum(pauses_s) * RATE) + 100 * len(pauses_s)
    assert capture.unix_s(samples) == pytest.approx(clock[0] + offset, abs=1e-6)
    assert capture.unix_s(0) == pytest.approx(77.0 + offset, abs=1e-3)


@given(st.floats(0.1, 30.0))
def test_what_is_late_without_a_loss_leaves_no_old_time_behind(late_s: float) -> None:
    """A pause that nobody count_noun: what came before it does not date what comes after a break."""
    clock = [77.0]

    class Late(Timed):
        def blocks(self) -> Iterator[Block]:
            for number, block in enumerate(super().blocks()):
                yield block._replace(lost=5 if number == 3 else 0)

    capture = Capture(
        Late(clock, [0, 0, 0, late_s, 0, 0]), RATE, STEP, live=True, wall=lambda: clock[0], clock=lambda: clock[0]
    )
    for _ in capture:
        pass
    assert capture.unix_s(605) == pytest.approx(clock[0], abs=1e-6)


# ----- several


def test_several_sources_are_read_together_each_in_its_order() -> None:
    changed = threading.Condition()
    captures = [Capture(Script(blocks), RATE, STEP, live=False, changed=changed) for blocks in (30, 0, 50)]
    heard: list[list[float]] = [[], [], []]
    for place, chunk in merge_captures(captures):
        heard[place] += list(chunk.samples)
    assert [len(samples) for samples in heard] == [3_000, 0, 5_000]
    assert all(samples == sorted(samples) for samples in heard)


def test_one_that_waits_does_not_hold_up_the_other() -> None:
    changed, release = threading.Condition(), threading.Event()
    captures = [
        Capture(Script(0, after=release), RATE, STEP, live=False, changed=changed),
        Capture(Script(10), RATE, STEP, live=False, changed=changed),
    ]
    heard = 0
    for _, chunk in merge_captures(captures):
        heard += len(chunk.samples)
        if heard == 1_000:
            release.set()
    assert heard == 1_000


def test_one_that_fails_ends_and_releases_all() -> None:
    changed, endless = threading.Condition(), Script(1_000_000)
    captures = [
        Capture(endless, RATE, STEP, live=False, changed=changed),
        Capture(Script(1, DataError("broken")), RATE, STEP, live=False, changed=changed),
    ]
    with pytest.raises(DataError, match="broken"):
        list(merge_captures(captures))
    assert endless.released.is_set()


@pytest.mark.parametrize("error", [DataError("broken"), OSError("broken")])
def test_one_that_fails_ends_no_other_if_so_asked_and_is_raised_in_the_end(error: Exception) -> None:
    changed = threading.Condition()
    captures = [
        Capture(Script(30), RATE, STEP, live=False, changed=changed),
        Capture(Script(2, error), RATE, STEP, live=False, changed=changed),
        Capture(Script(1, DataError("too")), RATE, STEP, live=False, changed=changed),
    ]
    heard, notices = [0, 0, 0], []
    with pytest.raises((DataError, OSError)) as raised:  # whichever comes first
        for place, chunk in merge_captures(captures, "continue"):
            assert chunk.start == heard[place]
            heard[place] += len(chunk.samples)
            notices += [(place, *notice) for notice in chunk.notices]
    assert heard == [3_000, 200, 100]
    assert sorted(notices) == [(1, "lost", "broken"), (2, "lost", "too")]
    assert str(raised.value) in {"broken", "too"}


def test_captures_that_cannot_be_waited_for_together_are_refused() -> None:
    with pytest.raises(ValueError, match="share one condition"):
        next(merge_captures([Capture(Script(1), RATE, STEP, live=False) for _ in range(2)]))


# ----- limits


@pytest.mark.parametrize("end", [0, 1, 99, 100, 101, 250, 300, 1_000])
def test_a_limit_is_met_to_the_sample(end: int) -> None:
    stream = [Chunk(100 * index, np.zeros(100, np.float32)) for index in range(3)]
    assert sum(len(chunk.samples) for chunk in limit_chunks(stream, end)) == min(end, 300)


def test_a_limit_counts_audio_of_the_stream_with_its_gaps() -> None:
    stream = [Chunk(0, np.zeros(100, np.float32)), Chunk(500, np.zeros(100, np.float32), (Notice("found", "again"),))]
    assert [chunk.start for chunk in limit_chunks(stream, 400)] == [0]
    assert sum(len(chunk.samples) for chunk in Capture(Script(9), RATE, STEP, live=False, duration_s=0.01)) == 160
