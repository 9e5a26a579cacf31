"""``flexiast calibrate``: temperatures and thresholds of a bundle, fitted on labelled clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexiast.evaluation.operating_points import Aim, OperatingPoint
    from flexiast.manifest import Variant
    from flexiast_export.calibrate import Fit
    from flexiast_export.false_alarms import SizeBudget
    from flexiast_runtime.bundle import Bundle

PRECISION_TARGET = 0.9
EVERY_SPLIT = "all"


def calibrate(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Clips with labels that it was not trained on: folders named by label, or a CSV."),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(
            "--background",
            help="Hours in which none of the labels sounds, not trained on: a file or a folder; may be repeated.",
        ),
    ] = None,
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
        typer.Option(
            "--false-alarms-per-hour", help="Or: false alarms of all labels together in an hour of the background."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help=f"Split to fit on; {EVERY_SPLIT} is every clip, of a folder kept aside.")
    ] = "val",
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

    With --data, one temperature for each engine, by the smallest negative log-likelihood, and the lowest threshold of
    each label that reaches the precision. With --background and --false-alarms-per-hour, thresholds of each label and
    size at which all false alarms together stay within the budget: chosen on one half, measured on the other, and
    refused where they make it worse. Engines stay as they are, to the byte.
    """
    from flexiast_cli.terminal.console import print_json
    from flexiast_export.calibrate import publish
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_bundle

    aim = _aim(data, background, precision_target, false_alarms)
    place = None if dry_run else _place(model, output, force=force)
    bundle = Bundle.open(find_bundle(model))
    fits, points, variants, clips = _from_clips(bundle, data, split, val_fold, aim, skip_bad=skip_bad)
    thresholds = {point.label: point.threshold for point in points if point.threshold is not None}
    budgets = _from_background(bundle, variants, background or (), false_alarms, skip_bad=skip_bad)
    chosen = {budget.patch_size: budget.thresholds for budget in budgets}
    variants = [one.model_copy(update={"thresholds": chosen.get(one.patch_size)}) for one in variants]
    if place is not None:
        publish(bundle, variants, thresholds, place, force=force)
    if as_json:
        told = {"data": str(data), "split": split, "clips": clips} if data else {}
        told |= {"aim": str(aim)} if aim else {"false_alarms_per_hour": false_alarms}
        figures = {"variants": list(map(_describe_fit, fits)), "labels": list(map(_document_point, points))}
        sizes = {"sizes": [json.loads(budget.model_dump_json()) for budget in budgets]}
        print_json({"model": model} | told | figures | sizes)
        return
    if data is not None:
        _show(fits, points, f"{model} on {data.name}, {split} ({clips} clips)", aim)
    if false_alarms is not None:
        from flexiast_cli.commands.calibrate.budget import show_budgets

        show_budgets(budgets, false_alarms)


def _aim(
    data: Path | None, background: list[Path] | None, precision_target: float | None, false_alarms: float | None
) -> Aim | None:
    """What thresholds are chosen for by clips; None: a budget decides. Raises UsageError."""
    from flexiast.errors import UsageError
    from flexiast.evaluation.budget import check_budget
    from flexiast.evaluation.operating_points import Aim

    if (false_alarms is None) != (not background):
        raise UsageError(
            "false alarms are counted in hours of background, not on clips: give both --background and "
            "--false-alarms-per-hour"
        )
    if false_alarms is None:
        if data is None:
            raise UsageError("give clips with labels by --data, or --background with --false-alarms-per-hour")
        return Aim(PRECISION_TARGET if precision_target is None else precision_target)
    if precision_target is not None:
        raise UsageError("a threshold has one aim: give --precision-target or --false-alarms-per-hour")
    check_budget(false_alarms)
    return None


def _place(model: str, output: Path | None, *, force: bool) -> Path:
    """Where the new bundle goes, known to be free before anything is measured; raises UsageError."""
    from flexiast.errors import UsageError
    from flexiast.files import check_output
    from flexiast.manifest import MANIFEST

    own = (Path(model) / MANIFEST).is_file()
    if output is None and not own:
        raise UsageError(
            f"{model} ships with flexiast and stays as it is; name a place for the new bundle with --output"
        )
    place = output or Path(model)
    if place.exists() and not force and not (own and place.absolute() == Path(model).absolute()):
        raise UsageError(f"{place} exists; choose another place, or replace it with --force")
    check_output(place / MANIFEST)
    return place


