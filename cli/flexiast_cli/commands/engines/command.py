"""``flexiast engines``: TensorRT plans of this machine: list, build, verify, prune."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast.errors import UsageError

if TYPE_CHECKING:
    from flexiast_runtime.inference.tensorrt.plan_store import Flavour

ALL = "all"


class FlavourName(str, Enum):
    """The two TensorRTs."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


FlavourOption = Annotated[
    FlavourName | None,
    typer.Option("--flavour", help="tensorrt (Jetson) or tensorrt-rtx (PC).", show_default="the one installed"),
]


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print the plans as JSON.")] = False) -> None:
    """Show the plans in the cache."""
    from flexiast_cli.commands.engines.run import list_plans

    list_plans(as_json=as_json)


def build(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", help="Sizes to build for, e.g. 8,16,32.", show_default="all")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the bundle's.", show_default="fp16 if the bundle has it")
    ] = None,
    flavour: FlavourOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Build for another GPU, without one: sm86 and the like, or any; tensorrt-rtx only. Shows that it can "
            "be built; the device builds its own.",
            show_default="this machine's GPU",
        ),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option("--memory-limit", min=1, help="Scratch memory to plan with, MB.", show_default="the GPU's"),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build also what the cache has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plans as JSON.")] = False,
) -> None:
    """Build the TensorRT plans of a bundle for this machine's GPU, and keep them in the cache."""
    from flexiast_cli.commands.engines.run import build_plans

    build_plans(
        model,
        patch_sizes,
        precision,
        _flavour(flavour),
        target,
        memory_limit,
        rebuild=rebuild,
        as_json=as_json,
    )


def _flavour(name: FlavourName | None) -> Flavour | None:
    flavours: dict[str, Flavour] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
    return None if name is None else flavours[name.value]


def verify(
    model: Annotated[
        str, typer.Argument(metavar="BUNDLE|all", help="A bundle whose plans to check, or all plans in the cache.")
    ] = ALL,
    flavour: FlavourOption = None,
) -> None:
    """Check each plan's sha256 and who may write to it; of a BUNDLE on a GPU, also its answers."""
    from flexiast_cli.commands.engines.run import verify_plans

    verify_plans(None if model == ALL else model, _flavour(flavour))


def prune(
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, metavar="DAYS", help="Remove what was built before.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all plans.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove plans that cannot be used any more: of another TensorRT, driver or GPU than this machine's, or damaged."""
    from flexiast_cli.commands.engines.run import prune_plans

    if everything and older_than is not None:
        raise UsageError("--all removes also what is younger than --older-than; give one of them")
    prune_plans(older_than, everything=everything, dry_run=dry_run)
