"""``flexiast export``: a checkpoint → a bundle of engines for many patch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A checkpoint, the name of a shipped model, or a bundle to add sizes to."),
    ],
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes", help="Sizes to export, e.g. 8,16,32,48 or 16x32.", show_default="all that were trained"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Bundle folder to write.", show_default="the bundle that sizes are added to"
        ),
    ] = None,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file",
            help="Write one file for each size and precision, from samples to scores, into the folder --output: for "
            "programs without flexiast.",
        ),
    ] = False,
    web: Annotated[
        Path | None,
        typer.Option(
            "--web",
            metavar="DIR",
            help="Write a page that runs a BUNDLE in a browser, for any static host; fetches ONNX Runtime Web "
            "from npm.",
        ),
    ] = None,
    conformance: Annotated[
        Path | None,
        typer.Option(
            "--conformance",
            metavar="DIR",
            help="Write a sound and all that the BUNDLE makes of it, to test a runtime of one's own.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Of fp32, fp16, int8 and int8-static; the first is the default.", show_default="fp32"
        ),
    ] = None,
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data",
            help="Real sounds to compare on, besides noise, silence and a sweep. Of a CSV or folders named by label, "
            "the validation clips, on which each engine's accuracy is measured too.",
        ),
    ] = None,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="Fold that is the validation split.", show_default="the last")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", min=0, help="Points that an engine may lose on clips with labels.", show_default="0.5"
        ),
    ] = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option("--calibration-data", help="Folder or CSV of sounds by which int8-static chooses its ranges."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX operators to write with.", show_default="17, the most portable")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export engines for many patch sizes from one checkpoint.

    One encoder serves all sizes. Every engine is compared with the PyTorch model; a bundle that differs is not
    published. Given a BUNDLE, it adds sizes to that bundle, without torch and the checkpoint: the new engines are
    compared with numpy. An older bundle also gets the front end as a graph, which needs no --patch-sizes.
    """
    from flexiast_cli.commands.export import forms, run

    forms.run_form(
        run.Options(
            model=model,
            patches=patch_sizes,
            output=output,
            precision=precision,
            verify_data=verify_data,
            val_fold=val_fold,
            max_drop=max_drop,
            calibration_data=calibration_data,
            opset=opset,
            force=force,
        ),
        form=forms.Form(single_file=single_file, web=web, conformance=conformance),
        dry_run=dry_run,
        as_json=as_json,
    )
