"""``flexiast record``: hours of a place, as the background to train and calibrate with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flexiast_cli.options.validators import positive, size_text


def record(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the recordings; those in it stay.")],
    hours: Annotated[
        float | None,
        typer.Option("--hours", callback=positive, help="Stop after so many hours.", show_default="until Ctrl-C"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Microphone by name, part of it or USB id, see `flexiast devices`.", show_default=False
        ),
    ] = None,
    channel: Annotated[int | None, typer.Option("--channel", min=1, help="Record one channel of it.")] = None,
    file_minutes: Annotated[
        float, typer.Option("--file-minutes", callback=positive, help="Begin another file after so many minutes.")
    ] = 10.0,
    disk_limit: Annotated[
        str, typer.Option("--disk-limit", metavar="SIZE", callback=size_text, help="Stop when so much was written.")
    ] = "5GB",
    file_format: Annotated[Literal["flac", "wav"], typer.Option("--format", help="Kind of the files.")] = "flac",
) -> None:
    """Record a place in which none of the labels sounds, for `train` and `calibrate --background`.

    Files appear whole. A microphone that is unplugged is waited for; each gap begins another file. A level that is too
    low, too high or silent is reported while it can still be mended.
    """
    from flexiast_cli.commands.record.run import run

    run(output, hours, device, channel, file_minutes, disk_limit, file_format)
