"""A pause between two events of one label, so that a phone does not ring all night."""

from __future__ import annotations

from typing import Any

from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.sinks.sink import RunContext, Sink


class Cooldown:
    """Passes an event on unless one of the same source and label, which it passed on, ended less than so long before.

    Other records pass. Times are those of the audio, so that a clock that is set changes nothing.
    """

    def __init__(self, sink: Sink, seconds: float) -> None:
        self.sink, self._seconds = sink, seconds
        self._passed_s: dict[tuple[str, str], float] = {}  # when the last one that passed ended

    @property
    def name(self) -> str:
        return self.sink.name

    def open(self, context: RunContext) -> None:
        self.sink.open(context)

    def wants(self, record: Record) -> bool:
        if not self.sink.wants(record):
            return False
        if not isinstance(record, Event):
            return True
        of = record.source, record.label
        if of in self._passed_s and record.end_s - self._passed_s[of] < self._seconds:
            return False
        self._passed_s[of] = record.end_s
        return True

    def deliver(self, record: Any) -> None:
        self.sink.deliver(record)

    def close(self) -> None:
        self.sink.close()
