"""Ctrl-C and SIGTERM raise an exception, so that a command cleans up after itself, but never within an import.

There an exception may come out as another one, or be lost: class bodies make a RuntimeError of it and C extensions an
ImportError, which whoever imports takes for a missing module. A signal in an import waits until it is complete.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flexiast.errors import ExitCode

POLL_S = 0.02
"""Time between two checks whether the import is complete."""


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """While the block runs, signals end it: KeyboardInterrupt for Ctrl-C, SystemExit for SIGTERM."""
    signals = _Signals()
    try:
        yield
    finally:
        signals.close()


class _Signals:
    def __init__(self) -> None:
        self._requested: int | None = None
        self._waits = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell may have had it ignored
                signal.signal(number, self._handle)
        if sys.platform != "win32":
            signal.signal(signal.SIGALRM, self._end_after_import)

    def close(self) -> None:
        """The interpreter's own end, which has nothing to clean up, is ended by Ctrl-C without a word."""
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._waits:
            self._end()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._requested = self._requested is not None, number
        if again or sys.platform == "win32":  # which has no alarm
            self._end()
        self._end_after_import(number, frame)

    def _end_after_import(self, _: int, frame: FrameType | None) -> None:
        self._waits = _is_importing(frame)
        if not self._waits:
            self._end()
        signal.setitimer(signal.ITIMER_REAL, POLL_S)

    def _end(self) -> None:
        self._waits = False
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._requested == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
            raise SystemExit(ExitCode.TERMINATED)
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
