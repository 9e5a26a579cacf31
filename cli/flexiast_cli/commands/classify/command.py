"""``flexiast classify``: events in files and folders, by the same path as a microphone's."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast_cli.options.common import (
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
from flexiast_cli.options.validators import worker_count
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from flexiast.manifest import Manifest
    from flexiast_cli.commands.classify.progress import Tally
    from flexiast_runtime.batch.formats import Result
    from flexiast_runtime.batch.runner import Job
    from flexiast_runtime.detection.settings import DetectionSettings


def classify(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PATH...",
            help="Audio files or folders, or - for a list of them on stdin; a bundle or shipped model may stand first.",
        ),
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How events are written.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of stdout.")] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Write one result for each file here; run again, it goes on where it ended."),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, callback=worker_count, help="Processes that share the files.")
    ] = 1,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first file that fails.")] = False,
    channel: Annotated[
        int | None,
        typer.Option("--channel", min=1, help="Hear one channel of each file.", show_default="the mean of all"),
    ] = None,
    keep_cut: Annotated[
        bool, typer.Option("--keep-cut", help="Hear what a recording that was cut short still holds.")
    ] = False,
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

    Files that cannot be read are named, passed over, and make the exit code 8 at the end. Ctrl-C ends the run; what was
    finished is written.
    """
    from flexiast.errors import DataError, ExitCode
    from flexiast_cli.commands.classify.progress import Tally

    model, paths = _split(arguments)
    files, unusable = _files(paths)
    if unusable and (fail_fast or not files):
        raise DataError("\n".join(result.error or "" for result in unusable))
    _check_output(output_format, output, output_dir, len(files))
    tally = Tally(fail_fast=fail_fast)
    settings = partial(
        event_settings,
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
    job = replace(_job(model, patch_size, precision, backend, settings), channel=channel, keep_cut=keep_cut)
    run = _Run(job, files, unusable, model, output_format, workers, tally)
    if output_dir is None:
        run.to_stream(output)
    else:
        run.to_folder(output_dir)
    if tally.failures:
        raise typer.Exit(ExitCode.DATA)


@dataclass(frozen=True)
class _Run:
    """What is done with every file."""

    job: Job
    files: Mapping[Path, Path]
    unusable: Sequence[Result]
    """Paths that lead to no audio"""
    model: str
    output_format: Format
    workers: int
    tally: Tally

    def to_stream(self, output: Path | None) -> None:
        """All results as one text; a file appears at the end."""
        from flexiast.files import atomic
        from flexiast_runtime.batch.formats import render
        from flexiast_runtime.batch.workers import restore_order

        results: Iterable[Result] = chain(self.unusable, restore_order(self._classify(list(self.files))))
        alone = output is not None or self.output_format is Format.TABLE or not sys.stdout.isatty()
        results = self.tally.watch(results, self._total, shown=alone)
        target = contextlib.nullcontext(sys.stdout.buffer) if output is None else atomic(output)
        with self._ending_gently(), target as stream:
            for text in render(self.output_format, results, self.model):
                stream.write(text.encode())
                stream.flush()

    def to_folder(self, output_dir: Path) -> None:
        """A file for each result, as it comes; what is there already is passed over."""
        from flexiast_runtime.batch.outputs import open_outputs

        with open_outputs(output_dir, self.output_format, self.job.identity()) as folder:
            missing = folder.list_missing(self.files)
            results: Iterable[Result] = chain(self.unusable, (result for _, result in self._classify(list(missing))))
            with self._ending_gently(already=len(self.files) - len(missing)):
                for result in self.tally.watch(results, len(self.unusable) + len(missing), shown=True):
                    if result.error is None:
                        folder.write(missing[result.path], result, self.model)

    @property
    def _total(self) -> int:
        return len(self.files) + len(self.unusable)

    def _classify(self, paths: Sequence[Path]) -> Iterator[tuple[int, Result]]:
        from flexiast_cli.terminal.console import say
        from flexiast_runtime.batch.runner import classify_files

        return classify_files(self.job, paths, self.workers, say, self.tally.stop.is_set)

    @contextlib.contextmanager
    def _ending_gently(self, already: int = 0) -> Iterator[None]:
        """Ctrl-C ends the run with what it has; either way it is told what that is."""
        from flexiast.errors import ExitCode
        from flexiast_cli.terminal.interrupts import graceful_shutdown

        with graceful_shutdown(self.tally.stop.set, terminated=ExitCode.TERMINATED):
            yield
            self.tally.report(self._total, already, f"{self.model} at {self.job.patch}")


def _split(arguments: list[str]) -> tuple[str, list[Path]]:
    """The model, if the first argument is one, and the rest."""
    from flexiast.errors import UsageError
    from flexiast_runtime.catalog import DEFAULT, list_shipped, looks_like_model

    first, *rest = arguments
    sounds_by_that_name = first in list_shipped() and not rest and Path(first).is_dir()
    if not looks_like_model(first) or sounds_by_that_name:
        return DEFAULT, [Path(name) for name in arguments]
    if not rest:
        raise UsageError(f"{first} is a model; name the audio files or folders after it")
    return first, [Path(name) for name in rest]


def _files(paths: list[Path]) -> tuple[dict[Path, Path], list[Result]]:
    """Every file once, folders searched, with its name below an output folder; and the paths without any.

    That is a file's place in the folder that was named, or its own path as it was named.
    """
    from flexiast.errors import printable, printable_line
    from flexiast_cli.dataset import search_sounds
    from flexiast_cli.terminal.console import stderr
    from flexiast_runtime.batch.formats import Result

    files: dict[Path, Path] = {}
    unusable = {}
    for path in _expand_stdin(paths):
        try:
            path.stat()
            found = search_sounds(path, stderr()).files if path.is_dir() else (path,)
            error = None if found else "holds no audio files; expected WAV, FLAC, Ogg, Opus, MP3 or AIFF"
        except (OSError, ValueError) as failure:  # a name may hold a zero byte, which the system does not take
            found, error = (), _why_not(failure)
        if error is not None:
            unusable[path] = Result(path, printable_line(str(path)), error=printable(f"{path} {error}"))
        for file in found:
            files.setdefault(file, file.relative_to(path) if path.is_dir() else _below(file))
    return files, list(unusable.values())


def _why_not(failure: OSError | ValueError) -> str:
    if isinstance(failure, (FileNotFoundError, NotADirectoryError)):
        return "does not exist"
    reason = failure.strerror if isinstance(failure, OSError) else str(failure)
    return f"cannot be read: {reason}"


def _expand_stdin(paths: list[Path]) -> Iterator[Path]:
    """The paths, those listed on stdin in the place of ``-``."""
    for path in paths:
        if path == Path("-"):
            yield from (Path(os.fsdecode(line.rstrip(b"\n"))) for line in sys.stdin.buffer if line.strip())
        else:
            yield path


def _below(file: Path) -> Path:
    """A path that leads nowhere but down."""
    return Path(*(part for part in file.parts if part not in {file.anchor, ".."}))


def _check_output(output_format: Format, output: Path | None, output_dir: Path | None, files: int) -> None:
    """Raise UsageError for what cannot be written: asked before the work, not after."""
    from flexiast.errors import UsageError
    from flexiast.files import check_output

    if output is not None and output_dir is not None:
        raise UsageError("--output and --output-dir exclude each other; give one")
    if output_format.of_one_file and output_dir is None and files > 1:
        raise UsageError(
            f"--format {output_format.value} describes one recording, {files:,} were given; add --output-dir"
        )
    if output is not None:
        check_output(output)


def _job(
    model: str,
    patch_size: str | None,
    precision: str | None,
    backend: Backend,
    settings: Callable[[Manifest], DetectionSettings],
) -> Job:
    """At the size that was measured best, unless another is named."""
    from flexiast.spec import PatchSize
    from flexiast_runtime.batch.runner import Job
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_bundle

    bundle = Bundle.open(find_bundle(model))
    patch = bundle.manifest.best_patch if patch_size is None else PatchSize.parse(patch_size)
    return Job(bundle.folder, patch, precision, backend, settings(bundle.manifest))
