"""The sinks of a run: opened before the first sound, fed with every record, closed with a word about what they lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiast_runtime.audio.source import Chunk, Source
    from flexiast_runtime.detection.records import Record
    from flexiast_runtime.sinks.audio_history import Audio
    from flexiast_runtime.sinks.clips import Clips
    from flexiast_runtime.sinks.outbox import Outbox
    from flexiast_runtime.sinks.sink import Counts, RunContext, Sink

HISTORY_S = 120.0
"""Seconds of audio that are held for clips; a longer sound loses its beginning."""


@contextmanager
def open_sinks(
    sinks: Sequence[Sink], hearing: RunContext, hurried: Callable[[], bool] = lambda: True
) -> Iterator[Callable[[Record], None]]:
    """What publishes a record to all sinks; stderr hears when one begins to fail, and in the end what each lost.

    A recording gives ``hurried``, whether it is to end: until then it waits for sinks that go on taking. Exits with
    LOST where a sink lost something.
    """
    import typer

    from flexiast.errors import ExitCode
    from flexiast_runtime.sinks.outbox import open_outboxes

    outboxes: Sequence[Outbox] = ()

    def publish(record: Record) -> None:
        for outbox in outboxes:
            outbox.wait_for_room(hurried)
            outbox.put(record)

    try:
        with open_outboxes(sinks, hearing, say=say_when, hurried=hurried) as outboxes:
            yield publish
    finally:
        lost = report_losses(outbox.counts for outbox in outboxes)
    if lost:
        raise typer.Exit(ExitCode.LOST)


def tee_to_sinks(records: Iterable[Record], publish: Callable[[Record], None]) -> Iterator[Record]:
    """The records, each published as it passes."""
    for record in records:
        publish(record)
        yield record


def clip_folder(sinks: Sequence[Sink]) -> Path | None:
    """Where clips go, if they go anywhere."""
    return next((clips.folder for clips in _clips(sinks)), None)


def histories_for(sinks: Sequence[Sink], sources: Sequence[Source], rate_hz: int, *, live: bool) -> dict[str, Audio]:
    """Each source's audio by its name, if there is a sink that cuts clips out of it: files are read again."""
    from flexiast_runtime.audio.source import PcmSource
    from flexiast_runtime.sinks.audio_history import AudioHistory, RecordingAudio

    if not _clips(sinks):
        return {}
    return {
        source.name: AudioHistory(HISTORY_S, rate_hz)
        if live or isinstance(source, PcmSource)
        else RecordingAudio(source, HISTORY_S, rate_hz)
        for source in sources
    }


def _clips(sinks: Sequence[Sink]) -> list[Clips]:
    """Those that cut clips."""
    from flexiast_runtime.sinks.clips import Clips
    from flexiast_runtime.sinks.cooldown import Cooldown

    inner = [sink.sink if isinstance(sink, Cooldown) else sink for sink in sinks]
    return [sink for sink in inner if isinstance(sink, Clips)]


def tee_to_history(
    stream: Iterable[tuple[int, Chunk]], sources: Sequence[str], histories: Mapping[str, Audio]
) -> Iterator[tuple[int, Chunk]]:
    """Chunks with their source's place, each pushed into that source's history, if it has one, as it passes."""
    for place, chunk in stream:
        if (history := histories.get(sources[place])) is not None:
            history.push(chunk)
        yield place, chunk


def say_when(text: str) -> None:
    """A note on stderr with the local time: what became of a sink is read days later."""
    import datetime

    from flexiast_cli.terminal.console import say

    say(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}")


def report_losses(counts: Iterable[Counts]) -> bool:
    """Whether any sink lost something; a line on stderr for each."""
    from flexiast_cli.terminal.console import say

    lost = [sink for sink in counts if sink.lost]
    for sink in lost:
        ways = {
            "when its queue was full": sink.dropped,
            "refused": sink.refused,
            "not delivered in time": sink.waiting,
        }
        how = ", ".join(f"{number:,} {way}" for way, number in ways.items() if number)
        said = f"; it last said: {sink.last_error}" if sink.last_error else ""
        say(f"{sink.name} lost {sink.lost:,} of {sink.given:,} records ({how}){said}")
    return bool(lost)
