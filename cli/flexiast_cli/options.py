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

WebOption = Annotated[
    str | None,
    typer.Option(
        "--web", metavar="[HOST:]PORT", help="Show what is heard on a web page, such as --web 8642 for this machine's."
    ),
]
