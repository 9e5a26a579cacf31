"""Between the listener and a sink: a bounded queue and a thread.

A sink that is slow, fails or hangs stops neither the audio nor the other sinks.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flexiast.errors import SinkError, SinkUnavailableError
from flexiast_runtime.records import Record
from flexiast_runtime.sinks.sink import Counts, Hearing, Sink

CAPACITY = 1000
"""Records that may wait for one sink."""
CLOSING_S = 5.0
"""Seconds that sinks get at the end to deliver what waits."""
ENDING_PAUSE_S = 0.5
"""Longest pause between tries then."""
RELEASING_S = 1.0
"""Seconds after that for a sink to say goodbye."""

Outcome = Literal["delivered", "refused", "dropped"]


@dataclass(frozen=True)
class BackOff:
    """Seconds between the tries for one record: doubled from the first to the longest."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def wait_s(self, tries: int) -> float:
        """After so many tries that failed."""
        return min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 30))


class Outbox:
    """Delivers records to one sink, in order; when the queue is full the oldest one goes."""

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = CAPACITY,
        back_off: BackOff = BackOff(),
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``say`` is told when the sink begins to fail and when it delivers again, by the outbox's own thread."""
        self._say, self._failing = say, False
        self._sink, self._capacity, self._back_off = sink, capacity, back_off
        self._queue: deque[Record] = deque()
        self._counts = Counts(sink.name)
        self._in_hand = False
        self._until: float | None = None  # monotonic time at which the last try begins; None before the end
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"flexiast-sink {sink.name}", daemon=True)

    def open(self, hearing: Hearing) -> None:
        """Open the sink, in the caller's thread: what the user must mend is raised here."""
        self._sink.open(hearing)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record, if the sink wants it; never waits."""
        if not self._sink.wants(record):
            return
        with self._changed:
            if len(self._queue) == self._capacity:
                self._queue.popleft()
                self._count("dropped")
            self._queue.append(record)
            self._changed.notify_all()

    @property
    def counts(self) -> Counts:
        with self._changed:
            return replace(self._counts, waiting=len(self._queue) + self._in_hand)

    def end(self, limit_s: float = CLOSING_S) -> None:
        """No more will be put; what waits may be delivered for so many seconds. Does not wait."""
        with self._changed:
            self._until = time.monotonic() + limit_s
            self._changed.notify_all()

    def join(self) -> Counts:
        """Wait until the sink is closed, or the limit given to `end` has passed: a thread that hangs is left behind."""
        if self._thread.ident is not None and self._until is not None:
            self._thread.join(max(0.0, self._until - time.monotonic()) + RELEASING_S)
        return self.counts

    def _run(self) -> None:
        while (record := self._next()) is not None and (outcome := self._outcome(record)) is not None:
            with self._changed:
                self._in_hand = False
                self._count(outcome)
            if outcome == "delivered" and self._failing:
                self._failing = False
                self._say(f"{self._sink.name} delivers again")
        try:
            self._sink.close()
        except Exception as error:  # noqa: BLE001 (a sink's defect stays its own)
            self._failed(error)

    def _next(self) -> Record | None:
        """The oldest record; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._until is not None)
            if not self._queue or self._late():
                return None
            self._in_hand = True
            return self._queue.popleft()

    def _outcome(self, record: Record) -> Outcome | None:
        """Try until the sink has taken or refused the record; None if the end came first, then it counts as waiting.

        When the queue is full this one is the oldest, and goes: one that is never taken must not hold up all others.
        """
        for tries in itertools.count(1):
            try:
                self._sink.deliver(record)
            except SinkUnavailableError as error:
                self._failed(error)
                if len(self._queue) == self._capacity:
                    return "dropped"
                if not self._wait(self._back_off.wait_s(tries)):
                    break
                self._count("retried")
            except Exception as error:  # noqa: BLE001 (a sink's defect stays its own)
                self._failed(error)
                return "refused"
            else:
                return "delivered"
        return None

    def _wait(self, seconds: float) -> bool:
        """Wait before another try, which comes at once when the end begins; False when it is too late for one."""
        with self._changed:
            if self._until is None:
                self._changed.wait_for(lambda: self._until is not None, seconds)
            else:
                self._changed.wait(min(seconds, ENDING_PAUSE_S, max(0.0, self._until - time.monotonic())))
            return not self._late()

    def _late(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until

    def _count(self, what: Outcome | Literal["retried"]) -> None:
        with self._changed:
            self._counts = replace(self._counts, **{what: getattr(self._counts, what) + 1})

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, SinkError) else _defect(error)
        with self._changed:
            self._counts = replace(self._counts, last_error=text)
        if not self._failing:  # said once, for it may go on for weeks
            self._failing = True
            self._say(f"{self._sink.name} fails: {text}")


def _defect(error: Exception) -> str:
    """What kind of error and where: its text was not written for users and might hold a credential."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"


@contextmanager
def opened(
    sinks: Iterable[Sink],
    hearing: Hearing,
    *,
    closing_s: float = CLOSING_S,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Sequence[Outbox]]:
    """Outboxes of open sinks; at the end all deliver what waits, at the same time, for ``closing_s`` seconds."""
    outboxes = tuple(Outbox(sink, say=say) for sink in sinks)
    hearing = replace(hearing, counts=lambda: [outbox.counts for outbox in outboxes])
    try:
        for outbox in outboxes:
            outbox.open(hearing)
        yield outboxes
    finally:
        for history in hearing.histories.values():
            history.end()  # no clip waits for more
        for outbox in outboxes:
            outbox.end(closing_s)
        for outbox in outboxes:
            outbox.join()
