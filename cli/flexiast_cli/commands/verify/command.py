"""``flexiast verify``: a bundle checks itself on the machine that runs it."""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every file's sha256, and run the front end and every engine against the stored answers."""
    from flexiast_cli.commands.verify.run import run

    run(model, as_json=as_json)
