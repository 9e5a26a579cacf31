"""Signals while nobody reads stdout: the end comes all the same, and what was heard is in the sinks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 16_000
MANY_S = 60.0
"""Longer than anything here takes, also where every core is busy."""


def full_pipe() -> tuple[int, int]:
    """One that takes nothing more."""
    out, into = os.pipe()
    ours = os.open(f"/proc/self/fd/{into}", os.O_WRONLY | os.O_NONBLOCK)  # the other end keeps its own flags
    with suppress(BlockingIOError):
        while True:
            os.write(ours, bytes(4096))
    os.close(ours)
    return out, into


def await_file(path: Path) -> None:
    end_s = time.monotonic() + MANY_S
    while not path.exists():
        assert time.monotonic() < end_s, f"{path.name} was never written"
        time.sleep(0.02)


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def noisy_wav(tmp_path: Path) -> Path:
    """Noise and silence by turns, which the tiny model tells apart."""
    rng = np.random.default_rng(0)
    parts = [part for _ in range(4) for part in (rng.normal(0, 0.1, RATE), np.zeros(RATE))]
    soundfile.write(path := tmp_path / "noisy.wav", np.concatenate(parts).astype(np.float32), RATE)
    return path


@contextmanager
def listening(
    bundle: Path, folder: Path, stdout: int, *options: str, stdin: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """`listen` with a sink, writing to a pipe of the test's; killed in the end, if it has not ended."""
    program = [sys.executable, "-W", "error", "-m", "flexiast_cli.main", "listen", str(bundle)]
    own = {f"XDG_{kind}_HOME": str(folder) for kind in ("CACHE", "CONFIG", "DATA")}
    with subprocess.Popen(
        [*program, *options, "--json", "--to", "jsonl:heard.jsonl"],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=os.environ | own | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    ) as run:
        os.close(stdout)
        try:
            yield run
        finally:
            run.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_what_nobody_reads_and_the_sinks_have_it_all(
    tiny_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, into = full_pipe()
    with listening(tiny_bundle, tmp_path, into, "--input", "-") as run:
        assert run.stdin is not None and run.stderr is not None
        run.stdin.write(bytes(60_000))  # less than a pipe holds; there may be more to come
        run.stdin.flush()
        await_file(tmp_path / "heard.jsonl")  # it listens
        run.send_signal(number)
        assert run.wait(MANY_S) == code
        run.stdin.close()
        assert b"stdout was not read" in run.stderr.read()
    os.close(out)
    assert jsonl(tmp_path / "heard.jsonl")[-1]["type"] == "summary"


def test_live_sound_goes_to_the_sinks_while_nobody_reads_stdout(
    tiny_bundle: Path, tmp_path: Path, noisy_wav: Path
) -> None:
    """The reader comes back before the end, and gets every event that it missed."""
    out, into = full_pipe()
    heard = tmp_path / "heard.jsonl"
    with listening(
        tiny_bundle, tmp_path, into, "--input", str(noisy_wav), "--realtime", stdin=subprocess.DEVNULL
    ) as run:
        end_s = time.monotonic() + MANY_S
        while not (heard.exists() and jsonl(heard)[-1:] and jsonl(heard)[-1]["type"] == "summary"):
            assert time.monotonic() < end_s, "nothing was heard to the end"
            assert run.poll() is None
            time.sleep(0.05)
        with os.fdopen(out, "rb") as reader:
            printed = reader.read().lstrip(b"\0").splitlines()
        assert run.wait(MANY_S) == 0
    kept = [record for record in map(json.loads, printed) if record["type"] == "event"]
    assert kept == [record for record in jsonl(heard) if record["type"] == "event"]
    assert kept


def test_a_reader_that_goes_leaves_the_end_to_the_sinks(tiny_bundle: Path, tmp_path: Path, noisy_wav: Path) -> None:
    out, into = os.pipe()
    os.close(out)
    with listening(tiny_bundle, tmp_path, into, "--input", str(noisy_wav), stdin=subprocess.DEVNULL) as run:
        assert run.wait(MANY_S) == 0
    assert [record["type"] for record in jsonl(tmp_path / "heard.jsonl")][-1] == "summary"


@pytest.mark.parametrize("options", [(), ("--json", "--explain")])
def test_a_stdout_that_was_closed_beforehand_is_no_error(
    tiny_bundle: Path, noisy_wav: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    flexiast = [sys.executable, "-W", "error", "-m", "flexiast_cli.main"]
    command = [*flexiast, "listen", str(tiny_bundle), "--input", str(noisy_wav), "--to", "jsonl:heard.jsonl", *options]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert any(record["type"] == "event" for record in jsonl(tmp_path / "heard.jsonl"))


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["flexiast_cli.commands.simulate.command", "numpy"])
def test_a_signal_in_an_import_ends_the_program_quietly_whatever_the_import_makes_of_it(
    module: str, number: str, code: int
) -> None:
    """One is loaded before any command, the other by one, which would go on for minutes."""
    program = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

class Interrupting:
    def find_spec(name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.{number})
            except BaseException:
                raise ImportError("as NumPy's C extensions say of whatever is raised in them")

sys.meta_path.insert(0, Interrupting)
sys.argv = ["flexiast", "simulate", "commands", "--hours", "168"]
from flexiast_cli.main import run
run()
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=env)
    assert (run.returncode, run.stdout, run.stderr) == (code, "", "")
