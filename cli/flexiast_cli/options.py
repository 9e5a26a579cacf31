"""Options that several commands share: one spelling, one help text."""

from __future__ import annotations

from typing import Annotated

import typer

from flexiast_runtime.backends import Backend

PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Precision of the engines (default: the bundle's first).")
]
BackendOption = Annotated[
    Backend, typer.Option("--backend", help="What runs the engines; tensorrt builds its plans first.")
]


def named_sizes(text: str | None) -> str | None:
    """The text, if it names patch sizes; a callback, so that a file of settings is checked for it too."""
    from flexiast.errors import UsageError
    from flexiast.spec import parse_patches

    try:
        if text is not None:
            parse_patches(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    return text
