"""Stdout on a full disk: listening goes on, and every line that is there is whole."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import ExitCode
from flexiast.files import atomic
from flexiast_cli.terminal.full_disk import LossyFile, surviving_full_disk


@given(st.lists(st.tuples(st.text("ab", max_size=30), st.booleans()), max_size=20), st.integers(0, 200))
def test_what_is_there_are_whole_lines_but_for_those_that_were_torn(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, bool]], room: int
) -> None:
    """The disk fills up at a place of its own, and has room again for the lines that say so."""
    path = tmp_path_factory.mktemp("disk") / "out"
    lines = [(f"{number}:{text}.", has_room) for number, (text, has_room) in enumerate(lines)]  # no two alike
    notes: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("wb", buffering=0) as disk:
        file = LossyFile(disk.fileno(), notes.append)
        try:
            for text, has_room in lines:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1] if has_room else room, limits[1]))
                assert file.write(f"{text}\n".encode()) == len(text) + 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept, wanted = path.read_text().splitlines(), [text for text, _ in lines]
    whole = len(lines) - file.dropped_lines
    assert len(notes) == (file.dropped_lines > 0)
    assert all(text in kept for text, has_room in lines if has_room)
    # a line may be torn at its very end: it counts as left out, and is whole once the next one begins
    assert whole <= sum(text in kept for text in wanted)
    assert all(any(text.startswith(line) for text in wanted) for line in kept)
    assert [line for line in kept if line in wanted] == [text for text in wanted if text in kept]


def test_listening_goes_on_and_the_sinks_get_everything(
    tiny_bundle: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    sound = write_audio(tmp_path / "a.wav", np.random.default_rng(1).normal(0, 0.1, 5 * 16_000))
    command = [sys.executable, "-m", "flexiast_cli.main", "listen", tiny_bundle, "--pin", "16", "--input", sound]
    command += ["--threshold", "0.01", "--json", "--to", "jsonl:events.jsonl"]
    environment = os.environ | {f"XDG_{kind}_HOME": str(tmp_path) for kind in ("DATA", "CONFIG")}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        )
    assert done.returncode == ExitCode.LOST, done.stderr
    assert "stdout cannot be written: No space left on device" in done.stderr
    assert "stdout had no room for" in done.stderr
    assert done.stderr.count("No space left") == 1
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert any(event["type"] == "event" for event in events)


def test_a_terminal_or_a_stream_without_a_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, sys.stdin):
        monkeypatch.setattr(sys, "stdout", stream)
        with surviving_full_disk(print):
            pass
        assert sys.stdout is stream


def test_a_file_or_stdout_without_room_is_named_with_a_remedy() -> None:
    command = [sys.executable, "-m", "flexiast_cli.main", "config", "schema"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "cannot be used: No space left on device; free some space or name another place"
    assert (done.returncode, done.stderr) == (1, f"flexiast: stdout {said}\n")
    with pytest.raises(OSError, match="No space left") as raised, atomic(Path("/dev/full")) as file:
        file.write(b"a")
    assert raised.value.filename == "/dev/full"
