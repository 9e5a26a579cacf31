"""A sink that is slow, fails or hangs: what the others, the publisher and the counts see of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import SinkDownError, SinkError, SinkUnavailableError
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.sinks.outbox import TRIES, BackOff, Outbox, open_outboxes
from flexiast_runtime.sinks.sink import RunContext
from tests.runtime.sinks.conftest import event, status

FAST = BackOff(0.001, 0.01)
Eventually = Callable[[Callable[[], Any]], Any]


class Listed:
    """A sink that keeps what it gets, after answering the first tries with these errors."""

    def __init__(self, *answers: Exception | None, name: str = "listed") -> None:
        self.name, self._answers = name, list(answers)
        self.got: list[Record] = []
        self.opened = self.closed = 0

    def open(self, hearing: RunContext) -> None:
        self.opened += 1

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, record: Record) -> None:
        if self._answers and (answer := self._answers.pop(0)) is not None:
            raise answer
        self.got.append(record)

    def close(self) -> None:
        self.closed += 1


class Hanging(Listed):
    """Hangs in its first delivery until it is let go."""

    def __init__(self, name: str = "hanging") -> None:
        super().__init__(name=name)
        self.reached, self.let_go = threading.Event(), threading.Event()

    def deliver(self, record: Record) -> None:
        self.reached.set()
        self.let_go.wait()
        super().deliver(record)


@contextmanager
def outbox(sink: Listed, **options: Any) -> Iterator[Outbox]:
    box = Outbox(sink, back_off=FAST, **options)
    box.open(RunContext())
    try:
        yield box
    finally:
        if isinstance(sink, Hanging):
            sink.let_go.set()
        box.end()
        box.join()


EVENTS = [event(number) for number in range(5)]


def test_what_a_sink_wants_arrives_in_order_and_is_counted() -> None:
    sink = Listed()
    with outbox(sink) as box:
        for one in EVENTS:
            box.put(one)
            box.put(status())
    assert sink.got == EVENTS
    assert (sink.opened, sink.closed) == (1, 1)
    assert (box.counts.delivered, box.counts.lost, box.counts.last_error) == (5, 0, None)


def test_a_sink_that_is_down_gets_the_same_record_again() -> None:
    sink = Listed(*[SinkDownError("the disk is full")] * 3)
    with outbox(sink) as box:
        for one in EVENTS:
            box.put(one)
    assert sink.got == EVENTS
    assert (box.counts.delivered, box.counts.retried, box.counts.lost) == (5, 3, 0)
    assert box.counts.last_error == "the disk is full"


def test_what_a_sink_refuses_is_counted_and_the_next_one_goes_on() -> None:
    sink = Listed(None, SinkError("it answered 404"))
    with outbox(sink) as box:
        for one in EVENTS:
            box.put(one)
    assert sink.got == EVENTS[:1] + EVENTS[2:]
    assert (box.counts.delivered, box.counts.refused, box.counts.retried) == (4, 1, 0)


def test_that_a_sink_fails_is_said_when_it_begins_to_and_when_it_is_over() -> None:
    said: list[str] = []
    down, refused = SinkDownError("no route"), SinkError("it answered 403")
    sink = Listed(None, down, down, refused, refused, None, refused)
    with outbox(sink, log=said.append) as box:
        for number in range(5):
            box.put(event(number))
    name = sink.name
    assert said == [f"{name} fails: no route", f"{name} delivers again", f"{name} fails: it answered 403"]


def test_a_defect_of_a_sink_is_its_own_and_its_text_is_kept_back() -> None:
    sink = Listed(ValueError("Invalid header value 'Bearer hunter2'"))
    with outbox(sink) as box:
        box.put(EVENTS[0])
        box.put(EVENTS[1])
    assert sink.got == [EVENTS[1]]
    assert box.counts.refused == 1
    assert box.counts.last_error.startswith("ValueError at test_outbox.py:")


def test_a_full_queue_loses_its_oldest_and_putting_never_waits() -> None:
    sink = Hanging()
    with outbox(sink, capacity=3) as box:
        box.put(event(100))
        assert sink.reached.wait(20)
        for number in range(10):
            box.put(event(number))
        assert box.counts.waiting == 4  # the one in hand too
        sink.let_go.set()
    assert sink.got == [event(100), event(7), event(8), event(9)]
    assert (box.counts.dropped, box.counts.delivered, box.counts.given) == (7, 4, 11)


class Choosy(Listed):
    """Never takes the records that it dislikes."""

    def __init__(self, *disliked: Record, error: SinkUnavailableError) -> None:
        super().__init__()
        self._disliked, self._error = disliked, error
        self.tries: Counter[Record] = Counter()
        self.asked_s: list[float] = []

    def deliver(self, record: Record) -> None:
        self.tries[record] += 1
        self.asked_s.append(time.monotonic())
        if record in self._disliked:
            raise self._error
        super().deliver(record)


def test_one_that_is_never_taken_steps_aside_and_is_given_up(eventually: Eventually) -> None:
    poison, others = EVENTS[0], [event(number) for number in range(1, 40)]
    sink = Choosy(poison, error=SinkUnavailableError("it answered 500"))
    with outbox(sink) as box:
        for one in [poison, *others]:
            box.put(one)
        eventually(lambda: box.counts.refused == 1)
        assert (box.counts.delivered, box.counts.waiting) == (39, 0)
    assert sink.got == others
    assert TRIES <= sink.tries[poison] <= TRIES + 1  # the first try may come before the first delivery
    assert (box.counts.lost, box.counts.last_error) == (1, "it answered 500")


@pytest.mark.parametrize("poisoned", [2, 3, 7])
def test_several_that_are_never_taken_hold_up_no_other(poisoned: int, eventually: Eventually) -> None:
    """They come first, so each would be due again before the first of the others is tried."""
    events = [event(number) for number in range(40)]
    sink = Choosy(*events[:poisoned], error=SinkUnavailableError("it answered 500"))
    with outbox(sink) as box:
        for one in events:
            box.put(one)
        eventually(lambda: box.counts.delivered == len(events) - poisoned)
        assert max(sink.tries.values()) <= 2 * TRIES
    assert sink.got == events[poisoned:]


def test_one_that_is_alone_is_kept_as_long_as_nothing_shows_that_the_sink_takes_others(eventually: Eventually) -> None:
    sink = Choosy(EVENTS[0], error=SinkUnavailableError("it answered 503"))
    with outbox(sink) as box:
        box.put(EVENTS[0])
        eventually(lambda: sink.tries[EVENTS[0]] > 3 * TRIES)
        assert box.counts.waiting == 1


def test_what_a_sink_never_takes_is_not_tried_for_ever(eventually: Eventually, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexiast_runtime.sinks.outbox.LONGEST_TRIED_S", 0.05)
    sink = Choosy(*EVENTS, error=SinkUnavailableError("it answered 429"))
    with outbox(sink) as box:
        for one in EVENTS:
            box.put(one)
        eventually(lambda: box.counts.refused == len(EVENTS))


def test_a_sink_that_is_down_keeps_the_order_and_one_that_is_full_the_newest(eventually: Eventually) -> None:
    sink = Listed(*[SinkDownError("no route")] * 6)
    with outbox(sink, capacity=3) as box:
        box.put(EVENTS[0])
        eventually(lambda: box.counts.retried)
        for one in EVENTS[1:]:
            box.put(one)
        eventually(lambda: box.counts.waiting == 0)
    assert sink.got == sorted(sink.got, key=lambda one: one.start_sample)
    assert sink.got[-3:] == EVENTS[2:]
    assert (len(sink.got) + box.counts.dropped, box.counts.refused) == (5, 0)


def test_a_receiver_that_asks_for_a_pause_gets_it_even_at_the_end() -> None:
    sink = Choosy(EVENTS[0], error=SinkUnavailableError("it answered 429", retry_after_s=0.3))
    with outbox(sink) as box:
        for one in EVENTS[:2]:
            box.put(one)
    begun_s, *later_s = sink.asked_s
    assert later_s and all(at_s - begun_s >= 0.3 for at_s in later_s)


def test_a_pause_longer_than_the_end_ends_at_once(eventually: Eventually) -> None:
    sink = Choosy(EVENTS[0], error=SinkUnavailableError("it answered 429", retry_after_s=3600.0))
    box = Outbox(sink)
    box.open(RunContext())
    box.put(EVENTS[0])
    eventually(lambda: box.counts.last_error)
    box.end(1000.0)
    box._thread.join(20)
    assert not box._thread.is_alive()
    assert box.counts.waiting == 1


def test_a_recording_waits_for_a_slow_sink_and_loses_nothing() -> None:
    class Slow(Listed):
        def deliver(self, record: Record) -> None:
            time.sleep(0.001)
            super().deliver(record)

    sink, events = Slow(), [event(number) for number in range(100)]
    box = Outbox(sink, capacity=3, back_off=FAST)
    box.open(RunContext())
    for one in events:
        box.wait_for_room(lambda: False)
        box.put(one)
    box.drain(lambda: False)
    assert sink.got == events and box.counts.lost == 0
    box.end()
    box.join()


def test_a_recording_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a sink that takes nothing, nor once the user wants the end."""
    sink = Hanging()
    with outbox(sink, capacity=1) as box:
        box.put(EVENTS[0])
        assert sink.reached.wait(20)
        box.put(EVENTS[1])
        box.wait_for_room(lambda: True)
        monkeypatch.setattr("flexiast_runtime.sinks.outbox.STALLED_S", 0.05)
        box.wait_for_room(lambda: False)
        box.drain(lambda: False)
        assert box.counts.waiting == 2
        sink.let_go.set()


