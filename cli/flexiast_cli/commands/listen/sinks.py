"""The sinks of a run: opened before the first sound, given every record, closed with a note on what they lost."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

import typer

from flexiast.errors import ExitCode, UsageError
from flexiast_cli.commands.listen.options import OutputOptions
from flexiast_cli.commands.listen.stations import Station
from flexiast_cli.terminal.console import log
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Chunk, PcmSource, Source
from flexiast_runtime.detection.records import Record
from flexiast_runtime.history.stored_audio import audio_folder
from flexiast_runtime.history.verdicts import find_reviewed
from flexiast_runtime.sinks.audio_history import Audio, AudioHistory, RecordingAudio
from flexiast_runtime.sinks.audio_keeper import AudioKeeper
from flexiast_runtime.sinks.clips import Clips
from flexiast_runtime.sinks.cooldown import Cooldown
from flexiast_runtime.sinks.outbox import Outbox, open_outboxes
from flexiast_runtime.sinks.retention import Retention
from flexiast_runtime.sinks.sink import Counts, RunContext, Sink
from flexiast_runtime.sinks.sqlite import SqliteHistory
from flexiast_runtime.units import parse_duration, parse_size

HISTORY_S = 120.0
"""Seconds of audio held for clips; the clip of a longer sound lacks its beginning."""


@contextmanager
def open_sinks(
    sinks: Sequence[Sink], context: RunContext, is_hurried: Callable[[], bool] = lambda: True
) -> Iterator[Callable[[Record], None]]:
    """Yield a function that publishes a record to all sinks; log on stderr when one fails, and what each lost.

    ``is_hurried`` is false while a recording may wait for slow sinks. Exits with LOST where a sink lost something.
    """
    outboxes: Sequence[Outbox] = ()

    def publish(record: Record) -> None:
        for outbox in outboxes:
            outbox.wait_for_room(is_hurried)
            outbox.put(record)

    try:
        with open_outboxes(sinks, context, log=log_with_time, hurried=is_hurried) as outboxes:
            yield publish
    finally:
        lost = report_losses(outbox.counts for outbox in outboxes)
    if lost:
        raise typer.Exit(ExitCode.LOST)


def tee_to_sinks(records: Iterable[Record], publish: Callable[[Record], None]) -> Iterator[Record]:
    """Yield the records and publish each."""
    for record in records:
        publish(record)
        yield record


def clip_folders(sinks: Sequence[Sink]) -> tuple[Path, ...]:
    """The folders of the sinks that cut clips."""
    return tuple(clips.folder for clips in _clip_sinks(sinks))


def find_database(sinks: Sequence[Sink]) -> Path | None:
    """The file of the first sink that stores events in a database."""
    return next((sink.path for sink in map(_unwrap, sinks) if isinstance(sink, SqliteHistory)), None)


def make_review_finder(sinks: Sequence[Sink]) -> Callable[[Sequence[str]], AbstractSet[str]] | None:
    """What finds events with a verdict in the run's database; None where no sink stores events."""
    database = find_database(sinks)
    if database is None:
        return None
    # A database that another sink has yet to create holds no verdict.
    return lambda event_ids: find_reviewed(database, event_ids) if database.is_file() else frozenset()


def histories_for(sinks: Sequence[Sink], sources: Sequence[Source], rate_hz: int, *, live: bool) -> dict[str, Audio]:
    """Each source's audio by its name, where a sink cuts clips: held in memory if live, else re-read from the file."""
    if not _clip_sinks(sinks):
        return {}
    return {
        source.name: AudioHistory(HISTORY_S, rate_hz)
        if live or isinstance(source, PcmSource)
        else RecordingAudio(source, HISTORY_S, rate_hz)
        for source in sources
    }


def create_audio_keeper(
    output: OutputOptions, sinks: Sequence[Sink], sources: Sequence[Source], rate_hz: int
) -> AudioKeeper | None:
    """What keeps the sound of the run; None where that is not asked for. Raises UsageError where it cannot be."""
    if output.keep_audio is None:
        return None
    database = find_database(sinks)
    if database is None:
        raise UsageError("--keep-audio needs --to sqlite: sounds are marked in its database, and kept beside it")
    if not any(isinstance(source, Monitored) for source in sources):
        raise UsageError("--keep-audio keeps live sound, and a recording is there anyway; leave it out")
    retention = Retention(parse_duration(output.keep_audio), parse_size(output.keep_audio_limit))
    return AudioKeeper(audio_folder(database), retention, rate_hz, log=log_with_time)


def tee_to_keeper(
    stream: Iterable[tuple[int, Chunk]], stations: Sequence[Station], keeper: AudioKeeper | None
) -> Iterator[tuple[int, Chunk]]:
    """Yield the chunks with their source's place, and have each kept that a live source gave."""
    for place, chunk in stream:
        if keeper is not None and stations[place].is_live:
            keeper.push(stations[place].name, chunk, stations[place].capture.unix_s)
        yield place, chunk


def _clip_sinks(sinks: Sequence[Sink]) -> list[Clips]:
    return [sink for sink in map(_unwrap, sinks) if isinstance(sink, Clips)]


def _unwrap(sink: Sink) -> Sink:
    return sink.sink if isinstance(sink, Cooldown) else sink


def tee_to_history(
    stream: Iterable[tuple[int, Chunk]], sources: Sequence[str], histories: Mapping[str, Audio]
) -> Iterator[tuple[int, Chunk]]:
    """Yield the chunks with their source's place, and push each into that source's history, if it has one."""
    for place, chunk in stream:
        if (history := histories.get(sources[place])) is not None:
            history.push(chunk)
        yield place, chunk


def log_with_time(text: str) -> None:
    """A note on stderr with the local time, because notes on sinks are read days later."""
    log(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}")


def report_losses(counts: Iterable[Counts]) -> bool:
    """Print a line on stderr for each sink that lost something; True if there is one."""
    lost = [sink for sink in counts if sink.lost]
    for sink in lost:
        ways = {
            "when its queue was full": sink.dropped,
            "refused": sink.refused,
            "not delivered in time": sink.waiting,
        }
        how = ", ".join(f"{number:,} {way}" for way, number in ways.items() if number)
        error = f"; it last said: {sink.last_error}" if sink.last_error else ""
        log(f"{sink.name} lost {sink.lost:,} of {sink.given:,} records ({how}){error}")
    return bool(lost)
