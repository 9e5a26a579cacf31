"""The work of `flexiast inspect`."""

from __future__ import annotations

import json

from flexiast.checkpoint import load_checkpoint
from flexiast_cli.model_card import show_bundle, show_checkpoint
from flexiast_cli.terminal.console import print_json
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any


def run(model: str, *, as_json: bool) -> None:
    """Raises CheckpointError or BundleError for what is neither a checkpoint nor a bundle."""
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
