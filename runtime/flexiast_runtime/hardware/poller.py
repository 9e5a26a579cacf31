"""A look at the machine every few seconds, in a thread of its own: no window waits for a sensor or a program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from typing_extensions import Self

T = TypeVar("T")

LOOK_EVERY_S = 5.0
GRACE_S = 4.0
VALID_S = 30.0
"""What was seen so long ago is no longer true: a sensor hangs, or a program that cannot be ended."""


class Poller(Generic[T]):
    """Looks once when it is made, and again and again between its begin and end as a context.

    ``unknown`` stands for what was seen too long ago.
    """

    def __init__(
        self,
        look: Callable[[], T],
        unknown: T,
        every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``say`` is told, once, of an error that nobody foresaw: a look is unknown then, and looking goes on."""
        self._say, self._said = say, False
        self._look, self._unknown, self._every_s, self._clock = look, unknown, every_s, clock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flexiast-sensors", daemon=True)
        self._seen = (look(), clock())

    @property
    def latest(self) -> T:
        """What was seen last."""
        seen, at_s = self._seen
        return seen if self._clock() - at_s <= VALID_S else self._unknown

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A program in flight may end, or is ended when its time is over; a sensor that hangs is not waited for."""
        self._done.set()
        self._thread.join(GRACE_S)

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self._seen = (self._poll_once(), self._clock())

    def _poll_once(self) -> T:
        try:
            return self._look()
        except Exception as error:  # noqa: BLE001 (a sensor must not end all others for the rest of the run)
            if not self._said:
                self._said = True
                self._say(f"a sensor cannot be read: {type(error).__name__}: {error}; it is asked again")
            return self._unknown
