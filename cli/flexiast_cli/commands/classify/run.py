"""The work of `flexiast classify`: find the files, classify each, write the results, count what came of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from flexiast.errors import DataError, ExitCode, UsageError
from flexiast.files import atomic, check_output
from flexiast.manifest import Manifest
from flexiast.spec import PatchSize
from flexiast_cli.commands.classify.archive import name_place, run_archive
from flexiast_cli.commands.classify.files import find_files, split_model
from flexiast_cli.commands.classify.options import ArchiveOptions
from flexiast_cli.commands.classify.progress import Tally
from flexiast_cli.terminal.console import log
from flexiast_cli.terminal.interrupts import graceful_shutdown
from flexiast_runtime.audio.channels import Channel
from flexiast_runtime.batch.formats import Format, Result, render
from flexiast_runtime.batch.outputs import open_outputs
from flexiast_runtime.batch.runner import Job, classify_files
from flexiast_runtime.batch.workers import restore_order
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend


def run(
    arguments: list[str],
    patch_size: str | None,
    precision: str | None,
    backend: Backend,
    settings: Callable[[Manifest], DetectionSettings],
    *,
    chosen_format: Format | None,
    output: str | None,
    output_dir: str | None,
    workers: int,
    fail_fast: bool,
    channel: Channel | None,
    keep_cut: bool,
    archive: ArchiveOptions,
) -> bool:
    """Whether every file could be read; raises DataError where none could."""
    archive.check(workers, size_is_chosen=patch_size is not None)
    model, places = split_model(arguments)
    if archive.are_for(chosen_format, [*places, output, output_dir]):
        job = replace(_create_job(model, patch_size, precision, backend, settings), channel=channel, keep_cut=keep_cut)
        return run_archive(
            places,
            job,
            model,
            name_place(output, output_dir),
            chosen_format or Format.PARQUET,
            workers=workers,
            fail_fast=fail_fast,
            options=archive,
        )
    archive.refuse_without_archive()
    output_format, paths = chosen_format or _choose_format(output), [Path(place) for place in places]
    files, unusable = find_files(paths)
    if unusable and (fail_fast or not files):
        raise DataError("\n".join(result.error or "" for result in unusable))
    output_file = None if output is None else Path(output)
    _check_output(output_format, output_file, output_dir, len(files))
    job = replace(_create_job(model, patch_size, precision, backend, settings), channel=channel, keep_cut=keep_cut)
    tally = Tally(fail_fast=fail_fast)
    batch = Batch(job, files, unusable, model, output_format, workers, tally)
    if output_dir is None:
        batch.to_stream(output_file)
    else:
        batch.to_folder(Path(output_dir))
    return not tally.failures


@dataclass(frozen=True)
class Batch:
    """One job, applied to every file."""

    job: Job
    files: Mapping[Path, Path]
    unusable: Sequence[Result]
    """Paths without any audio, as failed results."""
    model: str
    output_format: Format
    workers: int
    tally: Tally

    def to_stream(self, output: Path | None) -> None:
        """Write all results as one text; a file appears only when it is complete."""
        results: Iterable[Result] = chain(self.unusable, restore_order(self._classify(list(self.files))))
        shown = output is not None or self.output_format is Format.TABLE or not sys.stdout.isatty()
        results = self.tally.watch(results, self._total, shown=shown)
        target = contextlib.nullcontext(sys.stdout.buffer) if output is None else atomic(output)
        with self._report_at_end(), target as stream:
            for text in render(self.output_format, results, self.model):
                stream.write(text.encode())
                stream.flush()

    def to_folder(self, output_dir: Path) -> None:
        """Write a file for each result as it comes; files that have one already are passed over."""
        with open_outputs(output_dir, self.output_format, self.job.identity()) as folder:
            missing = folder.list_missing(self.files)
            results: Iterable[Result] = chain(self.unusable, (result for _, result in self._classify(list(missing))))
            with self._report_at_end(already=len(self.files) - len(missing)):
                for result in self.tally.watch(results, len(self.unusable) + len(missing), shown=True):
                    if result.error is None:
                        folder.write(missing[Path(str(result.path))], result, self.model)

    @property
    def _total(self) -> int:
        return len(self.files) + len(self.unusable)

    def _classify(self, paths: Sequence[Path]) -> Iterator[tuple[int, Result]]:
        return classify_files(self.job, paths, self.workers, log, self.tally.stop.is_set)

    @contextlib.contextmanager
    def _report_at_end(self, already: int = 0) -> Iterator[None]:
        """Let Ctrl-C end the run with the results so far; report them either way."""
        with graceful_shutdown(self.tally.stop.set, terminated=ExitCode.TERMINATED):
            yield
            self.tally.report(self._total, already, f"{self.model} at {self.job.patch}")


def _choose_format(output: str | None) -> Format:
    """That which the name of the output ends with, else a table; raises UsageError for Parquet: it needs a folder."""
    ending = "" if output is None else Path(output).suffix.lower()
    if ending == ".parquet":
        raise UsageError(
            f"{output} would be one file, and Parquet is written into a folder; give --format parquet -o FOLDER, or "
            "another name"
        )
    return next((one for one in Format if ending == f".{one.value}"), Format.TABLE)


def _check_output(output_format: Format, output: Path | None, output_dir: str | None, files: int) -> None:
    """Raise UsageError for an output that cannot be written, before any work is done."""
    if output is not None and output_dir is not None:
        raise UsageError("--output and --output-dir exclude each other; give one")
    if output_format.of_one_file and output_dir is None and files > 1:
        raise UsageError(
            f"--format {output_format.value} describes one recording, {files:,} were given; add --output-dir"
        )
    if output is not None:
        check_output(output)


def _create_job(
    model: str,
    patch_size: str | None,
    precision: str | None,
    backend: Backend,
    settings: Callable[[Manifest], DetectionSettings],
) -> Job:
    """The job for one file, at the size with the best accuracy unless another is given."""
    bundle = Bundle.open(find_bundle(model))
    patch = bundle.manifest.best_patch if patch_size is None else PatchSize.parse(patch_size)
    return Job(bundle.folder, patch, precision, backend, settings(bundle.manifest))
