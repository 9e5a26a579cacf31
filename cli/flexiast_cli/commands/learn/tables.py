"""What changed, on a terminal and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from flexiast.evaluation.evaluate import metric_name
from flexiast_cli.commands.learn.comparison import Comparison, LabelChange, Pair
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.learn.verdicts import Lessons
from flexiast_cli.terminal.console import stdout

LEAST = 0.005
"""A smaller change of a share, or of events, is none"""


def describe(comparison: Comparison, lessons: Lessons, options: Options, report: Path) -> dict[str, Any]:
    """The comparison as JSON."""
    validation = None
    if comparison.validation is not None:
        before, after = comparison.validation
        validation = {
            metric_name(comparison.spec.task): (before.metric, after.metric),
            "patch_sizes": [
                {"patch_size": str(one.patch_size), "before": one.metric, "after": other.metric}
                for one, other in zip(before.results, after.results, strict=True)
            ],
        }
    return {
        "from": options.model,
        "bundle": None if comparison.refusal else str(options.output),
        "report": str(report),
        "refusal": comparison.refusal or None,
        "verdicts": {"taught": len(lessons.taught), "held_out": len(lessons.held_out)},
        "held_out": {
            "sounds": comparison.sounds,
            "found": comparison.found,
            "false_events": comparison.false_events,
        },
        "validation": validation,
        "labels": [one.model_dump(mode="json") for one in comparison.changes],
    }


def show_comparison(comparison: Comparison) -> None:
    """Print what changed in all, then the labels that changed."""
    console = stdout()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    for row in list_totals(comparison):
        table.add_row(*row)
    console.print(table)
    rows = [one for one in sort_changes(comparison) if has_changed(one)]
    if not rows:
        return
    console.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ["label", "held out", "found", "false events"]
    for name in columns if comparison.validation is None else [*columns, "validation"]:
        table.add_column(name, justify="left" if name == "label" else "right")
    for one in rows:
        cells = [str(one.sounds or ""), show_share(one.found), show_count(one.false_events)]
        table.add_row(
            escape(one.label), *cells, *([] if comparison.validation is None else [show_share(one.validation)])
        )
    console.print(table)


def list_totals(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What, before and after; the means of all patch sizes."""
    nothing = len(comparison.held_out) - comparison.sounds
    rows = [
        (
            f"sounds found, of {comparison.sounds} held out",
            f"{comparison.found[0]:.1f}",
            f"{comparison.found[1]:.1f}",
        ),
        (
            f"false events, in {comparison.sounds} of these and {nothing} of nothing",
            f"{comparison.false_events[0]:.1f}",
            f"{comparison.false_events[1]:.1f}",
        ),
    ]
    if comparison.validation is not None:
        name = "accuracy" if comparison.spec.task == "single" else "mean average precision"
        before, after = (f"{one.metric:.1%}" for one in comparison.validation)
        rows.append((f"{name} on the original validation set", before, after))
    return rows


def sort_changes(comparison: Comparison) -> list[LabelChange]:
    """Labels, the greatest change first."""
    return sorted(comparison.changes, key=lambda one: (-_measure_change(one), one.label))


def has_changed(change: LabelChange) -> bool:
    return _measure_change(change) >= LEAST


def _measure_change(change: LabelChange) -> float:
    pairs = [change.false_events, *(pair for pair in (change.found, change.validation) if pair is not None)]
    return sum(abs(after - before) for before, after in pairs)


def show_share(pair: Pair | None) -> str:
    return "" if pair is None else f"{pair[0]:.0%} → {pair[1]:.0%}"


def show_count(pair: Pair) -> str:
    return f"{pair[0]:.1f} → {pair[1]:.1f}" if any(pair) else ""
