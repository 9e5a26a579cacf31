"""``flexiast verify``: a bundle checks itself on the machine that runs it."""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every file's sha256 and run every engine against the stored answers."""
    from flexiast_cli.console import print_json, stdout
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_bundle
    from flexiast_runtime.selfcheck import verify_bundle

    bundle = Bundle.open(find_bundle(model))
    errors = verify_bundle(bundle)
    files = len(bundle.manifest.files)
    if as_json:
        print_json({"files": files, "max_abs_error": {str(patch): error for patch, error in errors.items()}})
    else:
        listed = ", ".join(f"{patch} {error:.1e}" for patch, error in errors.items())
        text = (
            f"{bundle.folder}: {files} files and {len(errors)} engines are as exported; largest logit errors: {listed}"
        )
        stdout().print(text, markup=False, soft_wrap=True)
