"""``flexiast evaluate``: a metric for each patch size, of a checkpoint in PyTorch or of a bundle in its engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast_cli.options.common import BackendOption, PrecisionOption
from flexiast_runtime.inference.backends import Backend


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, a bundle, or the name of a shipped model.")
    ],
    data: Annotated[Path, typer.Argument(help="Folder of folders named by label, or a CSV (path,label,split|fold).")],
    patch_sizes: Annotated[
        str | None,
        typer.Option("--patch-sizes", help="Sizes to measure (default: all of the bundle, or all trained ones)."),
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    split: Annotated[
        str | None, typer.Option("--split", help="Measure this split only, e.g. val (default: every clip).")
    ] = None,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that is called val, for a CSV with folds (default: the last)."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Also show each label's recall, the worst first.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (PNG) of the metric against the cost.")
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option("--confusion", help="Write a confusion matrix (PNG) of the best size."),
    ] = None,
) -> None:
    """Measure accuracy (mAP for clips with several labels) at each patch size.

    On background (an empty label, or a folder _background_) it also measures the specificity: the share of windows in
    which no score reaches 0.5.
    """
    from flexiast_cli.commands.evaluate.run import run

    run(
        model,
        data,
        patch_sizes,
        precision,
        backend,
        split,
        val_fold,
        skip_bad=skip_bad,
        as_json=as_json,
        per_label=per_label,
        plot=plot,
        confusion=confusion,
    )
