"""``flexiast learn``: verdicts and marks → a model that knows its place better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast.extras import require
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.review.command import ClipsOption


def learn(
    model: Annotated[
        str,
        typer.Option("--from", metavar="MODEL", help="What learns: a bundle, a checkpoint or a shipped model's name."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle folder to write.")],
    history: Annotated[
        Path | None,
        typer.Option(
            "--history", metavar="DATABASE", help="Verdicts and marks to learn.", show_default="the user's own"
        ),
    ] = None,
    clips: ClipsOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="What the model was trained on: folders named by label, or a CSV."),
    ] = None,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that validates, for a CSV with folds.", show_default="the last"),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(
            "--background", help="Hours in which none of the labels sounds: a file or a folder; may be repeated."
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms-per-hour",
            help="Budget of false alarms, kept on the half of --background that does not teach.",
            show_default="that of a calibrated bundle",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="HTML page to write.", show_default="beside the new bundle")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle and a report that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Teach a model what people said in `flexiast review`, and publish it as a bundle if it is no worse than before.

    Right teaches the event's label, another label that one, a mark its own; wrong and nothing teach that no label
    sounds. A fifth of the verdicts is held out: on these, and on the validation clips of --data, the new model is
    compared with the old one. A worse one is not published (exit code 11); the report shows both. Without --data the
    new model is held near the old one, so that nothing is forgotten. Labels, window and patch sizes stay, so `flexiast
    swap` takes the bundle.
    """
    require("torch", "train")
    require("onnx", "export")
    from flexiast_cli.commands.learn.run import run

    options = Options(
        model=model,
        output=output,
        history=history,
        clips=clips,
        data=data,
        val_fold=val_fold,
        background=background or (),
        false_alarms=false_alarms,
        report=report,
    )
    run(options, force=force, as_json=as_json)
