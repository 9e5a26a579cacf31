"""Signals while nobody reads stdout: the end comes all the same, and what was heard is in the sinks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_what_nobody_reads_and_the_sinks_have_it_all(
    tiny_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, into = full_pipe()
    program = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "flexiast_cli.main",
        "listen",
        tiny_bundle,
        "--input",
        "-",
        "--json",
    ]
    own = {f"XDG_{kind}_HOME": str(tmp_path) for kind in ("CACHE", "CONFIG", "DATA")}
    with subprocess.Popen(
        [*program, "--to", "jsonl:heard.jsonl"],
        stdin=subprocess.PIPE,
        stdout=into,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | own | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    ) as run:
        os.close(into)
        assert run.stdin is not None and run.stderr is not None
        try:
            run.stdin.write(bytes(60_000))  # less than a pipe holds; there may be more to come
            run.stdin.flush()
            await_file(tmp_path / "heard.jsonl")  # it listens
            run.send_signal(number)
            assert run.wait(MANY_S) == code
        finally:
            run.kill()
        assert b"stdout was not read" in run.stderr.read()
    os.close(out)
    last = json.loads((tmp_path / "heard.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "summary"
