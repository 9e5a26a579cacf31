"""A bundle → the checkpoint that it was made from, as far as its answers go; what was folded away stays folded.

The float32 encoder holds every weight: q with its scale, and v's bias within that of the projection. k's bias changes
no answer and is zero afterwards. So the restored model answers as the engines do, to the rounding of float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.errors import ModelError, VerificationError
from flexiast.extras import require
from flexiast.spec import Spec
from flexiast_export.embedding import unpack
from flexiast_export.encoder import read_extra_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flexiast_runtime.bundle import Bundle


def restore_checkpoint(bundle: Bundle) -> Checkpoint:
    """Raises ModelError for a bundle without float32 weights, VerificationError for one that is not what was exported.

    Its validation figures and its licence are those of the bundle.
    """
    manifest = bundle.manifest
    if "fp32" not in manifest.encoders:
        raise ModelError(
            f"{bundle.folder} holds {', '.join(manifest.precisions)} only, from which nothing can be learnt; give its "
            "checkpoint, or export a bundle with --precision fp32"
        )
    onnx = require("onnx", "export")
    graph = onnx.load_model_from_string(bundle.read(manifest.encoders["fp32"].file)).graph
    found = {one.name: np.array(onnx.numpy_helper.to_array(one)) for one in graph.initializer}  # its own are read-only
    try:
        spec = manifest.spec.model_copy(update={"extra_rows": read_extra_rows(found, manifest.spec)})
    except KeyError as error:
        raise _lacks(bundle, error) from None
    weights = unpack(bundle)
    expected = weight_shapes(spec)
    for name in expected.keys() - weights.keys():
        weights[name] = np.ascontiguousarray(_read_weight(spec, found, name, bundle), np.float32)
    if any(weights[name].shape != shape for name, shape in expected.items()):
        raise VerificationError(f"{bundle.folder} does not hold the weights that its spec describes; export it again")
    measure = "accuracy" if spec.task == "single" else "mean_average_precision"
    specificity = manifest.specificity or {}
    validation = [
        {"patch_size": patch, measure: metric} | ({"specificity": specificity[patch]} if patch in specificity else {})
        for patch, metric in manifest.measured.items()
    ]
    licence = {} if bundle.licence is None else {"licence": bundle.licence}
    return Checkpoint(spec, weights, ({"validation": validation} if validation else {}) | licence)


def _read_weight(spec: Spec, found: Mapping[str, Float], name: str, bundle: Bundle) -> Float:
    """A weight of the checkpoint from the encoder's initializers, in which linear layers are [in, out]."""
    layer, _, part = name.rpartition(".")
    try:
        if layer.endswith(".qkv"):
            block, width = layer.removesuffix(".qkv"), spec.network.width
            scale = np.float32((width // spec.network.heads) ** -0.5)
            if part == "weight":
                q, k, v = (found[f"{block}.{each}.weight"].T for each in "qkv")
                return np.concatenate((q / scale, k, v))
            return np.concatenate((found[f"{block}.q.bias"] / scale, np.zeros(2 * width, np.float32)))
        value = found[name]
    except KeyError as error:
        raise _lacks(bundle, error) from None
    return value.T if value.ndim == 2 else value


def _lacks(bundle: Bundle, weight: KeyError) -> VerificationError:
    return VerificationError(f"{bundle.folder} lacks the weight {weight}; export it again")
