"""Waveforms in memory and on disk are the same."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.data.clips import Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.data.waveforms import memory_budget
from flexiast.errors import DataError

Float = NDArray[np.float32]
ALL = 10**9


@pytest.fixture
def tones(tmp_path: Path, write_audio: Callable[..., Path], make_tone: Callable[..., Float]) -> Dataset:
    """Five clips of half a second at three rates, in 32,000 bytes each once decoded at 16 kHz."""
    lines = ["path,label,split"]
    for index, rate_hz in enumerate((16_000, 44_100, 16_000, 8_000, 16_000)):
        write_audio(tmp_path / f"{index}.wav", make_tone(300 + 100 * index, seconds=0.5, rate_hz=rate_hz), rate_hz)
        lines.append(f"{index}.wav,tone,train")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(tmp_path)


@pytest.mark.parametrize("budget", [0, 1, 70_000, ALL])
def test_the_same_index_gives_the_same_samples_whatever_fits(tones: Dataset, budget: int) -> None:
    _, kept, _ = load_waveforms(tones, 16_000, budget_bytes=ALL)
    _, some, _ = load_waveforms(tones, 16_000, budget_bytes=budget)
    assert len(some) == len(kept) == 5
    for index in (3, 0, 4, -1, np.int64(2), 3):  # any order, again, from the end, as numpy counts
        np.testing.assert_array_equal(some[index], kept[index])
    assert [len(waveform) for waveform in some[1:4]] == [8_000] * 3
    assert len(list(some)) == 5
    with pytest.raises(IndexError):
        some[5]


def test_what_fits_is_read_once_and_the_rest_at_each_access(tones: Dataset) -> None:
    _, waveforms, _ = load_waveforms(tones, 16_000, budget_bytes=2 * 32_000)
    for clip in tones.clips:
        clip.path.unlink()
    assert [len(waveforms[index]) for index in (0, 1)] == [8_000, 8_000]
    with pytest.raises(DataError, match=r"2\.wav does not exist"):
        waveforms[2]


def test_beyond_the_budget_headers_are_checked(tones: Dataset) -> None:
    tones.clips[3].path.write_bytes(b"not audio")
    good, waveforms, errors = load_waveforms(tones, 16_000, budget_bytes=0)
    assert len(errors) == 1
    assert [clip.path.name for clip in good.clips] == ["0.wav", "1.wav", "2.wav", "4.wav"]
    np.testing.assert_array_equal(waveforms[3], load_waveforms(tones, 16_000)[1][3])


def test_an_empty_file_is_found_by_its_header(tones: Dataset, write_audio: Callable[..., Path]) -> None:
    write_audio(tones.clips[2].path, np.zeros(0, np.float32))
    good, _, (error,) = load_waveforms(tones, 16_000, budget_bytes=0)
    assert "holds no samples" in str(error)
    assert [clip.path.name for clip in good.clips] == ["0.wav", "1.wav", "3.wav", "4.wav"]


def test_threads_and_other_processes_read_the_same(tones: Dataset) -> None:
    _, waveforms, _ = load_waveforms(tones, 16_000, budget_bytes=0)
    copy = pickle.loads(pickle.dumps(waveforms))
    with ThreadPoolExecutor(4) as pool:
        for index, waveform in enumerate(pool.map(copy.__getitem__, range(5))):
            np.testing.assert_array_equal(waveform, waveforms[index])


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = memory_budget()
    assert 0 < alone <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_budget() == alone // 4


def test_a_clip_may_be_a_span_of_a_recording(tmp_path: Path, write_audio: Callable[..., Path]) -> None:
    ramp = np.arange(80_000) / 80_000
    write_audio(tmp_path / "day.wav", ramp, subtype="FLOAT")
    lines = [
        "path,label,split,start_s,end_s",
        "day.wav,dog,train,1,2.5",
        "day.wav,cat,train,,",
        "day.wav,dog,val,4,5.05",
    ]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    dataset = read_dataset(tmp_path / "clips.csv")
    assert [clip.span_s for clip in dataset.clips] == [(1, 2.5), None, (4, 5.05)]
    for budget in (None, 0):
        _, waveforms, _ = load_waveforms(dataset, 16_000, budget_bytes=budget)
        for waveform, (start, end) in zip(waveforms, [(16_000, 40_000), (0, 80_000), (64_000, 80_000)], strict=True):
            np.testing.assert_array_equal(waveform, np.float32(ramp[start:end]))
