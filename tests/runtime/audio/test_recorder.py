"""Recordings that appear whole, and what is said of their level."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from flexiast.data.background import background_clips, stretches_of
from flexiast_runtime.audio.levels import QUIET_S, LevelCheck
from flexiast_runtime.audio.recorder import JOURNAL, LEAST_FREE_BYTES, FileFormat, Recorder
from flexiast_runtime.audio.signal import Signal

Float = NDArray[np.float32]

RATE = 8_000
STARTED_S = 1_795_620_282.0


def make_noise(seconds: float, seed: int = 0) -> Float:
    """As 16 bits hold it."""
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, round(seconds * RATE))
    return (samples / 32_768).astype(np.float32)


def write_all(recorder: Recorder, samples: Float, started_at_s: float = STARTED_S) -> str | None:
    reason = None
    for start in range(0, len(samples), 777):
        reason = recorder.write(samples[start : start + 777], started_at_s + start / RATE)
    return reason


def read_journal(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


@pytest.mark.parametrize("file_format", ["flac", "wav"])
def test_files_follow_each_other_without_a_sample_between(tmp_path: Path, file_format: FileFormat) -> None:
    recorder, noise = Recorder(tmp_path / "place", RATE, 2.0, file_format), make_noise(5.3)
    assert write_all(recorder, noise) is None
    recorder.close()
    files = sorted((tmp_path / "place").glob(f"*.{file_format}"))
    assert files == recorder.recorded.files
    assert [file.name for file in files] == [f"20261125T1524{second:02}Z.{file_format}" for second in (42, 44, 46)]
    np.testing.assert_array_equal(np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files]), noise)
    stretches, errors = stretches_of(background_clips([tmp_path / "place"]), RATE)
    assert not errors
    assert sum(stretches.seconds) == pytest.approx(5.3, abs=1e-3)
    assert [entry["seconds"] for entry in read_journal(tmp_path / "place")] == [2.0, 2.0, 1.3]


def test_a_gap_begins_another_file_and_is_noted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RATE, 60.0)
    write_all(recorder, make_noise(1.0))
    recorder.break_off(2.5, "unplugged")
    write_all(recorder, make_noise(0.1), STARTED_S + 3.5)  # too short to be a recording
    recorder.break_off(0.5, "unplugged")
    write_all(recorder, make_noise(1.5, 1), STARTED_S + 4)
    recorder.close()
    assert [soundfile.info(file).duration for file in recorder.recorded.files] == [1.0, 1.5]
    assert (recorder.recorded.gaps, recorder.recorded.lost_s, recorder.recorded.samples) == (2, 3.0, 20_000)
    assert [entry.get("gap_s") for entry in read_journal(tmp_path)] == [None, 2.5, 0.5, None]
    assert not list(tmp_path.glob(".*tmp*"))


def test_a_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RATE, 60.0)
    write_all(recorder, make_noise(3.0))
    assert not list(tmp_path.glob("*.flac"))
    with pytest.raises(Exception, match="holds no audio"):
        background_clips([tmp_path])
    recorder.close()
    assert len(list(tmp_path.glob("*.flac"))) == 1


def test_a_clock_that_is_set_back_replaces_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = Recorder(tmp_path, RATE, 60.0)
        write_all(recorder, make_noise(1.0))
        recorder.close()
    assert sorted(path.name for path in tmp_path.glob("*.flac")) == ["20261125T152442Z-2.flac", "20261125T152442Z.flac"]


def test_a_limit_of_the_disk_ends_the_recording_with_what_there_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "few", RATE, 1.0, "wav", most_bytes=40_000)
    assert write_all(recorder, make_noise(10.0)) is not None
    assert [soundfile.info(file).duration for file in recorder.recorded.files][:2] == [1.0, 1.0]
    assert sum(file.stat().st_size for file in recorder.recorded.files) < 60_000
    free: Iterator[int] = iter([LEAST_FREE_BYTES] * 11 + [LEAST_FREE_BYTES - 1] * 100)
    recorder = Recorder(tmp_path / "full", RATE, 60.0, free_bytes=lambda _: next(free))
    assert "are free on the disk" in (write_all(recorder, make_noise(10.0)) or "")
    (only,) = recorder.recorded.files
    assert soundfile.info(only).frames == 11 * 777


def test_a_microphone_that_is_turned_down_or_clips_is_named_once() -> None:
    levels = LevelCheck(RATE)

    def hear(minutes: float, **fields: float) -> list[str]:
        signal = Signal(**fields)  # type: ignore[arg-type]
        return [warning for _ in range(round(2 * 60 * minutes)) for warning in levels.update(signal, 0.5)]

    (quiet,) = hear(3, level_dbfs=-90.0, peak_dbfs=-75.0)
    assert "-75 dBFS; turn the microphone up" in quiet
    assert hear(2, level_dbfs=-50.0, peak_dbfs=-30.0) == []
    (clipped,) = hear(1, level_dbfs=-10.0, peak_dbfs=0.0, clipped=5_000)
    assert "5,000 samples of a minute are clipped" in clipped
    assert hear(2, level_dbfs=-40.0, peak_dbfs=-20.0, clipped=5_020) == []  # a door slammed
    assert len(hear(1, level_dbfs=-90.0, peak_dbfs=-75.0, clipped=5_020)) == 1  # again, after it was over
    assert str(levels) == "median level -50 dBFS"
    assert QUIET_S == 60


def test_a_microphone_that_is_unplugged_for_a_while_gives_two_recordings(
    virtual_microphone: Callable[..., Any], write_audio: Callable[..., Path], tmp_path: Path
) -> None:
    """Each of which is what was played, to the likeness that a converter leaves."""
    played = np.random.default_rng(0).normal(0, 0.1, 48_000 * 4)
    wav, place = write_audio(tmp_path / "played.wav", played, 48_000), tmp_path / "place"
    program = [sys.executable, "-m", "flexiast_cli.main", "record", "-o", place, "--device", "usbmic"]
    running = virtual_microphone(program, usbmic=wav)

    def await_that(is_so: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < end_s, running.errors.read_text()
            assert running.process.poll() is None, running.errors.read_text()
            time.sleep(0.05)

    def count_written() -> int:
        return sum(path.stat().st_size for path in place.glob(".*.flac.tmp*"))

    await_that(lambda: count_written() > 100_000)
    running.ctl("usbmic", "unplug")
    await_that(lambda: "lost: " in running.errors.read_text())
    running.ctl("usbmic", "ok")
    await_that(lambda: len(list(place.glob("*.flac"))) == 1 and count_written() > 100_000)
    (recording,) = subprocess.run(
        ["pgrep", "-P", str(running.process.pid)], check=True, capture_output=True, text=True
    ).stdout.split()
    os.kill(int(recording), signal.SIGINT)
    assert running.process.wait(60) == 130, running.errors.read_text()
    files = sorted(place.glob("*.flac"))
    assert len(files) == 2
    assert "in 2 files, 1 gap" in running.errors.read_text()
    for file in files:
        heard, rate_hz = soundfile.read(file)
        assert rate_hz == 48_000
        assert np.sqrt(np.mean(heard[4_800:-4_800] ** 2)) == pytest.approx(0.1, rel=0.2)
    assert not list(place.glob(".*tmp*"))
