"""``flexiast inspect``: what a bundle or a checkpoint holds."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flexiast_cli.terminal.console import print_json


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A bundle, a checkpoint, or the name of a shipped model.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, or a checkpoint's spec and info, as JSON.")
    ] = False,
) -> None:
    """Show a bundle's engines, labels and files, or what a checkpoint is, where it comes from and how good it is."""
    from flexiast.checkpoint import load_checkpoint
    from flexiast_cli.model_card import show_bundle, show_checkpoint
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_any

    path = find_any(model)
    if path.is_file():
        checkpoint = load_checkpoint(path, start=True)
        if as_json:
            print_json({"spec": json.loads(checkpoint.spec.model_dump_json()), "info": checkpoint.info})
        else:
            show_checkpoint(path, checkpoint)
        return
    bundle = Bundle.open(path)
    if as_json:
        print_json(json.loads(bundle.manifest.model_dump_json(exclude_none=True)))
    else:
        show_bundle(bundle)
