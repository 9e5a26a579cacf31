"""`flexiast record`: a microphone that breaks off, one that is silent, and options that cannot be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from flexiast.data.background import background_clips
from flexiast_cli.app import app
from flexiast_cli.commands.record.run import record_source
from flexiast_runtime.audio.recorder import Recorder
from flexiast_runtime.audio.source import Block, Notice

RATE = 8_000


class Microphone:
    """Half a second of noise at a time, with a break after the sixth; a thread of its own waits for its recorder."""

    name, rate_hz = "fake", RATE

    def __init__(
        self, recorder: Recorder, level: float, ended: threading.Event, blocks: int = 12, gap_s: float = 3.0
    ) -> None:
        self._recorder, self._level, self._ended = recorder, level, ended
        self._blocks, self._gap_s = blocks, gap_s

    def blocks(self) -> Iterator[Block]:
        rng = np.random.default_rng(0)
        for number in range(self._blocks):
            while (
                threading.current_thread() is not threading.main_thread()
                and not self._ended.is_set()
                and self._recorder.recorded.samples < number * RATE // 2
            ):
                time.sleep(0.001)
            if number == 6:
                yield Block(np.empty((0, 1), np.float32), notice=Notice("lost", "unplugged"))
            lost = round(self._gap_s * RATE) if number == 6 else 0
            yield Block(rng.normal(0, self._level, (RATE // 2, 1)).astype(np.float32), lost)


def record(recorder: Recorder, level: float, *, duration_s: float | None = None, **given: Any) -> None:
    ended = threading.Event()
    try:
        record_source(Microphone(recorder, level, ended, **given), recorder, duration_s)
    finally:
        ended.set()


def test_a_break_is_told_and_parts_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(Recorder(tmp_path, RATE, 600.0), 0.05)
    told = " ".join(capsys.readouterr().err.split())
    assert "lost: unplugged" in told
    assert "1 gap of 3.0 s" in told
    assert "in 2 files" in told
    assert [soundfile.info(clip.path).duration for clip in background_clips([tmp_path])] == [3.0, 3.0]


def test_so_much_audio_is_enough(tmp_path: Path) -> None:
    record(Recorder(tmp_path, RATE, 600.0), 0.05, gap_s=0, duration_s=2.25)
    (file,) = tmp_path.glob("*.flac")
    assert soundfile.info(file).frames == 2.25 * RATE


def test_a_microphone_that_is_silent_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(Recorder(tmp_path, RATE, 600.0), 0.0, blocks=130, gap_s=0)
    told = " ".join(capsys.readouterr().err.split())
    assert "no signal" in told
    assert "turn the microphone up" in told


def test_a_full_disk_ends_it_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(Recorder(tmp_path, RATE, 600.0, "wav", most_bytes=30_000), 0.05, gap_s=0)
    assert "Recording ends" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.wav"))) == 1


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "place").touch()
    result = CliRunner().invoke(app, ["record", "-o", str(tmp_path / "place")])
    assert result.exit_code == 2
    assert "name a folder" in result.stderr


@pytest.mark.parametrize(
    "words", [("--hours", "0"), ("--disk-limit", "much"), ("--file-minutes", "-1"), ("--format", "mp3"), ()]
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    given = ["record", *(("-o", str(tmp_path / "place"), *words) if words else ())]
    assert CliRunner().invoke(app, given).exit_code == 2
    assert not (tmp_path / "place").exists()
