"""``flexiast doctor``: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast_cli.options.common import PowerSourceOption


def doctor(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="The bundle to run; a shipped one by default.", show_default=False),
    ] = None,
    record: Annotated[
        float, typer.Option("--record", min=0, max=60, help="Record so many seconds and check them; nothing is saved.")
    ] = 0.0,
    device: Annotated[str | None, typer.Option("--device", help="Microphone by name or part of it.")] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings to check.")] = None,
    power_source: PowerSourceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check this machine for flexiast: software, engines, microphone, power, files.

    Every line is one check, with a remedy where it is not ok. The exit code is 1 if something does not work.
    """
    from flexiast_cli.commands.doctor.run import examine, report

    report(examine(context, model, record, device, config, power_source), as_json=as_json)
