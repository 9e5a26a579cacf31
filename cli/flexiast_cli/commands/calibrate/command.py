"""``flexiast calibrate``: temperatures and thresholds of a bundle, fitted on labelled clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
        Path | None,
        typer.Option("--output", "-o", help="Place of the new bundle.", show_default="in place of the old one"),
    ] = None,
    precision_target: Annotated[
        float | None,
        typer.Option(
            "--precision-target",
            help="Precision that each label's threshold must reach.",
            show_default="0.9",
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms-per-hour",
            help="Budget of false alarms in an hour of --background, of all labels together; chooses the thresholds.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Split to fit on; all takes every clip, such as of a folder set aside.")
    ] = "val",
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that is called val, for a CSV with folds.", show_default="the last"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and propose, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Make scores mean the same at every patch size, and choose each label's threshold.

    --data fits one temperature for each engine, by the smallest negative log-likelihood, and the lowest threshold of
    each label that reaches the precision. --background with --false-alarms-per-hour chooses thresholds of each label
    and size so that all false alarms together stay within the budget. They are chosen on one half of the background,
    measured on the other; a size for which they are worse keeps its own. With --data as well, its clips are mixed into
    the background at 20, 10 and 5 dB, to show what the budget costs. Engines stay as they are, to the byte.
    """
    from flexiast_cli.commands.calibrate.run import run

    run(
        model,
        data,
        background or [],
        output,
        precision_target,
        false_alarms,
        split,
        val_fold,
        force=force,
        dry_run=dry_run,
        as_json=as_json,
    )
