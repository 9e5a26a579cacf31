"""Files and pipes, against one-shot reading and one-shot resampling."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import resample_poly

from flexiast.data.audio import read_audio
from flexiast.errors import DataError
from flexiast_runtime.audio.source import Block, Chunk, FileSource, Notice, PcmSource, RealTime, chunks

Float = NDArray[np.float32]
WriteAudio = Callable[..., Path]


class Script:
    """A source that delivers these blocks."""

    name = "script"

    def __init__(self, blocks: Sequence[Block], rate_hz: int) -> None:
        self._blocks, self.rate_hz = blocks, rate_hz

    def blocks(self) -> Iterator[Block]:
        return iter(self._blocks)


def noise(*shape: int) -> Float:
    return np.random.default_rng(shape).normal(scale=0.1, size=shape).astype(np.float32)


def joined(found: Sequence[Chunk]) -> Float:
    return np.concatenate([np.empty(0, np.float32), *(chunk.samples for chunk in found)])


def follow_each_other(found: Sequence[Chunk]) -> bool:
    return [chunk.start for chunk in found] == list(np.cumsum([0, *(len(chunk.samples) for chunk in found)]))[:-1]


# ----- resampling


def test_a_stereo_file_at_another_rate_is_resampled_as_if_in_one_piece(tmp_path: Path, write_audio: WriteAudio) -> None:
    samples = noise(60_000, 2)
    path = write_audio(tmp_path / "stereo.wav", samples, 44_100, subtype="FLOAT")
    found = list(chunks(FileSource(path), 16_000))
    expected = soxr.resample(samples.mean(axis=1, dtype=np.float32), 44_100, 16_000)
    assert follow_each_other(found)
    assert len(joined(found)) == len(expected)
    # the same filter fed in blocks: soxr's FFTs see other neighbours, last digits of samples near 0.1
    np.testing.assert_allclose(joined(found), expected, rtol=0, atol=1e-6)


@given(st.lists(st.integers(0, 5_000), max_size=10), st.sampled_from([8_000, 22_050, 44_100, 48_000]))
def test_resampling_does_not_depend_on_the_blocks(sizes: list[int], rate_hz: int) -> None:
    samples = noise(20_000, 1)
    blocks = np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), len(samples)))
    found = list(chunks(Script([Block(block) for block in blocks], rate_hz), 16_000))
    assert follow_each_other(found)
    expected = soxr.resample(samples[:, 0], rate_hz, 16_000)
    assert len(joined(found)) == len(expected)
    np.testing.assert_allclose(joined(found), expected, rtol=0, atol=1e-6)  # last digits, as above


def test_resampling_agrees_with_another_resampler() -> None:
    seconds = np.arange(44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    found = joined(list(chunks(Script([Block(tone[:, None])], 44_100), 16_000)))
    expected = resample_poly(tone, 160, 441)
    # two good low-pass filters pass 440 Hz alike, to -60 dB; at the ends each sees its own padding
    np.testing.assert_allclose(found[500:-500], expected[500:-500], rtol=0, atol=5e-4)


def test_a_source_at_the_models_rate_passes_unchanged(tmp_path: Path, write_audio: WriteAudio) -> None:
    samples = noise(10_000)
    path = write_audio(tmp_path / "mono.wav", samples, subtype="FLOAT")
    assert np.array_equal(joined(list(chunks(FileSource(path), 16_000))), samples)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_streaming_hears_what_training_read(rate_hz: int, tmp_path: Path, write_audio: WriteAudio) -> None:
    path = write_audio(tmp_path / "clip.flac", noise(12_345, 2), rate_hz)
    found, expected = joined(list(chunks(FileSource(path), 16_000))), read_audio(path, 16_000)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # last digits, as above


# ----- gaps


def with_a_loss(rate_hz: int, before: int, lost: int, after: int) -> tuple[Script, int]:
    """One click 100 frames after a loss, and its frame number."""
    tail = np.zeros((after, 1), np.float32)
    tail[100] = 1.0
    return Script([Block(np.zeros((before, 1), np.float32)), Block(tail, lost)], rate_hz), before + lost + 100


def test_a_loss_makes_the_counter_jump() -> None:
    source, _ = with_a_loss(16_000, before=1_000, lost=300, after=500)
    assert [(chunk.start, len(chunk.samples)) for chunk in chunks(source, 16_000)] == [(0, 1_000), (1_300, 500)]


def test_a_source_that_delivers_nothing_now_lets_its_reader_look_up() -> None:
    source = Script([Block(noise(500, 1)), Block(noise(0, 1)), Block(noise(500, 1))], 16_000)
    assert [(chunk.start, len(chunk.samples)) for chunk in chunks(source, 16_000)] == [(0, 500), (500, 0), (500, 500)]


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@given(sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=5))
def test_what_is_said_with_a_block_is_said_once_however_short_it_is(rate_hz: int, sizes: list[int]) -> None:
    notices = [Notice("found", str(number)) for number in range(len(sizes))]
    source = Script([Block(noise(size, 1), 100, notice) for size, notice in zip(sizes, notices, strict=True)], rate_hz)
    assert [notice for chunk in chunks(source, 16_000) for notice in chunk.notices] == notices


def test_a_loss_before_anything_came_counts_too() -> None:
    source = Script([Block(noise(500, 1), lost=200)], 16_000)
    assert [chunk.start for chunk in chunks(source, 16_000)] == [200]


@given(st.integers(0, 30_000), st.integers(1, 50_000), st.sampled_from([8_000, 22_050, 44_100, 48_000]))
def test_a_sound_after_a_loss_keeps_its_time_when_resampled(before: int, lost: int, rate_hz: int) -> None:
    source, click = with_a_loss(rate_hz, before, lost, after=5_000)
    found = list(chunks(source, 16_000))
    loudest = max(found, key=lambda chunk: chunk.samples.max(initial=0.0))
    heard = loudest.start + int(loudest.samples.argmax())
    # half a sample each: the length of the part before, the loss, the click between two samples
    assert abs(heard - click * 16_000 / rate_hz) <= 1.5


def test_losses_do_not_add_up_to_a_late_clock() -> None:
    blocks = [Block(noise(4_410, 1), lost=441 if index else 0) for index in range(100)]
    found = list(chunks(Script(blocks, 44_100), 16_000))
    assert sum(len(chunk.samples) for chunk in found) == 100 * 1_600
    assert found[-1].start + len(found[-1].samples) == 100 * 1_600 + 99 * 160


# ----- files that cannot be read


def empty(path: Path) -> None:
    soundfile.write(path, np.empty(0, np.float32), 16_000)


def with_one(value: float) -> Callable[[Path], None]:
    samples = noise(5_000)
    samples[4_999] = value
    return lambda path: soundfile.write(path, samples, 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("a story"), "cannot be read as audio"),
        (lambda path: path.write_bytes(b""), "cannot be read as audio"),
        (lambda path: path.mkdir(), "cannot be read as audio"),
        (empty, "holds no samples"),
        (with_one(np.nan), "not numbers"),
        (with_one(np.inf), "not numbers"),
    ],
    ids=["missing", "text", "0 bytes", "folder", "0 samples", "nan", "infinite"],
)
def test_a_file_that_is_no_audio_is_a_data_error_with_its_name(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(DataError, match=rf"bad\.wav.*{message}"):
        list(chunks(FileSource(path), 16_000))


def test_a_file_that_breaks_off_is_a_data_error(tmp_path: Path, write_audio: WriteAudio) -> None:
    path = write_audio(tmp_path / "cut.flac", noise(80_000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cut\.flac broke off"):
        list(chunks(FileSource(path), 16_000))


# ----- pipes


class Pipe(io.RawIOBase):
    """Hands its content over in pieces of these sizes, then in what is left."""

    def __init__(self, content: bytes, sizes: Sequence[int]) -> None:
        self._content, self._sizes = content, list(sizes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        wanted = min(self._sizes.pop(0) if self._sizes else len(self._content), len(buffer))
        piece, self._content = self._content[:wanted], self._content[wanted:]
        buffer[: len(piece)] = piece
        return len(piece)


@given(st.lists(st.integers(1, 700), max_size=30), st.integers(0, 3_000))
def test_pcm_may_be_split_anywhere(sizes: list[int], count: int) -> None:
    integers = np.random.default_rng(count).integers(-32_768, 32_768, count).astype("<i2")
    found = joined(list(chunks(PcmSource(Pipe(integers.tobytes(), sizes), 16_000), 16_000)))
    assert np.array_equal(found, integers / 32_768)  # exact: 16 bits fit float32


def test_pcm_is_what_a_wav_file_of_it_says(tmp_path: Path, write_audio: WriteAudio) -> None:
    integers = np.array([-32_768, -1, 0, 1, 32_767], "<i2")
    path = write_audio(tmp_path / "pcm.wav", integers, subtype="PCM_16")
    piped = joined(list(chunks(PcmSource(io.BytesIO(integers.tobytes()), 16_000), 16_000)))
    assert np.array_equal(piped, soundfile.read(path, dtype="float32")[0])


def test_a_slow_pipe_is_handed_on_as_it_comes() -> None:
    pipe = io.BufferedReader(Pipe(bytes(400), [20, 40, 340]))
    assert [len(block.samples) for block in PcmSource(pipe, 16_000).blocks()] == [10, 20, 170]


def test_a_pipe_that_ends_inside_a_sample_is_a_data_error_after_what_was_whole() -> None:
    source, found = PcmSource(io.BytesIO(bytes(2_001)), 16_000, "fifo"), []
    with pytest.raises(DataError, match="fifo ended inside a sample"):
        found.extend(source.blocks())
    assert sum(len(block.samples) for block in found) == 1_000


# ----- pace


class Clock:
    """Time that passes only while a reader waits, and where a test sets it."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, 0.0

    def __call__(self) -> float:
        return self.now

    def read(self, source: RealTime) -> Iterator[Block]:
        """The blocks with sound, each after the waits that the source asked for."""
        for block in source.blocks():
            if block.wait is None:
                yield block
                continue
            assert block.wait.timeout_s > 0
            assert not len(block.samples)
            self.now += block.wait.timeout_s
            self.slept += block.wait.timeout_s


