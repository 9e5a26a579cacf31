"""Programs of others: what they print, and every way not to answer."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from flexiast.errors import DataError
from flexiast_runtime.subprocesses import output_of

PATIENCE_S = 30.0
"""Far more than any program here takes on a busy machine."""


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def test_what_a_program_prints_is_returned() -> None:
    assert output_of(("echo", "charging=true", "$HOME"), PATIENCE_S) == "charging=true $HOME\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("/no/such/program",), "cannot be run: No such file"),
        (("/etc/passwd",), "cannot be run: Permission denied"),
        (("sh", "-c", "echo 1; exit 7"), "ended with 7"),
        (("yes",), "prints 64,000 bytes or more"),
    ],
)
def test_what_fails_says_how(argv: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        output_of(argv, PATIENCE_S)


@pytest.mark.parametrize("code", ["import time; time.sleep(99)", "import os, time; os.close(1); time.sleep(99)"])
def test_what_hangs_is_ended(code: str) -> None:
    with pytest.raises(DataError, match=r"took more than 0\.2 s"):
        output_of(python(code), 0.2)


def test_what_a_hanging_program_started_is_ended_with_it(tmp_path: Path) -> None:
    """A child keeps the pipe open, so that waiting for the program alone would take as long as the child."""
    note = tmp_path / "child"
    with pytest.raises(DataError, match="took more than"):
        output_of(("sh", "-c", f"sleep 99 & echo $! > {note}; wait"), 0.5)
    child, deadline = int(note.read_text()), time.monotonic() + PATIENCE_S
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_keeps_stdout_open_is_not_waited_for(tmp_path: Path) -> None:
    """The program itself has printed its reading and ended; what it left behind ends with it."""
    note = tmp_path / "child"
    assert output_of(("sh", "-c", f"sleep 99 & echo $! > {note}; echo watts=5"), PATIENCE_S) == "watts=5\n"
    child, deadline = int(note.read_text()), time.monotonic() + PATIENCE_S
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_of_another_session_that_keeps_stdout_open_is_not_waited_for() -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True); print('watts=5')"
    assert output_of(python(code), PATIENCE_S) == "watts=5\n"


def test_all_that_a_program_printed_is_read_however_late_it_is_read() -> None:
    assert output_of(python("print('x' * 63_000, end='')"), PATIENCE_S) == "x" * 63_000


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
