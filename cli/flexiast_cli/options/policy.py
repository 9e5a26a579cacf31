"""Options that say how the patch size is chosen; ``flexiast_cli.governor`` turns them into a controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from flexiast_cli.options.common import BackendOption, PowerSourceOption, PrecisionOption
from flexiast_cli.options.validators import named_sizes, percent, positive, share, time_to_last
from flexiast_runtime.inference.backends import Backend

Preset = Literal["steady", "balanced", "greedy"]
"""The names in flexiast_runtime.governor.presets, repeated here because that module imports numpy."""

PolicyOption = Annotated[
    Preset | None,
    typer.Option(
        "--policy",
        help="steady switches seldom, greedy takes the best size as soon as it fits.",
        show_default="balanced",
    ),
]
CascadeOption = Annotated[
    bool,
    typer.Option(
        "--cascade/--every-window",
        help="Run no engine while nothing changes, and the chosen size only where the cheapest one finds a possible "
        "event; or run the chosen size on every window.",
    ),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--latency",
        callback=positive,
        help="Deadline for one window in ms.",
        show_default="one step, shared by the sources",
    ),
]
PatchSizesOption = Annotated[
    str | None,
    typer.Option("--patch-sizes", callback=named_sizes, help="Choose among these only; a single size is never left."),
]
PinOption = Annotated[
    str | None,
    typer.Option("--pin", metavar="SIZE", callback=named_sizes, help="Run this patch size only."),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="TIME",
        callback=time_to_last,
        help="The battery must last until then: 18:00, or 2h from now.",
    ),
]
MinBatteryOption = Annotated[
    float | None,
    typer.Option("--min-battery", metavar="PERCENT", callback=percent, help="Charge to keep.", show_default="20"),
]
MaxWattsOption = Annotated[
    float | None,
    typer.Option(
        "--max-watts",
        metavar="W",
        callback=positive,
        help="What the machine may draw (needs `flexiast profile --power`).",
    ),
]
MinMetricOption = Annotated[
    float | None,
    typer.Option(
        "--min-metric", metavar="SHARE", callback=share, help="Use no patch size whose accuracy or mAP was lower."
    ),
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        help="Write observations and decisions (JSON lines), for `flexiast simulate --trace`.",
    ),
]


@dataclass(frozen=True)
class PolicyOptions:
    """How the patch size is chosen, as the command line gave it."""

    latency: LatencyOption = None
    patch_sizes: PatchSizesOption = None
    pin: PinOption = None
    min_metric: MinMetricOption = None
    policy: PolicyOption = None
    cascade: CascadeOption = True
    until: UntilOption = None
    min_battery: MinBatteryOption = None
    max_watts: MaxWattsOption = None
    power_source: PowerSourceOption = None
    record: RecordOption = None
    precision: PrecisionOption = None
    backend: BackendOption = Backend.CPU

    @property
    def two_sizes_needed(self) -> list[str]:
        """The options given that have no effect unless there are two sizes to choose between."""
        return list_given(
            {
                "--policy": self.policy,
                "--until": self.until,
                "--min-battery": self.min_battery,
                "--max-watts": self.max_watts,
            }
        )


def list_given(options: Mapping[str, object]) -> list[str]:
    """Names of the options that have a value."""
    return [name for name, value in options.items() if value is not None]
