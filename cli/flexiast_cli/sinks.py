"""The sinks of a run: opened before the first sound, fed with every record, closed with a word about what they lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiast_runtime.records import Record
    from flexiast_runtime.sinks.audio_history import AudioHistory
    from flexiast_runtime.sinks.outbox import Outbox
    from flexiast_runtime.sinks.sink import Counts, Hearing, Sink
    from flexiast_runtime.source import Chunk

HISTORY_S = 120.0
"""Seconds of audio that are held for clips; a longer sound loses its beginning."""


@contextmanager
def opened_sinks(sinks: Sequence[Sink], hearing: Hearing) -> Iterator[Callable[[Record], None]]:
    """What publishes a record to all sinks; stderr hears when one begins to fail, and in the end what each lost."""
    from flexiast_cli.console import say
    from flexiast_runtime.sinks.outbox import opened

    outboxes: Sequence[Outbox] = ()

    def publish(record: Record) -> None:
        for outbox in outboxes:
            outbox.put(record)

    try:
        with opened(sinks, hearing, say=say) as outboxes:
            yield publish
    finally:
        report_losses(outbox.counts for outbox in outboxes)


def published(records: Iterable[Record], publish: Callable[[Record], None]) -> Iterator[Record]:
    """The records, each published as it passes."""
    for record in records:
        publish(record)
        yield record


def clip_folder(sinks: Sequence[Sink]) -> Path | None:
    """Where clips go, if they go anywhere."""
    from flexiast_runtime.sinks.clips import Clips

    return next((sink.folder for sink in sinks if isinstance(sink, Clips)), None)


def histories_for(sinks: Sequence[Sink], sources: Sequence[str], rate_hz: int) -> dict[str, AudioHistory]:
    """A history for each source, if there is a sink that cuts clips out of it."""
    from flexiast_runtime.sinks.audio_history import AudioHistory
    from flexiast_runtime.sinks.clips import Clips

    if not any(isinstance(sink, Clips) for sink in sinks):
        return {}
    return {source: AudioHistory(HISTORY_S, rate_hz) for source in sources}


def remembered(
    stream: Iterable[tuple[int, Chunk]], sources: Sequence[str], histories: Mapping[str, AudioHistory]
) -> Iterator[tuple[int, Chunk]]:
    """Chunks with their source's place, each pushed into that source's history, if it has one, as it passes."""
    for place, chunk in stream:
        if (history := histories.get(sources[place])) is not None:
            history.push(chunk)
        yield place, chunk


def report_losses(counts: Iterable[Counts]) -> None:
    """A line on stderr for each sink that lost something."""
    from flexiast_cli.console import say

    for sink in counts:
        if sink.lost:
            ways = {
                "when its queue was full": sink.dropped,
                "refused": sink.refused,
                "not delivered in time": sink.waiting,
            }
            how = ", ".join(f"{number:,} {way}" for way, number in ways.items() if number)
            said = f"; it last said: {sink.last_error}" if sink.last_error else ""
            say(f"{sink.name} lost {sink.lost:,} of {sink.given:,} records ({how}){said}")