def _from_clips(
    bundle: Bundle, data: Path | None, split: str, val_fold: str | None, aim: Aim | None, *, skip_bad: bool
) -> tuple[list[Fit], list[OperatingPoint], Sequence[Variant], int]:
    """Temperatures and, with an aim, thresholds by clips with labels; what the bundle has where there are none."""
    import numpy as np

    from flexiast.evaluation.evaluate import Windows
    from flexiast.evaluation.operating_points import operating_points
    from flexiast.frontend import Frontend
    from flexiast_cli.terminal.console import track
    from flexiast_export.calibrate import fit_temperatures, peak_scores

    spec = bundle.manifest.spec
    if data is None:
        return [], [], bundle.manifest.variants, 0
    waveforms, targets = _clips(data, spec, split, val_fold, skip_bad=skip_bad)
    windows = Windows(waveforms, Frontend(spec.frontend))
    by_class = np.pad(targets, ((0, 0), (0, spec.classes - len(spec.labels))))  # each has a label: none is of nothing
    fits = fit_temperatures(bundle, windows, by_class, lambda variants: track(list(variants), "Fitting"))
    points: list[OperatingPoint] = []
    if aim is not None:
        peaks = peak_scores(bundle, fits, waveforms, lambda variants: track(list(variants), "Listening"))
        durations_s = [len(waveform) / spec.frontend.sample_rate_hz for waveform in waveforms]
        points = operating_points(peaks, targets, durations_s, spec.labels, aim)
    return fits, points, [fit.variant for fit in fits], len(targets)


def _from_background(
    bundle: Bundle, variants: Sequence[Variant], paths: Sequence[Path], per_hour: float | None, *, skip_bad: bool
) -> list[SizeBudget]:
    """Thresholds of each size by hours of background; none without a budget."""
    from flexiast.data.background import background_clips, stretches_of
    from flexiast_cli.terminal.console import say, track
    from flexiast_export.false_alarms import keep_budget

    if per_hour is None:
        return []
    rate_hz = bundle.manifest.spec.frontend.sample_rate_hz
    sources = []
    for path in paths:
        stretches, errors = stretches_of(background_clips([path]), rate_hz, skip_bad=skip_bad)
        for error in errors:
            say(f"skipped: {error}")
        sources.append(stretches)
    return keep_budget(bundle, variants, sources, per_hour, lambda items: track(list(items), "Listening"))


def _clips(data: Path, spec: Any, split: str, val_fold: str | None, *, skip_bad: bool) -> tuple[Any, Any]:
    """Waveforms and targets [clips, classes]."""
    from flexiast_cli.dataset import load_clips, read_data
    from flexiast_cli.terminal.console import stderr

    console = stderr()
    dataset = read_data(data, val_fold, console, skip_bad=skip_bad).labelled
    wanted = dataset if split == EVERY_SPLIT else dataset.split(split)
    readable, waveforms = load_clips(wanted, spec.frontend.sample_rate_hz, console, skip_bad=skip_bad)
    return waveforms, readable.targets(spec.labels)


def _describe_fit(fit: Fit) -> dict[str, Any]:
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


def _document_point(point: OperatingPoint) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(point.model_dump_json())
    return document


def _show(fits: Sequence[Fit], points: Sequence[OperatingPoint], title: str, aim: Aim | None) -> None:
    from rich.table import Table

    from flexiast_cli.terminal.console import say, stdout

    console = stdout()
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "precision", "temperature", "NLL", "after", "ECE", "after"):
        table.add_column(name, justify="left" if name in {"patch", "precision"} else "right")
    for fit in fits:
        variant, figures = fit.variant, (f"{value:.3f}" for value in (fit.variant.temperature, *fit.nll, *fit.ece))
        table.add_row(str(variant.patch_size), variant.precision, *figures)
    console.print(table)
    chosen = [point for point in points if point.threshold is not None and point.reason is None]
    if chosen:
        console.print(f"\nThresholds for {aim}, heard in a stream, all sizes together:", markup=False)
        console.print(_points_table(chosen))
    for fit in fits:
        if not fit.fitted:
            say(f"{fit.variant}: no temperature is best (all clips right, or no better than chance); it keeps its own")
    for point in points:
        if point.threshold is None:
            say(f"{point.label} keeps the default threshold: {point.reason}")
        elif point.reason is not None:
            say(f"{point.label} is kept silent: {point.reason}; leave it out with --deny, or train it again")


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
