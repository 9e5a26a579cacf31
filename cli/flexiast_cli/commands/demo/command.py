"""``flexiast demo``: the whole runtime in 40 seconds, on a machine without microphone, sounds or battery."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiast_cli.options.common import WebOption


def demo(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", help="An audio file, or mic for the microphone.", show_default="a synthesised soundscape"
        ),
    ] = None,
    web: WebOption = None,
) -> None:
    """Stream a synthesised soundscape through the real pipeline, squeeze the deadline, drain a simulated battery."""
    from flexiast_cli.commands.demo.run import run

    run(model, source, web)
