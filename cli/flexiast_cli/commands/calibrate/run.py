"""The work of `flexiast calibrate`: fit temperatures and thresholds, publish the bundle, report the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexiast.arrays import Float
from flexiast.data.background import background_clips
from flexiast.errors import UsageError
from flexiast.evaluation.budget import check_budget
from flexiast.evaluation.evaluate import Windows
from flexiast.evaluation.mixing import choose_clips
from flexiast.evaluation.operating_points import Aim, OperatingPoint, operating_points
from flexiast.files import check_output
from flexiast.frontend import Frontend
from flexiast.manifest import MANIFEST, Variant
from flexiast_cli.commands.calibrate.tables import describe_fit, show_budgets, show_fits
from flexiast_cli.dataset import load_background, load_split
from flexiast_cli.terminal.console import print_json, stderr, track
from flexiast_export.calibrate import Fit, fit_temperatures, peak_scores, publish
from flexiast_export.false_alarms import Budgets, apply_budgets, keep_budget
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle

PRECISION_TARGET = 0.9

MIXED_CLIPS = 200
"""Clips at most that are mixed into the background; half of them found is known to 7 points."""


@dataclass(frozen=True)
class Fitted:
    """What clips with labels gave."""

    fits: Sequence[Fit]
    points: Sequence[OperatingPoint]
    variants: Sequence[Variant]
    """With their new temperatures; the bundle's own where there are no clips."""
    clips: Sequence[tuple[str, Float]] = ()
    """Label and waveform of those that have one label"""
    count: int = 0


def run(
    model: str,
    data: Path | None,
    background: Sequence[Path],
    output: Path | None,
    precision_target: float | None,
    false_alarms: float | None,
    split: str,
    val_fold: str | None,
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    aim = _choose_aim(data, background, precision_target, false_alarms)
    folder = None if dry_run else _output_folder(model, output, force=force)
    bundle = Bundle.open(find_bundle(model))
    fitted = _fit_on_clips(bundle, data, split, val_fold, aim)
    budgets = _fit_on_background(bundle, fitted, background, false_alarms)
    sizes = budgets.sizes if budgets else ()
    if folder is not None:
        thresholds = {point.label: point.threshold for point in fitted.points if point.threshold is not None}
        variants = apply_budgets(bundle, fitted.variants, sizes)
        calibration = budgets.calibration if budgets else None
        publish(bundle, variants, thresholds, folder, calibration=calibration, force=force)
    if as_json:
        clips = {"data": str(data), "split": split, "clips": fitted.count} if data else {}
        target = {"aim": str(aim)} if aim else {"false_alarms_per_hour": false_alarms}
        figures = {
            "variants": [describe_fit(fit) for fit in fitted.fits],
            "labels": [json.loads(point.model_dump_json()) for point in fitted.points],
            "sizes": [json.loads(size.model_dump_json()) for size in sizes],
            "suspects": [json.loads(one.model_dump_json()) for one in budgets.suspects] if budgets else [],
        }
        print_json({"model": model} | clips | target | figures)
        return
    if data is not None:
        show_fits(fitted.fits, fitted.points, f"{model} on {data.name}, {split} ({fitted.count} clips)", aim)
    if budgets is not None:
        show_budgets(budgets, bundle.manifest.precisions)


def _choose_aim(
    data: Path | None, background: Sequence[Path], precision_target: float | None, false_alarms: float | None
) -> Aim | None:
    """What thresholds are chosen for on clips; None where a budget decides. Raises UsageError."""
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


def _output_folder(model: str, output: Path | None, *, force: bool) -> Path:
    """Where the new bundle goes, checked to be free before anything is measured; raises UsageError."""
    in_place = (Path(model) / MANIFEST).is_file()
    if output is None and not in_place:
        raise UsageError(
            f"{model} ships with flexiast and stays as it is; name a place for the new bundle with --output"
        )
    folder = output or Path(model)
    if folder.exists() and not force and not (in_place and folder.absolute() == Path(model).absolute()):
        raise UsageError(f"{folder} exists; choose another place, or replace it with --force")
    check_output(folder / MANIFEST)
    return folder


def _fit_on_clips(bundle: Bundle, data: Path | None, split: str, val_fold: str | None, aim: Aim | None) -> Fitted:
    """Fit temperatures and, with an aim, thresholds on clips with labels."""
    spec = bundle.manifest.spec
    if data is None:
        return Fitted((), (), bundle.manifest.variants)
    waveforms, targets = load_split(data, split, val_fold, spec, stderr())
    windows = Windows(waveforms, Frontend(spec.frontend))
    by_class = np.pad(targets, ((0, 0), (0, spec.classes - len(spec.labels))))  # each has a label: none is of nothing
    fits = fit_temperatures(bundle, windows, by_class, lambda variants: track(list(variants), "Fitting"))
    points: Sequence[OperatingPoint] = ()
    if aim is not None:
        peaks = peak_scores(
            bundle, [fit.variant for fit in fits], waveforms, lambda variants: track(list(variants), "Detecting")
        )
        durations_s = [len(waveform) / spec.frontend.sample_rate_hz for waveform in waveforms]
        points = operating_points(peaks, targets, durations_s, spec.labels, aim)
    single = [place for place in range(len(targets)) if targets[place].sum() == 1]
    names = [spec.labels[int(targets[place].argmax())] for place in single]
    chosen = choose_clips(names, MIXED_CLIPS, 0)
    clips = [(names[number], waveforms[single[number]]) for number in chosen]
    return Fitted(fits, points, [fit.variant for fit in fits], clips, len(targets))


def _fit_on_background(bundle: Bundle, fitted: Fitted, paths: Sequence[Path], per_hour: float | None) -> Budgets | None:
    """Choose thresholds of each size on hours of background; None without a budget."""
    if per_hour is None:
        return None
    rate_hz = bundle.manifest.spec.frontend.sample_rate_hz
    sources = [load_background(background_clips([path]), rate_hz, stderr()) for path in paths]
    return keep_budget(
        bundle, fitted.variants, sources, per_hour, fitted.clips, lambda items: track(list(items), "Detecting")
    )
