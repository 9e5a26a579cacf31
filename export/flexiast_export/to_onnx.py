"""Checkpoint → bundle of ONNX engines, verified and published whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import flexiast
from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import ModelError, UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.extras import require
from flexiast.manifest import MANIFEST, OPSET, Encoder, FileEntry, Manifest, Parity, Precision, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_export.bundle import add_file, check_place, stage_bundle
from flexiast_export.embedding import EMBEDDING, Weights, npz, pack
from flexiast_export.encoder import encoder
from flexiast_export.graph import check_opset, embedder
from flexiast_export.quantize import (
    Ranges,
    arithmetic,
    count_quantized,
    features_sha256,
    float_counts,
    input_ranges,
    rank_by_sensitivity,
)
from flexiast_export.verify import MAX_DROP, TOLERANCE, Comparison, VerificationData
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines

Progress = Callable[[Iterable[Variant]], Iterable[Variant]]

GOLDEN = "golden.npz"


def encoder_file(precision: Precision) -> str:
    return "encoder.onnx" if precision == "fp32" else f"encoder.{precision}.onnx"


def export_onnx(
    checkpoint: Checkpoint,
    source: Classifier,
    patches: Sequence[PatchSize],
    output: Path,
    *,
    precisions: Sequence[Precision] = ("fp32",),
    opset: int = OPSET,
    sounds: VerificationData | None = None,
    calibration: Float | None = None,
    max_drop: float = MAX_DROP,
    force: bool = False,
    progress: Progress = iter,
) -> Manifest:
    """Write a bundle with engines for these patch sizes and precisions, and verify each against ``source``.

    ``source`` is the PyTorch model of the checkpoint; ``sounds`` what they are compared on, besides noise, silence and
    a sweep; ``calibration`` the windows [windows, window_frames, mels] by which int8-static chooses its ranges. Layers
    of an int8 encoder that cost too much are left in float. Raises UsageError for a size larger than a window or an
    existing output, and VerificationError when an engine is not the model; then nothing is published.
    """
    calibrated = calibration is not None and len(calibration) > 0
    check_export(checkpoint, patches, output, precisions=precisions, opset=opset, calibrated=calibrated, force=force)
    patches = tuple(dict.fromkeys(patches))
    comparison = Comparison(source, sounds or VerificationData(checkpoint.spec), max_drop)
    with stage_bundle(output, force=force) as stage:
        writer = _Encoders(checkpoint, opset, calibration, patches)
        draft = _draft(checkpoint, patches, tuple(dict.fromkeys(precisions)), writer, stage)
        measured = _measure_variants(stage, draft, draft.variants, comparison, progress)
        for precision in draft.precisions:
            try:
                comparison.check(variant for variant in measured if variant.precision == precision)
            except VerificationError as error:
                if precision not in {"int8", "int8-static"}:
                    raise
                draft, better = _with_float_layers(stage, draft, precision, writer, comparison, error)
                measured = [*(variant for variant in measured if variant.precision != precision), *better]
        return finish(stage, draft, measured, comparison.golden(patches))


def check_export(
    checkpoint: Checkpoint,
    patches: Sequence[PatchSize],
    output: Path,
    *,
    precisions: Sequence[Precision],
    opset: int,
    calibrated: bool,
    force: bool,
) -> None:
    """Raise ModelError or UsageError for all that ``export_onnx`` can refuse before its first work."""
    if checkpoint.spec.network.kind == "convolutional":
        raise ModelError(
            "a convnet is a teacher and has no patch sizes to export; train a transformer from it with --teacher"
        )
    if not patches or not precisions:
        raise UsageError("no patch sizes or precisions were given; name at least one of each, such as 16 and fp32")
    for patch in patches:
        checkpoint.spec.check_patch(patch)
    if "int8-static" in precisions and not calibrated:
        raise UsageError("int8-static chooses its ranges by sound; name some with --calibration-data")
    check_opset(opset)
    check_place(output, force=force)


class _Encoders:
    """Writes the encoder of any precision."""

    def __init__(
        self, checkpoint: Checkpoint, opset: int, calibration: Float | None, patches: Sequence[PatchSize]
    ) -> None:
        self.checkpoint, self.opset = checkpoint, opset
        self._calibration, self._patches = calibration, patches
        self._ranges: Ranges = {}

    def graph(self, precision: Precision, keep_float: frozenset[str] = frozenset()) -> Any:
        if precision == "int8-static" and not self._ranges and self._calibration is not None:
            self._ranges = input_ranges(self.checkpoint, self._calibration, self._patches)
        return encoder(self.checkpoint, arithmetic(precision, self._ranges, keep_float), self.opset, versions())

    def add(
        self, stage: Path, precision: Precision, keep_float: frozenset[str] = frozenset()
    ) -> tuple[Encoder, FileEntry]:
        """Write the file into the stage and describe it."""
        graph = self.graph(precision, keep_float)
        calibration = self._calibration if precision == "int8-static" else None
        entry = add_file(stage, encoder_file(precision), graph.SerializeToString())
        described = Encoder(
            file=entry.name,
            quantized_layers=count_quantized(graph, precision),
            float_layers=tuple(sorted(keep_float)),
            calibration_windows=0 if calibration is None else len(calibration),
            calibration_sha256=None if calibration is None else features_sha256(calibration),
        )
        return described, entry


def versions() -> dict[str, str]:
    """Of what decides the bytes of an engine or its measured figures."""
    tools = {name: str(require(name, "export").__version__) for name in ("numpy", "onnx", "onnxruntime")}
    return tools | {"flexiast": flexiast.__version__}


def finish(stage: Path, draft: Manifest, variants: Sequence[Variant], golden: dict[str, Float]) -> Manifest:
    """Write golden file and manifest; the manifest comes last."""
    draft = with_file(draft, add_file(stage, draft.golden, npz(golden)))
    # As given, and validated: what a reader would refuse is not published.
    manifest = Manifest.model_validate_json(draft.model_copy(update={"variants": tuple(variants)}).model_dump_json())
    add_file(stage, MANIFEST, manifest.model_dump_json(indent=1, exclude_none=True).encode())
    return manifest


def with_file(manifest: Manifest, entry: FileEntry) -> Manifest:
    """The manifest with this file, in place of one of that name."""
    files = [entry if other.name == entry.name else other for other in manifest.files]
    return manifest.model_copy(update={"files": tuple(files)})


def _measure_variants(
    stage: Path, draft: Manifest, variants: Sequence[Variant], comparison: Comparison, progress: Progress = iter
) -> list[Variant]:
    bundle, patches = Bundle(stage, draft), tuple(dict.fromkeys(variant.patch_size for variant in variants))
    engines = {
        precision: load_engines(bundle, patches, precision)
        for precision in dict.fromkeys(variant.precision for variant in variants)
    }
    return [comparison.verify_variant(engines[variant.precision], variant) for variant in progress(variants)]


def verify_variants(
    stage: Path, draft: Manifest, variants: Sequence[Variant], comparison: Comparison, progress: Progress = iter
) -> list[Variant]:
    """The variants with their figures; raises VerificationError for one that is too far from the source."""
    measured = _measure_variants(stage, draft, variants, comparison, progress)
    comparison.check(measured)
    return measured


def _with_float_layers(
    stage: Path,
    draft: Manifest,
    precision: Precision,
    writer: _Encoders,
    comparison: Comparison,
    error: VerificationError,
) -> tuple[Manifest, list[Variant]]:
    """Leave 1, 2, 4 … of the most sensitive layers in float until the engines pass.

    Raises the last VerificationError when a single quantised layer spoils them still.
    """
    ranked = rank_by_sensitivity(
        writer.checkpoint, comparison.sounds.features, draft.patches, lambda kept: writer.graph(precision, kept)
    )
    variants = [variant for variant in draft.variants if variant.precision == precision]
    for count in float_counts(len(ranked)):
        described, entry = writer.add(stage, precision, frozenset(ranked[:count]))
        draft = with_file(draft.model_copy(update={"encoders": draft.encoders | {precision: described}}), entry)
        try:
            return draft, verify_variants(stage, draft, variants, comparison)
        except VerificationError as worse:
            error = worse
    raise error


def _draft(
    checkpoint: Checkpoint,
    patches: Sequence[PatchSize],
    precisions: Sequence[Precision],
    writer: _Encoders,
    stage: Path,
) -> Manifest:
    """Write the graphs; the manifest returned names them but is not yet measured and not yet written."""
    spec, weights = checkpoint.spec, checkpoint.weights
    validation = checkpoint.info.get("validation", [])
    measured = {
        result["patch_size"]: result.get("accuracy", result.get("mean_average_precision")) for result in validation
    }
    encoders = {precision: writer.add(stage, precision) for precision in precisions}
    embedders = {patch: add_embedder(stage, spec, weights, patch, writer.opset) for patch in patches}
    return Manifest(
        spec=spec,
        opset=writer.opset,
        encoders={precision: described for precision, (described, _) in encoders.items()},
        golden=GOLDEN,
        embedding=EMBEDDING,
        measured=measured,
        variants=tuple(
            draft_variant(spec, patch, precision, entry.name, measured.get(str(patch)))
            for precision in precisions
            for patch, entry in embedders.items()
        ),
        files=(
            *(entry for _, entry in encoders.values()),
            add_file(stage, EMBEDDING, pack(spec, weights)),
            add_file(stage, GOLDEN, b""),
            *embedders.values(),
        ),
        source_sha256=weights_sha256(checkpoint),
        versions=versions(),
    )


def add_embedder(stage: Path, spec: Spec, weights: Weights, patch: PatchSize, opset: int) -> FileEntry:
    return add_file(stage, f"embed-{patch}.onnx", embedder(spec, weights, patch, opset).SerializeToString())


def draft_variant(
    spec: Spec, patch: PatchSize, precision: Precision, embedder_file: str, metric: float | None
) -> Variant:
    """A variant whose parity is not yet measured."""
    return Variant(
        patch_size=patch,
        precision=precision,
        embedder=embedder_file,
        tokens=spec.tokens(patch),
        gmac=spec.gmac(patch),
        parity=Parity(inputs=1, real_inputs=0, max_abs_error=0.0, tolerance=TOLERANCE, top1_agreement=1.0),
        metric=metric,
    )
