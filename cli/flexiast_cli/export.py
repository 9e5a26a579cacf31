"""``flexiast export``: a checkpoint → a bundle of engines for many patch sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexiast.manifest import Manifest
    from flexiast.spec import PatchSize, Spec


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A checkpoint, the name of a shipped model, or a bundle to add sizes to."),
    ],
    patch_sizes: Annotated[str, typer.Option("--patch-sizes", help="Sizes to export, e.g. 8,16,32,48 or 16x32.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle folder to write. (the bundle that sizes are added to)")
    ] = None,
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data", help="Folder or CSV of real sounds to compare on, besides noise, silence and a sweep."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export engines for many patch sizes from one checkpoint.

    One encoder serves all sizes. Every engine is compared with the PyTorch model; a bundle that differs is not
    published. From a BUNDLE, sizes are added to it, which needs neither torch nor the checkpoint: its new engines are
    compared with numpy.
    """
    from flexiast.errors import UsageError
    from flexiast.extras import require
    from flexiast.manifest import MANIFEST
    from flexiast.spec import parse_patches
    from flexiast_cli.console import print_json, stderr, tracked
    from flexiast_cli.inspect import show
    from flexiast_runtime.bundle import Bundle

    patches = parse_patches(patch_sizes)
    adds = (Path(model) / MANIFEST).is_file()
    place = Path(model) if adds and output is None else output
    require("onnx", "export")
    if dry_run:
        _foretell(model, patches, adds=adds, as_json=as_json)
        return
    if place is None:
        raise UsageError("export needs a place for the bundle; name one with --output")
    export_to = _add if adds else _export
    if verify_data is None:
        stderr().print("Compared on noise, silence and a sweep; --verify-data SOUNDS adds real sound", style="yellow")
    manifest = export_to(
        model,
        patches,
        place,
        verify_data,
        force=force,
        progress=lambda variants: tracked(list(variants), "Verifying"),
    )
    if as_json:
        print_json(json.loads(manifest.model_dump_json(exclude_none=True)))
    else:
        show(Bundle(place, manifest))


def _foretell(model: str, patches: Sequence[PatchSize], *, adds: bool, as_json: bool) -> None:
    """Sizes, operations and bytes of the graphs, built in memory; torch is not needed."""
    from rich.table import Table

    from flexiast.checkpoint import load_checkpoint
    from flexiast_cli.console import print_json, stdout
    from flexiast_export.embedding import unpack
    from flexiast_export.graph import embedder, encoder
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_checkpoint

    if adds:
        bundle = Bundle.open(Path(model))
        spec, weights, encoder_bytes = bundle.manifest.spec, unpack(bundle), 0
        patches = [patch for patch in patches if patch not in bundle.manifest.patches]
    else:
        checkpoint = load_checkpoint(find_checkpoint(model))
        spec, weights, encoder_bytes = checkpoint.spec, checkpoint.weights, encoder(checkpoint).ByteSize()
    sizes = {patch: embedder(spec, weights, patch).ByteSize() for patch in patches}
    total = encoder_bytes + sum(sizes.values())
    if as_json:
        graphs = [
            {"patch_size": str(patch), "tokens": spec.tokens(patch), "gmac": spec.gmac(patch), "bytes": size}
            for patch, size in sizes.items()
        ]
        print_json({"encoder_bytes": encoder_bytes, "variants": graphs, "bytes": total})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "tokens", "GMAC", "embedder"):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for patch, size in sizes.items():
        table.add_row(str(patch), f"{spec.tokens(patch):,}", f"{spec.gmac(patch):.3f}", f"{size / 1e6:.2f} MB")
    console = stdout()
    console.print(table)
    console.print()
    if encoder_bytes:
        console.print(f"One encoder of {encoder_bytes / 1e6:.1f} MB serves all sizes.")
    console.print(f"{total / 1e6:.1f} MB in all; nothing was written.")


def _export(
    model: str, patches: Sequence[PatchSize], place: Path, verify_data: Path | None, **options: Any
) -> Manifest:
    from flexiast.checkpoint import load_checkpoint
    from flexiast.extras import require
    from flexiast_runtime.models import find_checkpoint

    require("torch", "export")
    checkpoint = load_checkpoint(find_checkpoint(model))
    for patch in patches:
        checkpoint.spec.check_patch(patch)

    from flexiast.train import TorchClassifier, load_model
    from flexiast_export.to_onnx import export_onnx

    source, waveforms = TorchClassifier(load_model(checkpoint)), _waveforms(verify_data, checkpoint.spec)
    return export_onnx(checkpoint, source, patches, place, verify_waveforms=waveforms, **options)


def _add(model: str, patches: Sequence[PatchSize], place: Path, verify_data: Path | None, **options: Any) -> Manifest:
    from flexiast_export.add import add_sizes
    from flexiast_runtime.bundle import Bundle

    bundle = Bundle.open(Path(model))
    waveforms = _waveforms(verify_data, bundle.manifest.spec)
    return add_sizes(bundle, patches, place, verify_waveforms=waveforms, **options)


VERIFY_CLIPS = 16


def _waveforms(data: Path | None, spec: Spec) -> Sequence[NDArray[np.float32]]:
    """A few clips spread evenly over a folder or CSV."""
    from dataclasses import replace

    from flexiast.audio import find_audio, read_audio
    from flexiast.data import load_waveforms, read_dataset
    from flexiast.errors import DataError
    from flexiast.shards import INDEX

    if data is None:
        return []
    rate = spec.frontend.sample_rate_hz
    if data.is_dir() and not any((data / name).is_file() for name in ("metadata.csv", INDEX)):
        files = find_audio(data)
        if not files:
            raise DataError(f"{data} holds no audio to verify on")
        return [read_audio(path, rate) for path in files[:: max(1, len(files) // VERIFY_CLIPS)][:VERIFY_CLIPS]]
    dataset = read_dataset(data)
    every = max(1, len(dataset.clips) // VERIFY_CLIPS)
    return load_waveforms(replace(dataset, clips=dataset.clips[::every][:VERIFY_CLIPS]), rate)[1]
