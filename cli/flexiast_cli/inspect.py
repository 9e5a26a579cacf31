"""``flexiast inspect``: what a bundle holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flexiast_runtime.bundle import Bundle


def inspect(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show a bundle's engines, labels and files."""
    from flexiast_cli.console import print_json
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_bundle

    bundle = Bundle.open(find_bundle(model))
    if as_json:
        print_json(json.loads(bundle.manifest.model_dump_json(exclude_none=True)))
    else:
        show(bundle)


def show(bundle: Bundle) -> None:
    """The bundle as a table on stdout."""
    from rich.table import Table

    from flexiast.data import preview
    from flexiast_cli.console import stdout

    manifest = bundle.manifest
    spec = manifest.spec
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "patch",
        "tokens",
        "GMAC",
        "embedder",
        "max |Δ logit|",
        "accuracy" if spec.task == "single" else "mAP",
    ):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for variant in manifest.variants:
        table.add_row(
            str(variant.patch_size),
            f"{variant.tokens:,}",
            f"{variant.gmac:.3f}",
            f"{manifest.entry(variant.embedder).size / 1e6:.2f} MB",
            f"{variant.parity.max_abs_error:.1e}",
            "–" if variant.metric is None else f"{variant.metric:.3f}",
        )
    total = sum(entry.size for entry in manifest.files)
    inputs = manifest.variants[0].parity
    console = stdout()
    console.print(f"{bundle.folder}", style="bold", markup=False, soft_wrap=True)
    console.print(f"schema {manifest.schema_version}, source {manifest.source_sha256[:12]}")
    console.print(
        f"{spec.network.width} wide, {spec.network.depth} blocks, {spec.network.heads} heads; "
        f"window {spec.frontend.window_s:g} s at {spec.frontend.sample_rate_hz:,} Hz; "
        f"trained at {', '.join(map(str, spec.trained_patches))}"
    )
    console.print(f"{spec.classes} labels: {preview(spec.labels)}", markup=False)
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"One encoder of {manifest.entry(manifest.encoder).size / 1e6:.1f} MB serves all sizes; "
        f"{total / 1e6:.1f} MB in {len(manifest.files)} files.\n"
        f"Compared with the model on {inputs.inputs} windows, {inputs.real_inputs} of them real sound; "
        f"allowed {inputs.tolerance:g}."
    )
