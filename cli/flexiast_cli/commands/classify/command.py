"""``flexiast classify``: events in files and folders, by the same path as a microphone's."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from flexiast.errors import ExitCode
from flexiast_cli.commands.classify.options import BATCH_FILES, CPUS_PER_WORKER, ArchiveOptions, EngineName
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
from flexiast_cli.options.validators import named_channel, parse_channel, worker_count
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.inference.backends import Backend


def classify(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PATH...",
            help="Audio files, folders or URLs, or - for a list of them on stdin; a bundle or shipped model may stand "
            "first.",
        ),
    ],
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="How events are written.",
            show_default="by the name of -o, else table; parquet for an archive",
            case_sensitive=True,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|URL",
            help="Write here instead of stdout; results of an archive below a URL.",
        ),
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            metavar="DIR|URL",
            help="Write one result for each file here; run again, it continues where it ended.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, callback=worker_count, help="Processes that share the files.")
    ] = 1,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first file that fails.")] = False,
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            metavar="N|each",
            callback=named_channel,
            help="Channel of each file, counted from 1, or `each` by itself.",
            show_default="the mean of all",
        ),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="What runs an archive: this machine, or a Ray cluster.")
    ] = EngineName.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT|auto",
            help="The cluster; auto is the one that this machine belongs to.",
            show_default="Ray on this machine",
        ),
    ] = None,
    cpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--cpus-per-worker",
            min=0.1,
            help="CPUs that Ray gives to each worker.",
            show_default=f"{CPUS_PER_WORKER:g}",
        ),
    ] = None,
    batch_files: Annotated[
        int | None,
        typer.Option(
            "--batch-files",
            min=1,
            help="Recordings of an archive in one task and one Parquet file.",
            show_default=str(BATCH_FILES),
        ),
    ] = None,
    budget_hours: Annotated[
        float | None,
        typer.Option(
            "--budget-hours",
            min=0.001,
            help="Finish an archive in this time, at the finest patch sizes that do.",
        ),
    ] = None,
    keep_cut: Annotated[
        bool, typer.Option("--keep-cut", help="Classify what a recording that was cut short still holds.")
    ] = False,
    patch_size: Annotated[
        str | None, typer.Option("--patch-size", help="Size to run.", show_default="the one measured best")
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

    Files that cannot be read are named and passed over; the exit code is then 8. Ctrl-C ends the run and writes the
    results so far.
    """
    from flexiast_cli.commands.classify.run import run

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
    all_read = run(
        arguments,
        patch_size,
        precision,
        backend,
        settings,
        chosen_format=output_format,
        output=output,
        output_dir=output_dir,
        workers=workers,
        fail_fast=fail_fast,
        channel=None if channel is None else parse_channel(channel),
        keep_cut=keep_cut,
        archive=ArchiveOptions(engine, ray_address, cpus_per_worker, batch_files, budget_hours),
    )
    if not all_read:
        raise typer.Exit(ExitCode.DATA)
