"""Checkpoint → bundle of ONNX engines, verified and published whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flexiast
from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import ModelError, UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.extras import require
from flexiast.manifest import OPSET, Encoder, Manifest, Precision
from flexiast.spec import PatchSize
from flexiast_export.embedding import EMBEDDING, pack
from flexiast_export.encoder import encoder
from flexiast_export.graph import check_opset
from flexiast_export.publish import check_place, stage_bundle
from flexiast_export.quantize import (
    Ranges,
    arithmetic,
    count_quantized,
    features_sha256,
    float_counts,
    input_ranges,
    rank_by_sensitivity,
)
from flexiast_export.verify import MAX_DROP, Comparison, VerificationData
from flexiast_export.writer import BundleWriter, Progress

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
    with stage_bundle(output, force=force) as folder:
        writer = BundleWriter(folder, _draft_manifest(checkpoint, opset))
        encoders = _Encoders(checkpoint, opset, calibration, patches)
        for precision in dict.fromkeys(precisions):
            encoders.write(writer, precision)
        writer.add_file(EMBEDDING, pack(checkpoint.spec, checkpoint.weights))
        writer.measure(writer.add_patches(checkpoint.weights, patches), comparison, progress)
        for precision in writer.manifest.precisions:
            try:
                comparison.check(writer.variants(precision))
            except VerificationError as error:
                if precision not in {"int8", "int8-static"}:
                    raise
                _leave_layers_in_float(writer, encoders, precision, comparison, error)
        writer.add_golden(comparison.golden(patches))
        writer.add_frontend()
        return writer.finish()


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

    def write(self, writer: BundleWriter, precision: Precision, keep_float: frozenset[str] = frozenset()) -> None:
        """Add the encoder to a bundle, with these layers left in float."""
        graph = self.graph(precision, keep_float)
        calibration = self._calibration if precision == "int8-static" else None
        encoder = Encoder(
            file=encoder_file(precision),
            quantized_layers=count_quantized(graph, precision),
            float_layers=tuple(sorted(keep_float)),
            calibration_windows=0 if calibration is None else len(calibration),
            calibration_sha256=None if calibration is None else features_sha256(calibration),
        )
        writer.add_encoder(precision, encoder, graph)


def versions() -> dict[str, str]:
    """Of what decides the bytes of an engine or its measured figures."""
    tools = {name: str(require(name, "export").__version__) for name in ("numpy", "onnx", "onnxruntime")}
    return tools | {"flexiast": flexiast.__version__}


def _leave_layers_in_float(
    writer: BundleWriter, encoders: _Encoders, precision: Precision, comparison: Comparison, error: VerificationError
) -> None:
    """Leave 1, 2, 4 … of the most sensitive layers in float until the engines pass.

    Raises the last VerificationError if they still fail with a single quantised layer.
    """
    ranked = rank_by_sensitivity(
        encoders.checkpoint,
        comparison.sounds.features,
        writer.manifest.patches,
        lambda float_layers: encoders.graph(precision, float_layers),
    )
    for count in float_counts(len(ranked)):
        encoders.write(writer, precision, frozenset(ranked[:count]))
        measured = writer.measure(writer.variants(precision), comparison)
        try:
            return comparison.check(measured)
        except VerificationError as worse:
            error = worse
    raise error


def _draft_manifest(checkpoint: Checkpoint, opset: int) -> Manifest:
    """What is known before any file is written; not yet valid, since it lists no engines."""
    validation = checkpoint.info.get("validation", [])
    measured = {
        result["patch_size"]: result.get("accuracy", result.get("mean_average_precision")) for result in validation
    }
    return Manifest.model_construct(
        spec=checkpoint.spec.drop_extra_rows(),
        opset=opset,
        encoders={},
        golden=GOLDEN,
        embedding=EMBEDDING,
        measured=measured,
        specificity={each["patch_size"]: each["specificity"] for each in validation if "specificity" in each} or None,
        variants=(),
        files=(),
        source_sha256=weights_sha256(checkpoint),
        licence=checkpoint.info.get("licence"),
        versions=versions(),
    )
