"""``flexiast swap``: another model for a `flexiast listen` that runs, without a gap in what it hears."""

from __future__ import annotations

from typing import Annotated

import typer


def swap(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A bundle, or the name of a shipped model.",
            show_default="what lies now where the running one was read",
        ),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Return to the model that ran before the last swap.")] = False,
    pid: Annotated[
        int | None,
        typer.Option("--pid", help="Process number of the listener, where several run.", show_default=False),
    ] = None,
) -> None:
    """Give a running `flexiast listen` another model: verified and loaded beside the old one, swapped between windows.

    Its labels, window and sample rate must be the same. If anything is wrong with it, the old one goes on. The swap
    lasts until `listen` ends; its settings name the model that it starts with.
    """
    from flexiast_cli.commands.swap.run import run

    run(model, pid, back=back)