def test_a_sink_that_is_down_at_the_start_is_opened_later(eventually: Eventually) -> None:
    class Late(Listed):
        def open(self, hearing: RunContext) -> None:
            super().open(hearing)
            if self.opened < 3:
                raise SinkDownError("the disk is full")

    said: list[str] = []
    sink = Late()
    with outbox(sink, log=said.append) as box:
        for one in EVENTS:
            box.put(one)
        eventually(lambda: box.counts.delivered == len(EVENTS))
    assert (sink.got, sink.opened, sink.closed) == (EVENTS, 3, 1)
    assert said == ["listed fails: the disk is full", "listed delivers again"]


def test_the_same_failure_is_not_logged_each_time() -> None:
    said: list[str] = []
    refused = SinkError("it ended with 1")
    with outbox(Listed(*[refused, None] * 20), log=said.append) as box:
        for number in range(40):
            box.put(event(number))
    assert said == ["listed fails: it ended with 1", "listed delivers again"]


def test_a_sink_that_cannot_say_goodbye_is_told_of() -> None:
    class Rude(Listed):
        def close(self) -> None:
            raise OSError("no")

    with outbox(Rude()) as box:
        box.put(EVENTS[0])
    assert box.counts.delivered == 1
    assert "OSError at test_outbox.py" in (box.counts.last_error or "")


