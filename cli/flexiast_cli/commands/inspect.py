"""``flexiast inspect``: what a bundle or a checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flexiast.checkpoint import Checkpoint
    from flexiast.manifest import Encoder, Manifest, Variant
    from flexiast.spec import PatchSize, Spec
    from flexiast_runtime.bundle import Bundle


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A bundle, a checkpoint, or the name of a shipped model.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, or a checkpoint's spec and info, as JSON.")
    ] = False,
) -> None:
    """Show a bundle's engines, labels and files, or what a checkpoint is and where it comes from."""
    from flexiast.checkpoint import load_checkpoint
    from flexiast_cli.terminal.console import print_json
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_any

    path = find_any(model)
    if path.is_file():
        checkpoint = load_checkpoint(path, start=True)
        if as_json:
            print_json({"spec": json.loads(checkpoint.spec.model_dump_json()), "info": checkpoint.info})
        else:
            _show_checkpoint(path, checkpoint)
        return
    bundle = Bundle.open(path)
    if as_json:
        print_json(json.loads(bundle.manifest.model_dump_json(exclude_none=True)))
    else:
        show(bundle)


def facts(spec: Spec) -> str:
    """Network, window, patch sizes and labels, in two lines."""
    from flexiast.text import preview
    from flexiast_cli.terminal.console import count_noun

    network, window = spec.network, f"window {spec.frontend.window_s:g} s at {spec.frontend.sample_rate_hz:,} Hz"
    if network.kind == "convolutional":
        what = (
            f"convnet, {network.width} wide, {count_noun(network.depth, 'stage')}; {window}; a teacher, no patch sizes"
        )
    else:
        overlap = "" if spec.base_stride is None else f" at stride {spec.base_stride}"
        what = (
            f"{network.width} wide, {count_noun(network.depth, 'block')}, {count_noun(network.heads, 'head')}; "
            f"{window}; "
            f"trained at {', '.join(map(str, spec.trained_patches))}{overlap}"
        )
    nothing = "; and a class for nothing, learnt from background" * spec.nothing_class
    labels = f"{count_noun(len(spec.labels), 'label')}: {preview(spec.labels)}{nothing}"
    return f"{what}\n{labels if spec.labels else 'no labels: a start for training'}"


def _show_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    from flexiast.checkpoint import weights_sha256
    from flexiast_cli.terminal.console import stdout

    spec, weights = checkpoint.spec, checkpoint.weights.values()
    console = stdout()
    console.print(f"{path}", style="bold", markup=False, soft_wrap=True)
    console.print(
        f"weights {weights_sha256(checkpoint)[:12]}, {sum(value.size for value in weights) / 1e6:.2f} M, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
    console.print(facts(spec), markup=False)
    size = f"{spec.base_patch}: {spec.tokens(spec.base_patch):,} tokens, " * (spec.network.kind == "transformer")
    console.print(f"{size}{spec.gmac(spec.base_patch):.3f} GMAC")
    if background := checkpoint.info.get("background"):
        console.print(f"trained with {background['train_hours']:.2f} h of background")
    if origin := checkpoint.info.get("imported"):
        console.print(
            f"imported from {origin['file']} ({origin['format']}), sha256 {origin['sha256'][:12]}", markup=False
        )


def show(bundle: Bundle) -> None:
    """The bundle as a table on stdout."""
    from rich.table import Table

    from flexiast_cli.terminal.console import count_noun, stdout

    manifest = bundle.manifest
    spec = manifest.spec
    table = Table(box=None, header_style="bold", pad_edge=False)
    metric, labelled = "accuracy" if spec.task == "single" else "mAP", any(v.labelled for v in manifest.variants)
    for name in ("patch", "precision", "tokens", "GMAC", "embedder", "max |Δ logit|", metric, *["loss"] * labelled):
        table.add_column(name, justify="left" if name in {"patch", "precision"} else "right")
    for variant in manifest.variants:
        table.add_row(
            str(variant.patch_size),
            variant.precision,
            f"{variant.tokens:,}",
            f"{variant.gmac:.3f}",
            f"{manifest.entry(variant.embedder).size / 1e6:.2f} MB",
            f"{variant.parity.max_abs_error:.1e}",
            "–" if (own := _metric(variant)) is None else f"{own:.3f}",
            *(["–" if variant.labelled is None else f"{variant.labelled.drop:.2f}"] * labelled),
        )
    console = stdout()
    console.print(f"{bundle.folder}", style="bold", markup=False, soft_wrap=True)
    console.print(f"schema {manifest.schema_version}, opset {manifest.opset}, source {manifest.source_sha256[:12]}")
    console.print(facts(spec), markup=False)
    console.print()
    console.print(table)
    console.print()
    for precision, encoder in manifest.encoders.items():
        size = manifest.entry(encoder.file).size / 1e6
        console.print(f"One {precision} encoder of {size:.1f} MB serves all sizes{_describe_quantization(encoder)}.")
    console.print(
        f"{sum(entry.size for entry in manifest.files) / 1e6:.1f} MB in {count_noun(len(manifest.files), 'file')}."
    )
    for text, patches in (comparisons := _comparisons(manifest)).items():
        which = f" ({', '.join(map(str, patches))})" * (len(comparisons) > 1)
        console.print(f"Compared with {text}{which}.")
    temperatures = [variant.temperature for variant in manifest.variants]
    by_size = {label for variant in manifest.variants for label in variant.thresholds or ()}
    if by_size or manifest.thresholds or set(temperatures) != {1.0}:
        console.print(
            f"Calibrated: temperatures {min(temperatures):.3f} to {max(temperatures):.3f}, "
            f"thresholds of {count_noun(len(by_size | set(manifest.thresholds)), 'label')}"
            f"{' at each size' * bool(by_size)}."
        )
    if labelled:
        console.print(f"Loss: points of {metric} under the model's, on clips with labels.")


def _metric(variant: Variant) -> float | None:
    """The engine's own; what training measured is that of an engine in float32 too, and of no coarser one."""
    if variant.labelled is not None:
        return variant.labelled.metric
    return variant.metric if variant.precision == "fp32" else None


def _comparisons(manifest: Manifest) -> dict[str, list[PatchSize]]:
    """With what and on how many windows → patch sizes: those added later may differ."""
    from flexiast_cli.terminal.console import count_noun

    found: dict[str, list[PatchSize]] = {}
    for patch in manifest.patches:
        parity = manifest.variant(patch).parity
        source = "the model" if parity.against is None else f"numpy under the bundle's own {parity.against} encoder"
        real = f"{parity.real_inputs:,} of them real sound"
        found.setdefault(f"{source} on {count_noun(parity.inputs, 'window')}, {real}", []).append(patch)
    return found


def _describe_quantization(encoder: Encoder) -> str:
    from flexiast_cli.terminal.console import count_noun

    if not encoder.quantized_layers:
        return ""
    kept = f", {', '.join(encoder.float_layers)} in float" if encoder.float_layers else ""
    return f"; {count_noun(encoder.quantized_layers, 'layer')} in int8{kept}"
