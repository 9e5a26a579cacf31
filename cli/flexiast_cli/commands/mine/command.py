"""``flexiast mine``: what a model wrongly reports in hours of background, as background to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast_cli.options.common import BackendOption, PrecisionOption, ThresholdOption
from flexiast_runtime.inference.backends import Backend


def mine(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    recordings: Annotated[
        list[Path], typer.Argument(help="Hours in which none of the labels sounds: files or folders.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV to write, for `train --background`.")],
    threshold: ThresholdOption = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option("--patch-sizes", help="Sizes to look with.", show_default="the one that was measured best"),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Write so many at most, the most confident first.")] = 1000,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Find what a model wrongly reports in background, so that the next training learns that it is nothing.

    Each line of the CSV is a moment: path, start_s, end_s and an empty label, then what it was taken for; the most
    confident come first. Moments that overlap, or hold the same samples, stand once. A lower --threshold finds more.
    """
    from flexiast_cli.commands.mine.run import run

    run(
        model,
        recordings,
        output,
        threshold,
        patch_sizes,
        most,
        precision,
        backend,
        force=force,
    )
