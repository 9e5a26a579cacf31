"""``flexiast import``: weights that others trained → a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flexiast.errors import UsageError
from flexiast.files import check_new_output


def import_(
    source: Annotated[
        Path,
        typer.Argument(help="Hugging Face folder of an AST; .pth of AST or FlexiAST; .pth or .safetensors of a ViT."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="For .pth: one label a line, or a CSV with a column display_name.")
    ] = None,
    task: Annotated[
        Literal["single", "multi"] | None,
        typer.Option("--task", help="One label a clip or any number, where the source does not record it."),
    ] = None,
    mean: Annotated[
        float | None, typer.Option("--mean", help="Mean log-mel, for .pth.", show_default="AudioSet's, −4.2677")
    ] = None,
    std: Annotated[
        float | None, typer.Option("--std", help="Its standard deviation, for .pth.", show_default="AudioSet's, 4.5690")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of a window, for .pth.", show_default="1024")
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            "--stride", help="Step between patches, e.g. 10 or 10x16, for .pth.", show_default="from the weights"
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store matrices as float16: half the size.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Convert an AST, a FlexiAST or a vision transformer that others trained into a checkpoint.

    At its own patch size it gives the original's scores. Export it, or train it further, at any other size. A vision
    transformer has no head for sounds and becomes a start for `flexiast train --init`.
    """
    from flexiast_cli.commands.import_.run import run

    check_new_output(output, force=force)
    if output.exists() and any(output.samefile(path) for path in (source, source / output.name) if path.exists()):
        raise UsageError(f"{output} is what is imported; choose another name")
    run(source, output, labels, task=task, mean=mean, std=std, frames=frames, stride=stride, half=half)
