"""A pause between two events of one label and source."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexiast_runtime.detection.records import Record
from flexiast_runtime.sinks.cooldown import Cooldown
from flexiast_runtime.sinks.parse import parse_sink
from flexiast_runtime.sinks.sink import RunContext
from tests.runtime.sinks.conftest import event, status


class Everything:
    """Keeps what it gets."""

    name = "everything"

    def __init__(self) -> None:
        self.got: list[Record] = []
        self.open_for: RunContext | None = None
        self.closed = False

    def open(self, hearing: RunContext) -> None:
        self.open_for = hearing

    def wants(self, record: Record) -> bool:
        return True

    def deliver(self, record: Record) -> None:
        self.got.append(record)

    def close(self) -> None:
        self.closed = True


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from("ab"), st.sampled_from("xy"))), st.integers(1, 60))
def test_events_that_pass_are_apart_and_none_is_held_back_without_one_before_it(
    steps: list[tuple[int, str, str]], seconds: int
) -> None:
    sink, now = Cooldown(Everything(), float(seconds)), 0
    passed: dict[tuple[str, str], float] = {}
    for step, label, source in steps:
        now += step
        one = event(now, label, source=source)
        before = passed.get((source, label))
        assert sink.wants(one) == (before is None or now - before >= seconds)
        if before is None or now - before >= seconds:
            passed[source, label] = now
        assert sink.wants(status())


def test_the_rest_is_the_sinks_own() -> None:
    inner = Everything()
    sink, hearing = Cooldown(inner, 5.0), RunContext()
    sink.open(hearing)
    sink.deliver(event())
    sink.close()
    assert (sink.name, inner.open_for, inner.got, inner.closed) == ("everything", hearing, [event()], True)


def test_every_sink_takes_a_cooldown() -> None:
    for text in ("sqlite:a.db", "jsonl:a", "clips:a", "exec:true", "mqtt://h", "https://h", "metrics:"):
        sink = parse_sink(f"{text}#cooldown=10m")
        assert isinstance(sink, Cooldown) and sink.name == parse_sink(text).name
        assert sink.wants(event(0)) != sink.wants(event(599)) and sink.wants(event(600))
