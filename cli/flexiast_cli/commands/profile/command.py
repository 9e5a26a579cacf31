"""``flexiast profile``: what every engine of a bundle takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast.errors import ExitCode
from flexiast_cli.options.common import BackendOption, PowerSourceOption
from flexiast_cli.options.validators import positive
from flexiast_runtime.inference.backends import Backend


def profile(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.")] = "",
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", help="Sizes to measure.", show_default="all of the bundle")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Precisions to measure, such as fp32,int8.", show_default="all that the backend runs"
        ),
    ] = None,
    backend: BackendOption = Backend.CPU,
    threads: Annotated[int, typer.Option("--threads", min=1, max=64, help="Of ONNX Runtime on the CPU.")] = 1,
    duration: Annotated[
        float, typer.Option("--duration", callback=positive, help="Seconds each variant runs, at least.")
    ] = 3.0,
    warmup: Annotated[
        float, typer.Option("--warmup", callback=positive, help="Seconds each variant runs before it counts.")
    ] = 0.2,
    power: Annotated[
        bool, typer.Option("--power", help="Measure energy too, where the machine has a meter (6 s for each variant).")
    ] = False,
    power_source: PowerSourceOption = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            "--accuracy", metavar="DATA", help="Labelled sounds to measure each variant on (their val split)."
        ),
    ] = None,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="With --accuracy: the fold that is called val.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write every latency to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report with pictures.")] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD.json", help="Show what changed since an older profile.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", callback=positive, help="Exit with 6 if a variant's 95th percentile is longer."),
    ] = None,
) -> None:
    """Measure latency, memory and, where there is a meter, energy of each engine.

    The profile is stored for this machine and its current settings; `flexiast listen` chooses sizes by it.
    """
    from flexiast_cli.commands.profile.run import run

    over_budget = run(
        model,
        patch_sizes,
        precision,
        backend,
        threads,
        duration_s=duration,
        warmup_s=warmup,
        power=power,
        power_source=power_source,
        accuracy=accuracy,
        val_fold=val_fold,
        as_json=as_json,
        csv_path=csv_path,
        html=html,
        compare=compare,
        budget_ms=budget_ms,
    )
    if over_budget:
        raise typer.Exit(ExitCode.BUDGET)
