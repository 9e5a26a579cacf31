"""Between a stream and a sink: a bounded queue and a thread.

A sink that is slow, fails or hangs stops neither the audio nor the other sinks. A record that a sink does not take
is tried again behind the others, so that it does not hold them up.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flexiast.errors import SinkDownError, SinkError, SinkUnavailableError
from flexiast.log import Log, log_nothing
from flexiast_runtime.detection.records import Record
from flexiast_runtime.sinks.sink import Counts, RunContext, Sink

CAPACITY = 1000
"""Records that may wait for one sink."""
TRIES = 5
"""Tries of a record that a sink does not take although it takes others; then it is given up."""
LONGEST_TRIED_S = 3600.0
"""Seconds in which a sink that answers takes nothing, after which one record is given up."""
STALLED_S = 30.0
"""Seconds that a recording waits for a sink that takes nothing."""
CLOSING_S = 5.0
"""Seconds that sinks get at the end to deliver what waits."""
ENDING_PAUSE_S = 0.5
"""Longest pause between tries then."""
RELEASING_S = 1.0
"""Seconds after that for a sink to close."""
REPEAT_S = 3600.0
"""Seconds before the same failure is logged again"""
_POLL_S = 0.1
"""Seconds between two checks whether a signal handler wants the end to hurry; it cannot notify a condition."""

Outcome = Literal["delivered", "refused", "dropped"]


@dataclass(frozen=True)
class BackOff:
    """Seconds between the tries for one record: doubled from the first to the longest."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def wait_s(self, tries: int) -> float:
        """After so many tries that failed."""
        return min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 30))


@dataclass
class _Waiting:
    """A record on its way; times are monotonic."""

    record: Record
    number: int
    """Its place in the order of all records"""
    tries: int = 0
    """Tries that failed"""
    passed: int = 0
    """Those of them that failed after another record had been delivered since the first one"""
    first_failed_s: float = math.inf
    due_s: float = 0.0


