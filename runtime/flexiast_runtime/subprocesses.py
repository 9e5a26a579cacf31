"""Reads the output of other programs: run without a shell, with a time limit, ended with all their children."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from flexiast.errors import DataError

MAX_BYTES = 64_000
POLL_S = 0.02
"""Seconds between two checks whether a program has ended"""


def output_of(argv: Sequence[str], timeout_s: float) -> str:
    """The stdout of a program that exits with 0 in time; raises DataError otherwise.

    Only the program itself is waited for. A child may hold its stdout open; it is killed when the program exits.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    except OSError as error:
        raise DataError(f"{argv[0]} cannot be run: {error.strerror}") from error
    with process:
        try:
            content = _read_until_end(process, time.monotonic() + timeout_s)
        finally:
            with suppress(ProcessLookupError):  # not waited for yet, so the group's number is still its own
                os.killpg(process.pid, signal.SIGKILL)
    if content is None:
        raise DataError(f"{argv[0]} took more than {timeout_s:g} s and was ended")
    if len(content) >= MAX_BYTES:
        raise DataError(f"{argv[0]} prints {MAX_BYTES:,} bytes or more, which can be no reading")
    if process.returncode:
        raise DataError(f"{argv[0]} ended with {process.returncode}")
    return content.decode(errors="replace")


def _read_until_end(process: subprocess.Popen[bytes], deadline_s: float) -> bytes | None:
    """What a program prints until it ends, up to MAX_BYTES; None where the deadline comes first."""
    assert process.stdout is not None
    pipe, content, is_open = process.stdout.fileno(), b"", True
    os.set_blocking(pipe, False)
    while time.monotonic() < deadline_s:
        # Checked before the pipe is read: all output of a program that has ended is in the pipe by now.
        has_ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        try:
            while is_open and len(content) < MAX_BYTES:
                chunk = os.read(pipe, MAX_BYTES - len(content))
                content, is_open = content + chunk, bool(chunk)
        except BlockingIOError:
            pass
        if has_ended or len(content) >= MAX_BYTES:
            return content
        select.select([pipe] if is_open else [], [], [], POLL_S)
    return None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program that leads a group of its own, and all that it started, unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
