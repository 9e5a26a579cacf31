"""A bundle or a checkpoint, described in the terminal: network, sizes, labels, accuracy, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.evaluation.evaluate import PatchResult
from flexiast.manifest import Encoder, Manifest, Variant
from flexiast.spec import PatchSize, Spec
from flexiast.text import preview
from flexiast_cli.terminal.console import count_noun, stdout
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_licence

if TYPE_CHECKING:
    from rich.console import Console


def describe_spec(spec: Spec) -> str:
    """Network, window, patch sizes and labels, in two lines."""
    network, window = spec.network, f"window {spec.frontend.window_s:g} s at {spec.frontend.sample_rate_hz:,} Hz"
    if spec.pcen:
        window += ", PCEN"
    if network.kind == "convolutional":
        stages = count_noun(network.depth, "stage")
        what = f"convnet, {network.width} wide, {stages}; {window}; a teacher, no patch sizes"
    else:
        blocks, heads = count_noun(network.depth, "block"), count_noun(network.heads, "head")
        sizes = ", ".join(map(str, spec.trained_patches))
        overlap = "" if spec.base_stride is None else f" at stride {spec.base_stride}"
        what = f"{network.width} wide, {blocks}, {heads}; {window}; trained at {sizes}{overlap}"
    if not spec.labels:
        return f"{what}\nno labels: a start for training"
    nothing = "; and a class for nothing, learnt from background" if spec.nothing_class else ""
    return f"{what}\n{count_noun(len(spec.labels), 'label')}: {preview(spec.labels)}{nothing}"


def show_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Print what a checkpoint is, where it comes from, and what its run measured."""
    spec, weights = checkpoint.spec, checkpoint.weights.values()
    console = stdout()
    console.print(f"{path}", style="bold", markup=False, soft_wrap=True)
    console.print(
        f"weights {weights_sha256(checkpoint)[:12]}, {sum(value.size for value in weights) / 1e6:.2f} M, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
    console.print(describe_spec(spec), markup=False)
    size = f"{spec.base_patch}: {spec.tokens(spec.base_patch):,} tokens, " if spec.network.kind == "transformer" else ""
    console.print(f"{size}{spec.gmac(spec.base_patch):.3f} GMAC")
    _show_measured(checkpoint, console)
    if licence := find_licence(checkpoint.info.get("licence"), path):
        console.print(f"licence of the weights: {licence}", markup=False, soft_wrap=True)
    if background := checkpoint.info.get("background"):
        console.print(f"trained with {background['train_hours']:.2f} h of background")
    if origin := checkpoint.info.get("imported"):
        console.print(
            f"imported from {origin['file']} ({origin['format']}), sha256 {origin['sha256'][:12]}", markup=False
        )


def _show_measured(checkpoint: Checkpoint, console: Console) -> None:
    """The accuracy (or mAP) at each size that the run measured; nothing where the checkpoint records none."""
    try:
        results = TypeAdapter(list[PatchResult]).validate_json(json.dumps(checkpoint.info.get("validation", [])))
    except ValidationError:  # of another version: the rest is still shown
        console.print("what its run measured cannot be read by this version")
        return
    figures = [f"{result.patch_size.short} {result.metric:.3f}" for result in results]
    if not figures:
        return
    clips = checkpoint.info.get("clips", {}).get("val")
    on = "the validation split" if clips is None else count_noun(clips, "validation clip")
    metric = "accuracy" if checkpoint.spec.task == "single" else "mAP"
    console.print(f"{metric} on {on}: {', '.join(figures)}", markup=False, soft_wrap=True)


def show_bundle(bundle: Bundle) -> None:
    """Print a bundle's engines as a table, and what is common to all of them."""
    manifest = bundle.manifest
    console = stdout()
    console.print(f"{bundle.folder}", style="bold", markup=False, soft_wrap=True)
    console.print(f"schema {manifest.schema_version}, opset {manifest.opset}, source {manifest.source_sha256[:12]}")
    console.print(describe_spec(manifest.spec), markup=False)
    if bundle.licence:
        console.print(f"licence of the weights: {bundle.licence}", markup=False, soft_wrap=True)
    console.print()
    console.print(_engine_table(manifest))
    console.print()
    for precision, encoder in manifest.encoders.items():
        size = manifest.entry(encoder.file).size / 1e6
        console.print(f"One {precision} encoder of {size:.1f} MB serves all sizes{_describe_quantization(encoder)}.")
    total = sum(entry.size for entry in manifest.files)
    console.print(f"{total / 1e6:.1f} MB in {count_noun(len(manifest.files), 'file')}.")
    comparisons = _comparisons(manifest)
    for text, patches in comparisons.items():
        which = f" ({', '.join(map(str, patches))})" if len(comparisons) > 1 else ""
        console.print(f"Compared with {text}{which}.")
    temperatures = [variant.temperature for variant in manifest.variants]
    by_size = {label for variant in manifest.variants for label in variant.thresholds or ()}
    if by_size or manifest.thresholds or set(temperatures) != {1.0}:
        console.print(
            f"Calibrated: temperatures {min(temperatures):.3f} to {max(temperatures):.3f}, "
            f"thresholds of {count_noun(len(by_size | set(manifest.thresholds)), 'label')}"
            f"{' at each size' if by_size else ''}."
        )
    if (calibration := bundle.read_calibration()) is not None:
        budgets = ", ".join(_rate(point.false_alarms_per_hour) for point in calibration.points)
        recall = calibration.recall_by_snr_db(manifest.best_patch)
        found = ", ".join(f"{share:.2f} at {snr_db:g} dB" for snr_db, share in recall.items())
        console.print(
            f"Thresholds for {budgets} false alarms an hour, measured on {calibration.hours:.1f} h; those in use are "
            f"for {_rate(calibration.false_alarms_per_hour)}{f', with a recall of {found}' if found else ''}."
        )
    if _has_loss(manifest):
        console.print(f"Loss: points of {_metric_name(manifest)} under the model's, on clips with labels.")


def _rate(per_hour: float) -> str:
    return f"{per_hour:.2g}" if per_hour < 100 else f"{per_hour:.0f}"


def _engine_table(manifest: Manifest) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ["patch", "precision", "tokens", "GMAC", "embedder", "max |Δ logit|", _metric_name(manifest)]
    if _has_loss(manifest):
        columns.append("loss")
    for name in columns:
        table.add_column(name, justify="left" if name in {"patch", "precision"} else "right")
    for variant in manifest.variants:
        metric = _metric(variant)
        cells = [
            str(variant.patch_size),
            variant.precision,
            f"{variant.tokens:,}",
            f"{variant.gmac:.3f}",
            f"{manifest.entry(variant.embedder).size / 1e6:.2f} MB",
            f"{variant.parity.max_abs_error:.1e}",
            "–" if metric is None else f"{metric:.3f}",
        ]
        if _has_loss(manifest):
            cells.append("–" if variant.labelled is None else f"{variant.labelled.drop:.2f}")
        table.add_row(*cells)
    return table


def _metric_name(manifest: Manifest) -> str:
    return "accuracy" if manifest.spec.task == "single" else "mAP"


def _has_loss(manifest: Manifest) -> bool:
    """Whether some engine was measured on clips with labels."""
    return any(variant.labelled is not None for variant in manifest.variants)


def _metric(variant: Variant) -> float | None:
    """The engine's own metric. What training measured holds for an fp32 engine too, but for no lower precision."""
    if variant.labelled is not None:
        return variant.labelled.metric
    return variant.metric if variant.precision == "fp32" else None


def _comparisons(manifest: Manifest) -> dict[str, list[PatchSize]]:
    """What engines were compared with, on how many windows → patch sizes: those added later may differ."""
    found: dict[str, list[PatchSize]] = {}
    for patch in manifest.patches:
        parity = manifest.variant(patch).parity
        source = "the model" if parity.against is None else f"numpy under the bundle's own {parity.against} encoder"
        real = f"{parity.real_inputs:,} of them real sound"
        found.setdefault(f"{source} on {count_noun(parity.inputs, 'window')}, {real}", []).append(patch)
    return found


def _describe_quantization(encoder: Encoder) -> str:
    if not encoder.quantized_layers:
        return ""
    in_float = f", {', '.join(encoder.float_layers)} in float" if encoder.float_layers else ""
    return f"; {count_noun(encoder.quantized_layers, 'layer')} in int8{in_float}"
