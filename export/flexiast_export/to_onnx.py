"""Checkpoint → bundle of ONNX engines, verified and published whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import flexiast
from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import ModelError, UsageError
from flexiast.evaluate import Classifier, classify
from flexiast.extras import require
from flexiast.manifest import MANIFEST, FileEntry, Manifest, Parity, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_export.bundle import add_file, staged
from flexiast_export.embedding import EMBEDDING, Weights, npz, pack
from flexiast_export.graph import embedder, encoder
from flexiast_export.verify import TOLERANCE, parity, real_inputs, synthetic_inputs
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.engine import Engines
from flexiast_runtime.ort import load_engines
from flexiast_runtime.selfcheck import golden_key

Float = NDArray[np.float32]

ENCODER, GOLDEN = "encoder.onnx", "golden.npz"


def export_onnx(
    checkpoint: Checkpoint,
    source: Classifier,
    patches: Sequence[PatchSize],
    output: Path,
    *,
    verify_waveforms: Sequence[Float] = (),
    force: bool = False,
    progress: Callable[[Iterable[Variant]], Iterable[Variant]] = iter,
) -> Manifest:
    """Write a bundle with engines for these patch sizes and verify each against ``source``.

    ``source`` is the PyTorch model of the checkpoint. Raises UsageError for a size larger than a window or an existing
    output, and VerificationError when an engine is not the model; then nothing is published.
    """
    if checkpoint.spec.network.kind == "convolutional":
        raise ModelError(
            "a convnet is a teacher and has no patch sizes to export; train a transformer from it with --teacher"
        )
    if not patches:
        raise UsageError("no patch sizes were given; name at least one, such as 16")
    with staged(output, force=force) as stage:
        manifest = _draft(checkpoint, tuple(dict.fromkeys(patches)), stage)
        engines, golden = load_engines(Bundle(stage, manifest)), {"features": synthetic_inputs(checkpoint.spec)}
        return finish(stage, manifest, engines, source, golden, verify_waveforms, progress)


def finish(
    stage: Path,
    draft: Manifest,
    engines: Engines,
    source: Classifier,
    golden: dict[str, Float],
    waveforms: Sequence[Float],
    progress: Callable[[Iterable[Variant]], Iterable[Variant]],
) -> Manifest:
    """Compare each of the engines with the source, add its golden answers, and write golden file and manifest.

    ``golden`` holds the features and the answers that are known. Raises VerificationError where an engine is wrong.
    """
    real = real_inputs(draft.spec, waveforms)
    inputs = np.concatenate((golden["features"], real))
    variants = {variant.patch_size: variant for variant in draft.variants}
    for variant in progress([variants[patch] for patch in engines.patches]):
        patch = variant.patch_size
        reference = classify(source, inputs, patch)
        measured = parity(patch, reference, classify(engines, inputs, patch), len(real))
        variants[patch] = variant.model_copy(update={"parity": measured})
        golden[golden_key(patch)] = reference[: len(golden["features"])]
    files = [entry for entry in draft.files if entry.name != draft.golden]
    files.append(add_file(stage, draft.golden, npz(golden)))
    manifest = draft.model_copy(update={"variants": tuple(variants.values()), "files": tuple(files)})
    add_file(stage, MANIFEST, manifest.model_dump_json(indent=1, exclude_none=True).encode())
    return manifest


def _draft(checkpoint: Checkpoint, patches: Sequence[PatchSize], stage: Path) -> Manifest:
    """Write the graphs; the manifest returned names them but is not yet measured and not yet written."""
    spec, weights = checkpoint.spec, checkpoint.weights
    validation = checkpoint.info.get("validation", [])
    measured = {
        result["patch_size"]: result.get("accuracy", result.get("mean_average_precision")) for result in validation
    }
    files = [
        add_file(stage, ENCODER, encoder(checkpoint).SerializeToString()),
        add_file(stage, EMBEDDING, pack(spec, weights)),
        add_file(stage, GOLDEN, b""),
    ]
    variants = []
    for patch in patches:
        variant, entry = add_variant(stage, spec, weights, patch, measured.get(str(patch)))
        variants.append(variant)
        files.append(entry)
    return Manifest(
        spec=spec,
        encoder=ENCODER,
        golden=GOLDEN,
        embedding=EMBEDDING,
        measured=measured,
        variants=tuple(variants),
        files=tuple(files),
        source_sha256=weights_sha256(checkpoint),
        versions={name: str(require(name, "export").__version__) for name in ("numpy", "onnx", "onnxruntime")}
        | {"flexiast": flexiast.__version__},
    )


def add_variant(
    stage: Path, spec: Spec, weights: Weights, patch: PatchSize, metric: float | None = None
) -> tuple[Variant, FileEntry]:
    """Write the embedder of one patch size; its parity is not yet measured."""
    name = f"embed-{patch}.onnx"
    variant = Variant(
        patch_size=patch,
        embedder=name,
        tokens=spec.tokens(patch),
        gmac=spec.gmac(patch),
        parity=Parity(inputs=1, real_inputs=0, max_abs_error=0.0, tolerance=TOLERANCE, top1_agreement=1.0),
        metric=metric,
    )
    return variant, add_file(stage, name, embedder(spec, weights, patch).SerializeToString())