class Read(NamedTuple):
    """A source in real time, read by somebody who waits."""

    clock: Clock
    source: RealTime

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def rate_hz(self) -> int:
        return self.source.rate_hz

    def blocks(self) -> Iterator[Block]:
        return self.clock.read(self.source)


@pytest.mark.parametrize("magic", [b"RIFF", b"ID3\x04", b"OggS", b"fLaC"])
def test_a_file_piped_in_as_samples_is_refused(magic: bytes) -> None:
    with pytest.raises(DataError, match="is an audio file"):
        list(PcmSource(io.BytesIO(magic + bytes(2_000)), 16_000).blocks())


def test_each_block_comes_when_a_microphone_would_have_it() -> None:
    clock, source = Clock(), Script([Block(noise(size, 1)) for size in (160, 1_600, 3_200)], 16_000)
    times = [clock.now for _ in clock.read(RealTime(source, clock))]
    assert times == pytest.approx([100.01, 100.11, 100.31])  # sums of floats


def test_a_late_reader_is_not_made_later() -> None:
    clock, source = Clock(), Script([Block(noise(1_600, 1))] * 10, 16_000)
    for _ in clock.read(RealTime(source, clock)):
        clock.now += 0.25
    assert clock.slept == pytest.approx(0.1)  # before the first block only
    assert clock.now == pytest.approx(100.1 + 10 * 0.25)


def test_pacing_changes_no_audio(tmp_path: Path, write_audio: WriteAudio) -> None:
    clock, path = Clock(), write_audio(tmp_path / "clip.wav", noise(20_000, 2), 44_100)
    paced = list(chunks(Read(clock, RealTime(FileSource(path), clock)), 16_000))
    plain = list(chunks(FileSource(path), 16_000))
    assert np.array_equal(joined(paced), joined(plain))
    assert clock.slept == pytest.approx(20_000 / 44_100)
