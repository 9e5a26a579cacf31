"""Choices that a quantised encoder needs: ranges of its inputs, and layers that are better left in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.errors import VerificationError
from flexiast.extras import require
from flexiast.manifest import Precision
from flexiast.spec import PatchSize, Spec
from flexiast_export.embedding import tokens
from flexiast_export.encoder import encoder
from flexiast_export.graph import Graph
from flexiast_export.precisions import FLOAT16, FLOAT32, Arithmetic, DynamicInt8, Float32, StaticInt8, layer_of

if TYPE_CHECKING:
    import onnxruntime

Ranges = dict[str, float]

BATCH = 16
"""Windows run at once."""

TRIED = 64
"""Windows by which layers are ranked, over all patch sizes."""

WEIGHT_INPUT: dict[Precision, tuple[str, int]] = {"int8": ("MatMulInteger", 1), "int8-static": ("DequantizeLinear", 0)}
"""The operator that takes a quantised weight, and as which input."""


def arithmetic(precision: Precision, ranges: Ranges, keep_float: frozenset[str] = frozenset()) -> Arithmetic:
    """How a precision is written; only static quantisation has ranges."""
    if precision == "int8":
        return DynamicInt8(keep_float)
    if precision == "int8-static":
        return StaticInt8(ranges, keep_float)
    return FLOAT16 if precision == "fp16" else FLOAT32


def template(precision: Precision, spec: Spec) -> Arithmetic:
    """The same for a graph that is only measured: its ranges mean nothing."""
    return arithmetic(precision, dict.fromkeys(layers(spec), 1.0))


def layers(spec: Spec) -> tuple[str, ...]:
    """What can be quantised, or left in float, as one."""
    parts = ("qkv", "projection", "expand", "contract")
    return tuple(f"blocks.{index}.{part}" for index in range(spec.network.depth) for part in parts)


def count_quantized(model: Any, precision: Precision) -> int:
    """Linear layers that the graph computes in int8; raises VerificationError when a quantised one has none."""
    if precision not in WEIGHT_INPUT:
        return 0
    operator, position = WEIGHT_INPUT[precision]
    weights = {weight.name for weight in model.graph.initializer}
    count = sum(node.op_type == operator and node.input[position] in weights for node in model.graph.node)
    if count == 0:
        raise VerificationError(f"the {precision} encoder has no quantised layer; nothing was published")
    return count


class _Recording(Float32):
    """Float32 that notes which tensor each layer takes; q of the last block takes part of what k and v take."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        """Tensor → layer"""

    def product(self, graph: Graph, name: str, x: str, weight: Float) -> str:
        self.inputs[x] = layer_of(name)
        return super().product(graph, name, x, weight)


def input_ranges(checkpoint: Checkpoint, features: Float, patches: Sequence[PatchSize]) -> Ranges:
    """The largest magnitude of each layer's input, over windows [windows, window_frames, mels] at all patch sizes."""
    recording = _Recording()
    model = encoder(checkpoint, recording)
    onnx = require("onnx", "export")
    for name in recording.inputs:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session, ranges = _session(model), dict.fromkeys(recording.inputs.values(), 0.0)
    for patch in patches:
        for inputs in _tokens(checkpoint, features, patch):
            found = session.run(list(recording.inputs), {"tokens": inputs})
            for layer, value in zip(recording.inputs.values(), found, strict=True):
                ranges[layer] = max(ranges[layer], float(np.abs(value).max()))
    return ranges


def features_sha256(features: Float) -> str:
    return sha256(np.ascontiguousarray(features, "<f4").tobytes()).hexdigest()


def rank_by_sensitivity(
    checkpoint: Checkpoint, features: Float, patches: Sequence[PatchSize], write: Callable[[frozenset[str]], Any]
) -> list[str]:
    """Layers, the one that spoils the logits most when it alone is quantised first.

    Tried on windows [windows, window_frames, mels] from all over, shared out among the patch sizes. ``write`` makes the
    encoder that leaves these layers in float.
    """
    inputs = [
        batch
        for patch, chosen in zip(patches, shares(len(features), len(patches)), strict=True)
        for batch in _tokens(checkpoint, features[chosen], patch)
    ]
    everything = frozenset(layers(checkpoint.spec))

    def logits(float_layers: frozenset[str]) -> Float:
        session = _session(write(float_layers))
        return np.concatenate([session.run(["logits"], {"tokens": batch})[0] for batch in inputs])

    exact = logits(everything)
    errors = {layer: float(np.mean((logits(everything - {layer}) - exact) ** 2)) for layer in everything}
    return sorted(layers(checkpoint.spec), key=lambda layer: -errors[layer])


def shares(windows: int, sizes: int) -> list[list[int]]:
    """For each patch size equally many windows, ``TRIED`` in all if there are so many, spread over all of them."""
    each = min(windows, -(-TRIED // sizes))
    spread = [index * windows // (each * sizes) for index in range(each * sizes)]
    return [spread[size::sizes] for size in range(sizes)]


def float_counts(layers: int) -> list[int]:
    """How many layers to leave in float, one attempt after the other: 1, 2, 4 … and all but one."""
    doubled = (1 << power for power in range(layers.bit_length()))
    return [*(count for count in doubled if count < layers - 1), layers - 1]


def _tokens(checkpoint: Checkpoint, features: Float, patch: PatchSize) -> Iterator[Float]:
    for start in range(0, len(features), BATCH):
        yield tokens(checkpoint.spec, checkpoint.weights, features[start : start + BATCH], patch)


def _session(model: Any) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
