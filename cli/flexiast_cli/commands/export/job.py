"""An export that was checked and can begin: from a checkpoint, or of more sizes for a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flexiast.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from flexiast.errors import UsageError
from flexiast.extras import require
from flexiast.manifest import Manifest, Precision
from flexiast.spec import PatchSize, Spec
from flexiast_export.add import add_sizes, check_addition, highest_precision
from flexiast_export.embedding import Weights
from flexiast_export.encoder import encoder
from flexiast_export.quantize import template
from flexiast_export.to_onnx import check_export, export_onnx, versions
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_checkpoint, find_licence


@dataclass(frozen=True)
class Job:
    """What to export; a dry run goes no further than this."""

    spec: Spec
    weights: Weights
    source_sha256: str
    precisions: Sequence[Precision]
    patches: Sequence[PatchSize]
    opset: int
    reference: Precision
    """Precision whose answers the engines are compared with: fp32, unless a bundle has none."""
    encoders: Callable[[], dict[Precision, Any]]
    """Builds the encoder graphs that would be written with the embedders."""
    publish: Callable[..., Manifest]


def job_from_checkpoint(
    model: str,
    patches: Sequence[PatchSize] | None,
    output: Path,
    precisions: Sequence[Precision],
    opset: int,
    *,
    calibrated: bool,
    force: bool,
) -> Job:
    """A new bundle of a checkpoint, which needs torch; raises UsageError and ModelError for what cannot be exported."""
    require("torch", "train")
    path = find_checkpoint(model)
    checkpoint = load_checkpoint(path)
    licence = find_licence(checkpoint.info.get("licence"), path)
    checkpoint = replace(checkpoint, info=checkpoint.info | {"licence": licence})
    patches = checkpoint.spec.trained_patches if patches is None else patches
    check_export(checkpoint, patches, output, precisions=precisions, opset=opset, calibrated=calibrated, force=force)
    if output.resolve() in path.resolve().parents:
        raise UsageError(f"{output} holds the checkpoint itself; choose another name")
    spec = checkpoint.spec
    publish = partial(_export, checkpoint, patches, output, precisions=precisions, opset=opset)

    def encoders() -> dict[Precision, Any]:
        return {name: encoder(checkpoint, template(name, spec), opset, versions()) for name in precisions}

    source_sha256 = weights_sha256(checkpoint)
    return Job(spec, checkpoint.weights, source_sha256, precisions, patches, opset, "fp32", encoders, publish)


def _export(checkpoint: Checkpoint, patches: Sequence[PatchSize], output: Path, **options: Any) -> Manifest:
    from flexiast.networks import TorchClassifier, load_model

    return export_onnx(checkpoint, TorchClassifier(load_model(checkpoint)), patches, output, **options)


def job_from_bundle(model: str, patches: Sequence[PatchSize], output: Path, *, force: bool) -> Job:
    """More sizes for a bundle; raises UsageError for those that it cannot have."""
    bundle = Bundle.open(Path(model))
    manifest = bundle.manifest
    added, weights = check_addition(bundle, patches, output, force=force)
    return Job(
        spec=manifest.spec,
        weights=weights,
        source_sha256=manifest.source_sha256,
        precisions=manifest.precisions,
        patches=added,
        opset=manifest.opset,
        reference=highest_precision(manifest),
        encoders=dict,
        publish=partial(add_sizes, bundle, added, output),
    )
