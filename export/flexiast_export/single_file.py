"""One file for one patch size: samples → scores, for whoever has ONNX Runtime and nothing of flexiast.

Front end, embedder and encoder of a bundle are joined, to the byte of their weights; temperature and softmax or sigmoid
follow. No torch is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import UsageError, VerificationError
from flexiast.extras import require
from flexiast.files import check_sibling_output, write_atomically
from flexiast.frontend import Frontend
from flexiast.manifest import Precision, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_export.frontend import write_features
from flexiast_export.graph import Description, Graph
from flexiast_export.verify import synthetic_waveforms
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import verify_bundle

if TYPE_CHECKING:
    import onnx

DOCUMENTATION = "docs/how-to/own-program.md"
"""In the source of flexiast; it says how the file is used."""

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4}
COARSE_TOLERANCE = 0.02
"""Largest difference of a score from the bundle's own engines. Coarser numbers than float32 may round a feature to
another level when it differs in its last digit."""


def write_single_files(
    bundle: Bundle, patches: Sequence[PatchSize], precisions: Sequence[Precision], folder: Path, *, force: bool = False
) -> list[Path]:
    """Write NAME-16x16.onnx and so on into the folder; NAME is the bundle's. Every file is verified before any appears.

    Raises UsageError for a size or precision that the bundle lacks and for files that exist, and VerificationError
    where a graph does not give the scores of the bundle's engines.
    """
    variants = [bundle.manifest.variant(patch, precision) for precision in precisions for patch in patches]
    paths = [folder / file_name(bundle, variant) for variant in variants]
    for path in paths:
        check_sibling_output(path)
        if path.exists() and not force:
            raise UsageError(f"{path} exists; choose another folder, or replace it with --force")
    verify_bundle(bundle)
    contents = [single_file(bundle, variant).SerializeToString() for variant in variants]
    for variant, content in zip(variants, contents, strict=True):
        check_scores(bundle, variant, content)
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
    return paths


def file_name(bundle: Bundle, variant: Variant) -> str:
    """``home-16x16.onnx``, or ``home-16x16.int8.onnx``; of a shipped model the folder above the bundle has the name."""
    folder = bundle.folder.resolve()
    name = folder.parent.name if folder.name == "bundle" else folder.name.removesuffix(".bundle")
    precision = "" if variant.precision == "fp32" else f".{variant.precision}"
    return f"{name}-{variant.patch_size}{precision}.onnx"


def single_file(bundle: Bundle, variant: Variant) -> onnx.ModelProto:
    """Samples [batch, window_samples] → scores [batch, labels] in [0, 1].

    A row with a sample that is no number has scores that are no numbers; the other rows do not notice.
    """
    onnx, manifest = require("onnx", "export"), bundle.manifest
    spec, graph = manifest.spec, Graph(manifest.opset)
    zeros = graph.node("Mul", "samples", graph.weight("zero", np.float32(0)))  # of what is no number: NaN
    sums = graph.node("ReduceSum", zeros, graph.weight("sample_axis", np.array([1], np.int64)), keepdims=1)
    bad = graph.node("IsNaN", sums)
    features = write_features(graph, spec.frontend, graph.node("Where", bad, "zero", "samples"))
    if spec.frontend.remove_bin_means:
        features = graph.node("Sub", features, graph.mean(features, axis=1, keep=True))
    x = features
    for part, name in (("embedder", variant.embedder), ("encoder", manifest.encoders[variant.precision].file)):
        x = graph.append(onnx.load_model_from_string(bundle.read(name)), part, x)
    x = graph.node("Div", x, graph.weight("temperature", np.float32(variant.temperature)))
    x = graph.node("Softmax", x, axis=-1) if spec.task == "single" else graph.node("Sigmoid", x)
    if spec.nothing_class:
        bounds = {"first_label": 0, "labels": len(spec.labels), "label_axis": 1}
        x = graph.node("Slice", x, *(graph.weight(name, np.array([value])) for name, value in bounds.items()))
    graph.node("Where", bad, graph.weight("not_a_number", np.float32(np.nan)), x, output="scores")
    return graph.model(
        f"{spec.task}-{variant.patch_size}",
        ("samples", ["batch", spec.frontend.window_samples]),
        ("scores", ["batch", len(spec.labels)]),
        describe(bundle, variant),
        _documentation(spec, variant),
    )


def describe(bundle: Bundle, variant: Variant) -> dict[str, str]:
    """The metadata of a single file: all that its user must know, as text; lists and tables as JSON."""
    manifest = bundle.manifest
    spec = manifest.spec
    settings = DetectionSettings.from_frontend(spec.frontend)
    rules = EventRules(label_thresholds={**manifest.thresholds, **(variant.thresholds or {})})
    thresholds = dict(zip(spec.labels, map(float, rules.thresholds(spec.labels)), strict=True))
    described = {
        "labels": json.dumps(spec.labels, ensure_ascii=False),
        "task": spec.task,
        "sample_rate_hz": str(spec.frontend.sample_rate_hz),
        "window_samples": str(spec.frontend.window_samples),
        "step_samples": str(round(settings.step_s * spec.frontend.sample_rate_hz)),
        "smoothing_s": f"{settings.smoothing_s:g}",
        "thresholds": json.dumps({label: round(value, 6) for label, value in thresholds.items()}, ensure_ascii=False),
        "release": f"{rules.release:g}",
        "patch_size": str(variant.patch_size),
        "precision": variant.precision,
        "temperature": f"{variant.temperature:g}",
        "source_sha256": manifest.source_sha256,
        "documentation": DOCUMENTATION,
    }
    return described | ({} if bundle.licence is None else {"licence": bundle.licence})


def carries_licence(path: Path) -> bool:
    """Whether a single file names the licence of its weights."""
    model = require("onnx", "export").load_model(path)
    return any(entry.key == "licence" for entry in model.metadata_props)


def _documentation(spec: Spec, variant: Variant) -> Description:
    frontend, precision = spec.frontend, variant.precision
    one = "softmax: one label at a time sounds" if spec.task == "single" else "sigmoid: any number of labels may sound"
    return Description(
        graph=f"Recognises sounds: one window of audio to a score for each of {len(spec.labels)} labels, at patch size "
        f"{variant.patch_size} in {precision}. The metadata hold the labels, thresholds and all times. "
        f"How to use it: {DOCUMENTATION} of flexiast.",
        source=f"Mono audio at {frontend.sample_rate_hz} Hz, full scale ±1: {frontend.window_samples} samples "
        f"({frontend.window_s:g} s) in each row. Another rate gives wrong scores: resample first.",
        result=f"Score in [0, 1] of each label, in the order of `labels` in the metadata ({one}). A row with a sample "
        "that is not finite is NaN.",
    )


def check_scores(bundle: Bundle, variant: Variant, content: bytes) -> None:
    """Raise VerificationError unless the graph gives the bundle's own scores for noise, silence and a rising tone."""
    import onnxruntime

    spec, engines = bundle.manifest.spec, load_engines(bundle, [variant.patch_size], variant.precision)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compute, allowed = Frontend(spec.frontend), TOLERANCE.get(variant.precision, COARSE_TOLERANCE)
    for waveform in synthetic_waveforms(spec):
        (found,) = session.run(None, {"samples": waveform[None]})
        expected: Float = engines.scores(compute.window(waveform)[None], variant.patch_size)
        error = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
        if not error <= allowed:  # also catches NaN
            raise VerificationError(
                f"{variant} as one file gives scores that differ from the bundle's by {error:.2g} (allowed "
                f"{allowed:g}); nothing was written"
            )
