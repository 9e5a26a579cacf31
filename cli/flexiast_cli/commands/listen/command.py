"""``flexiast listen``: a microphone, file or pipe classified live, at a patch size chosen window by window."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiast_cli.commands.listen.options import OutputOptions, SourceOptions
from flexiast_cli.loading import pause_collection
from flexiast_cli.options.common import EventOptions
from flexiast_cli.options.grouping import ungroup
from flexiast_cli.options.policy import PolicyOptions


@ungroup
def listen(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    *,
    sources: SourceOptions,
    sizes: PolicyOptions,
    events: EventOptions,
    output: OutputOptions,
) -> None:
    """Listen and report sounds as events.

    The patch size is the best that meets the deadline and that the battery allows; every switch has a reason. Ctrl-C
    ends the stream, reports what is still open, and exits with 130.
    """
    with pause_collection():
        from flexiast_cli.commands.listen.run import run

    run(model, sources, sizes, events, output)
