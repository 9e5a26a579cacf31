"""Polls a sensor every few seconds, when a reader asks, and never lets the reader wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from typing_extensions import Self

from flexiast.log import Log, log_nothing

T = TypeVar("T")

POLL_EVERY_S = 5.0
"""Charge and temperature change over tens of seconds; a governor's heat step takes ten."""
GRACE_S = 4.0
"""Wait at the end for a poll in progress: a program may take 3 s (see power_source)."""
VALID_S = 30.0
"""Older readings count as unknown: the sensor hangs, or a program that cannot be killed."""


class Poller(Generic[T]):
    """Polls once when created. While it is used as a context, a reader that finds the reading old has it renewed.

    A thread does that, since a sensor may hang; it sleeps until it is asked, so nothing wakes the processor between
    two polls. A reading that is too old is replaced by ``unknown``.
    """

    def __init__(
        self,
        poll: Callable[[], T],
        unknown: T,
        every_s: float = POLL_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        log: Log = log_nothing,
    ) -> None:
        """``log`` is called once for an unexpected error. The reading is then unknown, and polling continues."""
        self._log, self._reported = log, False
        self._poll, self._unknown, self._every_s, self._clock = poll, unknown, every_s, clock
        self._requests: SimpleQueue[bool] = SimpleQueue()  # True: poll; False: end
        self._is_idle = False  # the thread waits for a request
        self._thread = threading.Thread(target=self._serve, name="flexiast-sensors", daemon=True)
        self._reading = (poll(), clock())

    @property
    def latest(self) -> T:
        """The last reading, or ``unknown`` if it is too old. One older than ``every_s`` is renewed meanwhile."""
        reading, at_s = self._reading
        age_s = self._clock() - at_s
        if age_s >= self._every_s and self._is_idle:
            self._is_idle = False
            self._requests.put(True)
        return reading if age_s <= VALID_S else self._unknown

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_idle = True
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for a poll in progress, which has a timeout if it is a program; do not wait for a sensor that hangs."""
        self._is_idle = False
        self._requests.put(False)
        self._thread.join(GRACE_S)

    def _serve(self) -> None:
        while self._requests.get():
            self._reading = (self._poll_once(), self._clock())
            self._is_idle = True

    def _poll_once(self) -> T:
        try:
            return self._poll()
        except Exception as error:  # noqa: BLE001 (one broken sensor must not stop the polling)
            if not self._reported:
                self._reported = True
                self._log(f"a sensor cannot be read: {type(error).__name__}: {error}; polling continues")
            return self._unknown
