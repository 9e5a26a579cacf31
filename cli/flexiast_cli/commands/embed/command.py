"""``flexiast embed``: a vector for each window of recordings, for search, clusters and classifiers of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast.extras import require


def embed(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, or the name of a shipped model.")],
    recordings: Annotated[list[Path], typer.Argument(help="Audio files, and folders that are searched for them.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A .parquet table (path, start_s, end_s, embedding), or an .npy array [windows, width] with a .csv of "
            "path, start_s, end_s beside it.",
        ),
    ],
    patch_size: Annotated[
        str | None, typer.Option("--patch-size", help="Size to embed with.", show_default="the model's base size")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write an embedding for each window of recordings: the input of the model's last layer.

    Windows follow one another (of 1 s: every 0.98 s); a shorter last one is padded with silence. Similar sounds have
    similar vectors.
    """
    require("torch", "train")
    if output.suffix == ".parquet":
        require("pyarrow.parquet", "parquet")

    from flexiast_cli.commands.embed.run import run

    run(model, recordings, output, patch_size, force=force)