def test_one_that_hangs_stops_no_other_and_the_end_says_what_it_kept() -> None:
    hanging, other = Hanging(), Listed()
    with open_outboxes([hanging, other], RunContext(), closing_s=0.2) as boxes:
        for one in EVENTS:
            for box in boxes:
                box.put(one)
    assert other.got == EVENTS
    assert [box.counts.lost for box in boxes] == [5, 0]
    assert (hanging.closed, other.closed) == (0, 1)
    hanging.let_go.set()


def test_the_end_ends_a_long_pause_and_tries_once_more(eventually: Eventually) -> None:
    sink = Listed(SinkUnavailableError("down"))
    box = Outbox(sink, back_off=BackOff(3600.0, 3600.0))
    box.open(RunContext())
    box.put(EVENTS[0])
    eventually(lambda: box.counts.last_error)
    box.end(10.0)
    assert box.join().delivered == 1


def test_the_end_gives_up_on_one_that_stays_down(eventually: Eventually) -> None:
    sink = Listed(*[SinkUnavailableError("down")] * 10_000)
    box = Outbox(sink, back_off=FAST)
    box.open(RunContext())
    for one in EVENTS:
        box.put(one)
    eventually(lambda: box.counts.retried)
    box.end(0.1)
    counts = box.join()
    assert (counts.waiting, counts.delivered, counts.lost) == (5, 0, 5)
    assert sink.closed == 1


def test_one_that_does_not_open_leaves_none_open() -> None:
    class Broken(Listed):
        def open(self, hearing: RunContext) -> None:
            raise SinkError("no such broker")

    first, last = Listed(), Listed()
    with pytest.raises(SinkError, match="no such broker"), open_outboxes([first, Broken(), last], RunContext()):
        pytest.fail("not reached")
    assert (first.closed, last.opened) == (1, 0)


def test_sinks_see_the_counts_of_all() -> None:
    asked: list[RunContext] = []

    class Asking(Listed):
        def open(self, hearing: RunContext) -> None:
            asked.append(hearing)

    with open_outboxes([Asking(name="a"), Listed(name="b")], RunContext(labels=("dog",))) as boxes:
        boxes[1].put(EVENTS[0])
    assert [(counts.name, counts.delivered) for counts in asked[0].counts()] == [("a", 0), ("b", 1)]
    assert asked[0].labels == ("dog",)


@given(st.lists(st.sampled_from(("ok", "down", "not now", "refused")), max_size=20), st.integers(0, 10))
def test_every_record_is_counted_once(answers: list[str], records: int) -> None:
    errors = {
        "ok": None,
        "down": SinkDownError("down"),
        "not now": SinkUnavailableError("not now"),
        "refused": SinkError("refused"),
    }
    sink = Listed(*(errors[answer] for answer in answers))
    with outbox(sink) as box:
        for number in range(records):
            box.put(event(number))
    counts = box.counts
    assert counts.delivered + counts.refused == counts.given == records
    assert counts.waiting == counts.dropped == 0
    assert len(sink.got) == counts.delivered


@given(st.floats(0.01, 10), st.floats(10, 1000), st.integers(1, 2000))
def test_pauses_grow_up_to_the_longest(first_s: float, longest_s: float, tries: int) -> None:
    back_off = BackOff(first_s, longest_s)
    assert back_off.wait_s(1) == first_s
    assert back_off.wait_s(tries) <= back_off.wait_s(tries + 1) <= longest_s
