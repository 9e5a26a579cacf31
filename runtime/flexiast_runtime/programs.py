"""What other programs print: run without a shell, for so long, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from flexiast.errors import DataError

MAX_BYTES = 64_000


def output_of(argv: Sequence[str], timeout_s: float) -> str:
    """What it printed before it ended with 0; raises DataError for anything else."""
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
    begun, timer = time.monotonic(), threading.Timer(timeout_s, end_group, (process,))
    with process:
        timer.start()
        try:
            content = process.stdout.read(MAX_BYTES) if process.stdout else b""
            if len(content) == MAX_BYTES:
                raise DataError(f"{argv[0]} prints {MAX_BYTES:,} bytes or more, which can be no reading")
            code = process.wait()
        finally:
            timer.cancel()
            end_group(process)
    if time.monotonic() - begun >= timeout_s:
        raise DataError(f"{argv[0]} took more than {timeout_s:g} s and was ended")
    if code:
        raise DataError(f"{argv[0]} ended with {code}")
    return content.decode(errors="replace")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program that leads a group of its own, and all that it started, unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
