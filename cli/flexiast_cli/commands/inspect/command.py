"""``flexiast inspect``: what a bundle or a checkpoint holds."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A bundle, a checkpoint, or the name of a shipped model.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, or a checkpoint's spec and info, as JSON.")
    ] = False,
) -> None:
    """Show a bundle's engines, labels and files, or what a checkpoint is, where it comes from and how good it is."""
    from flexiast_cli.commands.inspect.run import run

    run(model, as_json=as_json)
