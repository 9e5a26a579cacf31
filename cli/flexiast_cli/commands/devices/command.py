"""``flexiast devices``: the microphones of this machine, and which one `listen` would open."""

from __future__ import annotations

from typing import Annotated

import typer


def devices(
    device: Annotated[
        str | None,
        typer.Option("--device", help="Mark the one that this name, part of a name or USB id chooses."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the devices as JSON.")] = False,
) -> None:
    """List microphones; a * marks the one that `listen` would open."""
    from flexiast_cli.commands.devices.run import run

    run(device, as_json=as_json)