class Outbox:
    """Delivers records to one sink, in order but for those that it does not take; when full the oldest one goes."""

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = CAPACITY,
        back_off: BackOff = BackOff(),
        log: Log = log_nothing,
    ) -> None:
        """``log`` logs a sink that starts to fail or delivers again. It is called in the outbox's own thread."""
        self._log, self._failing = log, False
        self._logged: dict[str, float] = {}  # failures, and when they were last logged
        self._sink, self._capacity, self._back_off = sink, capacity, back_off
        self._unopened: RunContext | None = None
        self._queue: deque[_Waiting] = deque()  # not yet tried, or the sink was down
        self._aside: list[_Waiting] = []  # tried and not taken, each due at a time of its own
        self._in_hand: _Waiting | None = None
        self._number = self._failures = 0  # records so far; failures since the last delivery
        self._pause_until_s = self._not_before_s = 0.0  # by our back-off; by what the receiver requested
        self._delivered_s = self._settled_s = -math.inf
        self._counts = Counts(sink.name)
        self._until: float | None = None  # monotonic time at which the last try begins; None before the end
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"flexiast-sink {sink.name}", daemon=True)

    def open(self, context: RunContext) -> None:
        """Open the sink, in the caller's thread: what the user must mend is raised here.

        One that is down for now is opened later, before its first record.
        """
        try:
            self._sink.open(context)
        except SinkUnavailableError as error:
            self._unopened = context
            self._record_failure(error)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record, if the sink wants it; never waits."""
        if not self._sink.wants(record):
            return
        with self._changed:
            if self._waiting_count() >= self._capacity:
                self._drop_oldest()
            if not self._waiting_count() and self._in_hand is None:
                self._settled_s = time.monotonic()  # until now it had nothing to take
            self._number += 1
            self._queue.append(_Waiting(record, self._number))
            self._changed.notify_all()

    def wait_for_room(self, hurried: Callable[[], bool]) -> None:
        """Wait while the queue is full, as a recording can; not for a sink that takes nothing for ``STALLED_S``."""
        self._wait_while(lambda: self._waiting_count() >= self._capacity, hurried)

    def drain(self, hurried: Callable[[], bool]) -> None:
        """Wait until everything was taken, or the sink takes nothing for ``STALLED_S``, or ``hurried``."""
        self._wait_while(lambda: self._waiting_count() > 0 or self._in_hand is not None, hurried)

    @property
    def counts(self) -> Counts:
        with self._changed:
            return replace(self._counts, waiting=self._waiting_count() + (self._in_hand is not None))

    def end(self, limit_s: float = CLOSING_S) -> None:
        """No more will be put; what waits may be delivered for so many seconds. Does not wait."""
        with self._changed:
            self._until = time.monotonic() + limit_s
            self._pause_until_s = 0.0
            self._make_all_due()
            self._changed.notify_all()

    def join(self) -> Counts:
        """Wait until the sink is closed, or the limit given to `end` has passed: a thread that hangs is left behind."""
        if self._thread.ident is not None and self._until is not None:
            self._thread.join(max(0.0, self._until - time.monotonic()) + RELEASING_S)
        return self.counts

    # -------------------------------------------------------------------------------------- in the outbox's own thread

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            self._try(waiting)
        if self._unopened is not None:
            return
        try:
            self._sink.close()
        except Exception as error:  # noqa: BLE001 (a sink's defect stays its own)
            self._record_failure(error)

    def _next(self) -> _Waiting | None:
        """The next record once it may be tried; None at the end."""
        with self._changed:
            while True:
                now_s, at_s = time.monotonic(), self._next_at_s()
                if self._until is not None and (now_s >= self._until or at_s > self._until):
                    return None
                if at_s <= now_s:
                    self._in_hand = self._take(now_s)
                    return self._in_hand
                self._changed.wait(None if at_s == math.inf else at_s - now_s)

    def _next_at_s(self) -> float:
        """When a record may be tried next; never while there is none."""
        due_s = 0.0 if self._queue else min((waiting.due_s for waiting in self._aside), default=math.inf)
        return max(due_s, self._pause_until_s, self._not_before_s)

    def _take(self, now_s: float) -> _Waiting:
        """One that stepped aside, once it is due, goes before those that were never tried.

        While the sink fails it goes after them: several that are never taken would otherwise keep all others waiting.
        """
        due = [waiting for waiting in self._aside if waiting.due_s <= now_s]
        if due and not (self._failures and self._queue):
            waiting = min(due, key=lambda one: one.number)
            self._aside.remove(waiting)
        else:
            waiting = self._queue.popleft()
        if waiting.tries:
            self._count("retried")
        return waiting

    def _try(self, waiting: _Waiting) -> None:
        try:
            if self._unopened is not None:
                self._sink.open(self._unopened)
                self._unopened = None
            self._sink.deliver(waiting.record)
        except SinkUnavailableError as error:
            self._postpone(waiting, error)
        except Exception as error:  # noqa: BLE001 (a sink's defect stays its own)
            self._record_failure(error)
            self._settle("refused")
        else:
            self._settle("delivered")

    def _settle(self, outcome: Outcome) -> None:
        with self._changed:
            self._in_hand = None
            self._count(outcome)
            self._settled_s = time.monotonic()
            if outcome == "delivered":
                self._delivered_s, self._pause_until_s = self._settled_s, 0.0
                if self._failures > TRIES:  # it was down, and is back: what waited for that is tried in its order
                    self._make_all_due()
                self._failures = 0
            self._changed.notify_all()
        if outcome == "delivered" and self._failing:
            self._failing = False
            self._log(f"{self._sink.name} delivers again")

    def _postpone(self, waiting: _Waiting, error: SinkUnavailableError) -> None:
        """The record is tried again later: at the head of the queue if nothing can be delivered, else aside."""
        down = isinstance(error, SinkDownError)
        with self._changed:
            now_s = time.monotonic()
            self._failures += 1
            waiting.tries += 1
            waiting.passed += self._delivered_s > waiting.first_failed_s
            waiting.first_failed_s = min(waiting.first_failed_s, now_s)
            self._not_before_s = now_s + error.retry_after_s
            # One record may fail for its own reasons, so the next is tried at once. Two in a row mean a failing sink,
            # or two such records: the pauses grow only with the tries of the same one.
            in_a_row = min(self._failures - (not down), waiting.tries)
            self._pause_until_s = now_s + (self._limit_pause(self._back_off.wait_s(in_a_row)) if in_a_row else 0.0)
            untaken_s = now_s - max(waiting.first_failed_s, self._settled_s)
            hopeless = not down and (waiting.passed >= TRIES - 1 or untaken_s >= LONGEST_TRIED_S)
            full = self._waiting_count() >= self._capacity
            if not (hopeless or full):
                self._in_hand = None
                if down:
                    self._queue.appendleft(waiting)
                else:
                    waiting.due_s = now_s + self._limit_pause(self._back_off.wait_s(waiting.tries))
                    self._aside.append(waiting)
        self._record_failure(error, alone=self._failures == 1 and not down and not hopeless)
        if hopeless or full:
            self._settle("refused" if hopeless else "dropped")

    def _limit_pause(self, pause_s: float) -> float:
        return pause_s if self._until is None else min(pause_s, ENDING_PAUSE_S)

    def _record_failure(self, error: Exception, *, alone: bool = False) -> None:
        """Keep the error, and log it where the sink begins to fail: once, for it may go on for weeks.

        One that concerns a record ``alone`` is not logged yet.
        """
        text = str(error) if isinstance(error, SinkError) else _defect(error)
        with self._changed:
            self._counts = replace(self._counts, last_error=text)
        now_s = time.monotonic()
        if not self._failing and not alone and now_s - self._logged.get(text, -math.inf) >= REPEAT_S:
            self._failing = True
            self._logged = {old: at_s for old, at_s in self._logged.items() if now_s - at_s < REPEAT_S} | {text: now_s}
            self._log(f"{self._sink.name} fails: {text}")

    # ---------------------------------------------------------------------------------------- while `_changed` is held

    def _waiting_count(self) -> int:
        return len(self._queue) + len(self._aside)

    def _drop_oldest(self) -> None:
        oldest = min(self._aside, key=lambda one: one.number, default=None)
        if oldest is not None and (not self._queue or oldest.number < self._queue[0].number):
            self._aside.remove(oldest)
        else:
            self._queue.popleft()
        self._count("dropped")

    def _make_all_due(self) -> None:
        for waiting in self._aside:
            waiting.due_s = 0.0

    def _count(self, what: Outcome | Literal["retried"]) -> None:
        self._counts = replace(self._counts, **{what: getattr(self._counts, what) + 1})

    def _wait_while(self, condition: Callable[[], bool], hurried: Callable[[], bool]) -> None:
        with self._changed:
            while condition() and not hurried():
                if time.monotonic() >= max(self._settled_s, self._not_before_s) + STALLED_S:
                    return
                self._changed.wait(_POLL_S)


def _defect(error: Exception) -> str:
    """The kind and place of an error. Its text is not meant for users and might hold a credential."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"


@contextmanager
def open_outboxes(
    sinks: Iterable[Sink],
    context: RunContext,
    *,
    closing_s: float = CLOSING_S,
    log: Log = log_nothing,
    hurried: Callable[[], bool] = lambda: True,
) -> Iterator[Sequence[Outbox]]:
    """Outboxes of open sinks; at the end all deliver what waits, at the same time, for ``closing_s`` seconds.

    A recording, which can wait, gives ``hurried``: until that is true the end waits for sinks that go on taking.
    """
    outboxes = tuple(Outbox(sink, log=log) for sink in sinks)
    context = replace(context, counts=lambda: [outbox.counts for outbox in outboxes], log=log)
    try:
        for outbox in outboxes:
            outbox.open(context)
        yield outboxes
    finally:
        for history in context.histories.values():
            history.end()  # no clip waits for more
        for outbox in outboxes:
            outbox.drain(hurried)
        for outbox in outboxes:
            outbox.end(closing_s)
        for outbox in outboxes:
            outbox.join()
