"""What a calibration came to, as tables: temperatures, thresholds, and false alarms against their budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from flexiast.evaluation.budget import CONFIDENCE, hours_needed
from flexiast.evaluation.operating_points import Aim, OperatingPoint
from flexiast.text import preview
from flexiast_cli.terminal.console import count_noun, log, stdout
from flexiast_export.calibrate import Fit
from flexiast_export.false_alarms import Budgets

DENY_FROM = 0.95
"""From this threshold on, a label is hardly ever detected."""

SUSPECTS = 10
"""Moments that are listed at most."""


def describe_fit(fit: Fit) -> dict[str, Any]:
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


def show_fits(fits: Sequence[Fit], points: Sequence[OperatingPoint], title: str, aim: Aim | None) -> None:
    """Print temperatures, calibration errors and thresholds; notes on those that were not fitted go to stderr."""
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
        console.print(f"\nThresholds for {aim}, detected in a stream, all sizes together:", markup=False)
        console.print(_points_table(chosen))
    for fit in fits:
        if not fit.fitted:
            log(f"{fit.variant}: no temperature is best (all clips right, or no better than chance); it keeps its own")
    for point in points:
        if point.threshold is None:
            log(f"{point.label} keeps the default threshold: {point.reason}")
        elif point.reason is not None:
            log(f"{point.label} is kept silent: {point.reason}; leave it out with --deny, or train it again")


def _points_table(points: Sequence[OperatingPoint]) -> Table:
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


def show_budgets(budgets: Budgets, precisions: Sequence[str]) -> None:
    """Print each size's false alarms and recall on the half held back, before and after; notes go to stderr.

    ``precisions`` are the bundle's. The first was measured.
    """
    sizes, calibration = budgets.sizes, budgets.calibration
    hours, per_hour = calibration.hours, calibration.false_alarms_per_hour
    console = stdout()
    console.print(
        f"False alarms in {hours:.2f} h of background held back from the choice; the budget is {per_hour:g} an hour:",
        markup=False,
        soft_wrap=True,
    )
    snrs = list(sizes[0].recall_after)
    table = Table(box=None, header_style="bold", pad_edge=False)
    recalls = [f"recall at {snr_db} dB" for snr_db in snrs]
    for name in ("patch", "before", "after", "after, an hour", f"at most ({CONFIDENCE:.0%})", "kept", *recalls):
        table.add_column(name, justify="left" if name in {"patch", "kept"} else "right")
    for size in sizes:
        table.add_row(
            str(size.patch_size),
            f"{size.before}",
            f"{size.after}",
            f"{size.after / hours:.2f}",
            f"{size.at_most_per_hour:.2f}",
            "as it was" if size.refusal else "yes" if size.is_proven else "not proven",
            *(f"{size.recall_before[snr_db]:.2f} → {size.recall_after[snr_db]:.2f}" for snr_db in snrs),
        )
    console.print(table)
    for size in sizes:
        if size.refusal:
            log(f"{size.patch_size} keeps the bundle's own thresholds: {size.refusal}")
    stored = ", ".join(f"{24 * point.false_alarms_per_hour:.3g}" for point in calibration.points)
    log(f"Stored for `listen --false-alarms-per-day`: {stored} a day")
    if len(precisions) > 1:
        log(f"Measured in {precisions[0]}; {' and '.join(precisions[1:])} get the same thresholds")
    if not snrs:
        log("What this costs in recall was not measured; give clips with labels by --data")
    _report_doubts(budgets)


def _report_doubts(budgets: Budgets) -> None:
    """How much background is missing, which labels are at fault, and where a label may truly sound."""
    sizes, hours = budgets.sizes, budgets.calibration.hours
    per_hour = budgets.calibration.false_alarms_per_hour
    if not all(size.is_proven for size in sizes):
        worst = max(size.after for size in sizes)
        more = hours_needed(worst, per_hour) - hours
        if more > 0:
            log(
                f"It takes {2 * more:.1f} more hours of background, a half of them held back, to show with "
                f"{CONFIDENCE:.0%} confidence that {per_hour:g} an hour is kept, if they hold no more false alarms"
            )
    faulty = sorted({label for size in sizes for label, value in size.thresholds.items() if value >= DENY_FROM})
    if faulty:
        log(
            f"Hardly ever detected any more: {preview(faulty)}; leave them out with --deny {','.join(faulty[:3])}, or "
            "train again with this background (flexiast mine finds what is at fault)"
        )
    if budgets.suspects:
        log(
            f"The model is sure of labels at {count_noun(len(budgets.suspects), 'moment')} of the background. Listen "
            "to these, and cut out what truly sounds:"
        )
    for one in budgets.suspects[:SUSPECTS]:
        log(f"  {one.path} at {one.start_s:.1f} s: {one.label} ({one.score:.2f})")
