"""``flexiast calibrate``: temperatures and thresholds of a bundle, fitted on labelled clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexiast.operating import Aim, OperatingPoint
    from flexiast_export.calibrate import Fit

PRECISION_TARGET = 0.9


def calibrate(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    data: Annotated[
        Path,
        typer.Option("--data", help="Clips with labels that it was not trained on: folders named by label, or a CSV."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Place of the new bundle (default: in place of the old one).")
    ] = None,
    precision_target: Annotated[
        float | None,
        typer.Option(
            "--precision-target",
            help="Precision that each label's threshold must reach.",
            show_default=str(PRECISION_TARGET),
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option("--false-alarms-per-hour", help="Or: false alarms of each label in an hour of other sounds."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split to fit on.")] = "val",
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that is called val, for a CSV with folds (default: the last)."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files that cannot be read.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and propose, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Make scores mean the same at every patch size, and choose each label's threshold.

    One temperature for each engine, by the smallest negative log-likelihood; then the lowest threshold of each label
    that reaches the precision, or stays within the false alarms. Engines stay as they are, to the byte.
    """
    from flexiast.errors import UsageError
    from flexiast.evaluate import Windows
    from flexiast.frontend import Frontend
    from flexiast.manifest import MANIFEST
    from flexiast.operating import Aim, operating_points
    from flexiast_cli.console import print_json, tracked
    from flexiast_export.calibrate import fit_temperatures, heard_peaks, publish
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_bundle

    if precision_target is None and false_alarms is None:
        precision_target = PRECISION_TARGET
    aim = Aim(precision_target, false_alarms)
    place = Path(model) if output is None and (Path(model) / MANIFEST).is_file() else output
    if place is None and not dry_run:
        raise UsageError(
            f"{model} ships with flexiast and stays as it is; name a place for the new bundle with --output"
        )
    bundle = Bundle.open(find_bundle(model))
    spec = bundle.manifest.spec
    waveforms, targets = _clips(data, spec, split, val_fold, skip_bad=skip_bad)
    windows = Windows(waveforms, Frontend(spec.frontend))
    fits = fit_temperatures(bundle, windows, targets, lambda variants: tracked(list(variants), "Fitting"))
    peaks = heard_peaks(bundle, fits, waveforms, lambda variants: tracked(list(variants), "Listening"))
    durations_s = [len(waveform) / spec.frontend.sample_rate_hz for waveform in waveforms]
    points = operating_points(peaks, targets, durations_s, spec.labels, aim)
    if place is not None and not dry_run:
        thresholds = {point.label: point.threshold for point in points if point.threshold is not None}
        publish(bundle, [fit.variant for fit in fits], thresholds, place, force=force)
    if as_json:
        document = {"model": model, "data": str(data), "split": split, "clips": len(targets), "aim": str(aim)}
        print_json(document | {"variants": list(map(_described, fits)), "labels": list(map(_documented, points))})
    else:
        _show(fits, points, f"{model} on {data.name}, {split} ({len(targets)} clips)", aim)


def _clips(data: Path, spec: Any, split: str, val_fold: str | None, *, skip_bad: bool) -> tuple[Any, Any]:
    """Waveforms and targets [clips, classes]."""
    from flexiast_cli.console import stderr
    from flexiast_cli.dataset import load_clips, read_data

    console = stderr()
    dataset = read_data(data, val_fold, console, skip_bad=skip_bad).split(split)
    readable, waveforms = load_clips(dataset, spec.frontend.sample_rate_hz, console, skip_bad=skip_bad)
    return waveforms, readable.targets(spec.labels)


def _described(fit: Fit) -> dict[str, Any]:
    return {
        "patch_size": str(fit.variant.patch_size),
        "precision": fit.variant.precision,
        "temperature": fit.variant.temperature,
        "fitted": fit.fitted,
        "nll_before": fit.nll[0],
        "nll_after": fit.nll[1],
        "ece_before": fit.ece[0],
        "ece_after": fit.ece[1],
    }


def _documented(point: OperatingPoint) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(point.model_dump_json())
    return document


def _show(fits: Sequence[Fit], points: Sequence[OperatingPoint], title: str, aim: Aim) -> None:
    from rich.table import Table

    from flexiast_cli.console import say, stdout

    console = stdout()
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "precision", "temperature", "NLL", "after", "ECE", "after"):
        table.add_column(name, justify="left" if name in {"patch", "precision"} else "right")
    for fit in fits:
        variant, figures = fit.variant, (f"{value:.3f}" for value in (fit.variant.temperature, *fit.nll, *fit.ece))
        table.add_row(str(variant.patch_size), variant.precision, *figures)
    console.print(table)
    chosen = [point for point in points if point.threshold is not None]
    if chosen:
        console.print(f"\nThresholds for {aim}, heard in a stream, all sizes together:", markup=False)
        console.print(_points_table(chosen))
    for fit in fits:
        if not fit.fitted:
            say(f"{fit.variant}: no temperature is best (all clips right, or no better than chance); it keeps its own")
    for point in points:
        if point.threshold is None:
            say(f"{point.label} keeps the default threshold: {point.reason}")


def _points_table(points: Sequence[OperatingPoint]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("label", "threshold", "precision", "recall", "alarms/h", "positives", "negatives", "hours"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for point in points:
        table.add_row(
            escape(point.label),
            f"{point.threshold:.3f}",
            f"{point.precision:.3f}",
            f"{point.recall:.3f}",
            f"{point.false_alarms_per_hour:.2f}",
            f"{point.positives:,}",
            f"{point.negatives:,}",
            f"{point.negative_hours:.2f}",
        )
    return table
