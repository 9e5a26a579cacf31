"""``flexiast classify``: events in files and folders, by the same path as a microphone's."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast_cli.options import (
    GATE,
    AllowOption,
    BackendOption,
    ConfirmOption,
    DenyOption,
    GateOption,
    LabelThresholdOption,
    MergeGapOption,
    MinDurationOption,
    PrecisionOption,
    SmoothingOption,
    ThresholdOption,
    event_settings,
)
from flexiast_runtime.backends import Backend

if TYPE_CHECKING:
    from flexiast_runtime.engine import Engines
    from flexiast_runtime.listener import Settings
    from flexiast_runtime.records import Event, Record

CSV_COLUMNS = ("source", "start_s", "end_s", "label", "score", "patch_size", "model")


class Format(str, Enum):
    """How events are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


def classify(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PATH...", help="Audio files or folders; a bundle or shipped model may stand first."
        ),
    ],
    output_format: Annotated[Format, typer.Option("--format", help="table, jsonl or csv.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of stdout.")] = None,
    patch_size: Annotated[
        str | None, typer.Option("--patch-size", help="Size to run (default: the one measured best).")
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    threshold: ThresholdOption = None,
    label_threshold: LabelThresholdOption = None,
    allow: AllowOption = None,
    deny: DenyOption = None,
    min_duration: MinDurationOption = 0.0,
    confirm: ConfirmOption = 0.0,
    merge_gap: MergeGapOption = 0.0,
    smoothing: SmoothingOption = None,
    gate: GateOption = GATE,
) -> None:
    """Find sounds in files.

    Files that cannot be read are named, passed over, and make the exit code 8 at the end.
    """
    from flexiast.errors import DataError, ExitCode
    from flexiast.files import check_output
    from flexiast_cli.console import counted, stderr, tracked

    model, paths = _split(arguments)
    files = _files(paths)
    engines, patch = _engines(model, patch_size, precision, backend)
    settings = event_settings(
        engines.manifest,
        threshold=threshold,
        label_thresholds=label_threshold,
        allow=allow,
        deny=deny,
        min_duration=min_duration,
        confirm=confirm,
        merge_gap=merge_gap,
        smoothing=smoothing,
        gate=gate,
    )
    if output is not None:
        check_output(output)
    failures: list[DataError] = []
    events: list[Event] = []
    with _writer(output_format, output, model) as write:
        for path in tracked(files, "Listening"):
            try:
                found = list(_events(path, engines, patch, settings))
            except DataError as error:
                failures.append(error)
                continue
            events += found
            write(found)
    if output_format is Format.TABLE:
        heard = len(files) - len(failures)
        note = f"{counted(len(events), 'event')} in {heard} of {counted(len(files), 'file')}, {model} at {patch}"
        stderr().print(note, style="dim", markup=False)
    for failure in failures:
        typer.echo(f"flexiast: {failure}", err=True)
    if failures:
        raise typer.Exit(ExitCode.DATA)


def _split(arguments: list[str]) -> tuple[str, list[Path]]:
    """The model, if the first argument is one, and the rest."""
    from flexiast.errors import UsageError
    from flexiast_runtime.models import DEFAULT, looks_like_model, shipped

    first, *rest = arguments
    sounds_by_that_name = first in shipped() and not rest and Path(first).is_dir()
    if not looks_like_model(first) or sounds_by_that_name:
        return DEFAULT, [Path(name) for name in arguments]
    if not rest:
        raise UsageError(f"{first} is a model; name the audio files or folders after it")
    return first, [Path(name) for name in rest]


def _files(paths: list[Path]) -> list[Path]:
    """Every file once, folders searched; raises DataError for what does not exist or holds no audio."""
    from flexiast.audio import find_audio
    from flexiast.errors import DataError

    files: list[Path] = []
    for path in paths:
        found = find_audio(path) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} holds no audio files; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF")
        if not path.exists():
            raise DataError(f"{path} does not exist")
        files += found
    return list(dict.fromkeys(files))


def _engines(model: str, patch_size: str | None, precision: str | None, backend: Backend) -> tuple[Engines, Any]:
    from flexiast.spec import PatchSize
    from flexiast_cli.console import say
    from flexiast_runtime.backends import load_engines
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_bundle

    bundle = Bundle.open(find_bundle(model))
    variants = bundle.manifest.variants
    measured = [variant for variant in variants if variant.metric is not None]
    best = max(
        measured or variants,
        key=lambda variant: (variant.metric or 0.0, -variant.tokens if measured else variant.tokens),
    )
    patch = best.patch_size if patch_size is None else PatchSize.parse(patch_size)
    return load_engines(bundle, [patch], precision, backend, say), patch


def _events(path: Path, engines: Engines, patch: Any, settings: Settings) -> Iterator[Event]:
    from flexiast_runtime.listener import Conditions, Listener, Pinned
    from flexiast_runtime.records import Event
    from flexiast_runtime.source import FileSource, chunks

    frontend = engines.spec.frontend
    audio = FileSource(path)
    listener = Listener(
        engines, Pinned(patch), settings, source=audio.name, conditions=lambda _: Conditions(deadline_s=settings.step_s)
    )
    records: Iterator[Record] = listener.run(chunks(audio, frontend.sample_rate_hz))
    return (record for record in records if isinstance(record, Event))


@contextlib.contextmanager
def _writer(output_format: Format, output: Path | None, model: str) -> Iterator[Any]:
    """A function that takes the events of one file; with an output file, all appears at the end, by rename."""
    from flexiast.files import write_atomically

    stream: Any = sys.stdout if output is None else io.StringIO()
    events: list[Event] = []
    if output_format is Format.CSV:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(CSV_COLUMNS)
    writers = {
        Format.CSV: lambda found: table.writerows(_row(event, model) for event in found),
        Format.JSONL: lambda found: stream.writelines(
            json.dumps(event.document(), ensure_ascii=False) + "\n" for event in found
        ),
        Format.TABLE: events.extend,
    }
    try:
        yield writers[output_format]
    finally:  # Ctrl-C ends the work, not what was found before
        if events:
            _tabulate(events, stream)
        if output is not None:
            write_atomically(output, stream.getvalue().encode())


def _row(event: Event, model: str) -> tuple[Any, ...]:
    document = event.document() | {"model": model}
    return tuple(document[column] for column in CSV_COLUMNS)


def _tabulate(events: list[Event], stream: Any) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("source", "start s", "end s", "score", "label"):
        table.add_column(
            name, justify="left" if name in {"source", "label"} else "right", no_wrap=True, overflow="fold"
        )
    for event in events:
        table.add_row(
            escape(event.source),
            f"{event.start_s:.2f}",
            f"{event.end_s:.2f}",
            f"{event.score:.2f}",
            escape(event.label),
        )
    console = Console(file=stream, highlight=False)
    console.print(table, soft_wrap=not console.is_terminal)
