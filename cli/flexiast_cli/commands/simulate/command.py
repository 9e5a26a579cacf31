"""``flexiast simulate``: the governor through loads, batteries and heat, simulated or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from flexiast_cli.options.common import BackendOption, PrecisionOption
from flexiast_cli.options.grouping import ungroup
from flexiast_cli.options.policy import Preset
from flexiast_cli.options.validators import named_sizes
from flexiast_runtime.inference.backends import Backend

ALL = "all"


@dataclass(frozen=True)
class SimulationOptions:
    """What is simulated, with which sizes."""

    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="What `flexiast listen --record` wrote.")
    ] = None
    scenario: Annotated[str, typer.Option("--scenario", metavar="NAME", help="What happens, by name.")] = ALL
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.01, max=168, help="Duration of each scenario.", show_default="2")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of what is random in them.", show_default="0")] = (
        None
    )
    policy: Annotated[
        Preset | None,
        typer.Option(
            "--policy",
            help="The preset to try; with --trace, in addition to the recorded run.",
            show_default="balanced",
        ),
    ] = None
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", callback=named_sizes, help="Choose among these only.")
    ] = None
    precision: PrecisionOption = None
    backend: BackendOption = Backend.CPU


@ungroup
def simulate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    *,
    simulation: SimulationOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw what happened, on one time axis.")
    ] = None,
) -> None:
    """Simulate a machine under load, and compare the governor with an oracle and with each size alone.

    Scenarios: quiet, step, ramp, square, limit, bursts, drift, flurry, tenant, battery, battery in percent, broken
    sensor, heat, fan, lid, old battery, failing engine. A trace is first replayed: exit code 5 if a decision differs
    today.
    """
    from flexiast_cli.commands.simulate.run import run

    run(model, simulation, as_json=as_json, plot=plot)
