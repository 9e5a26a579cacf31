"""The encoder's graph: tokens → logits, one for all patch sizes.

It is written in each of the precisions; embedders are float32 in all of them, since they are a few percent of
the work and the first thing that every error goes through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.head import tabulate_rows
from flexiast.manifest import OPSET
from flexiast.spec import Spec
from flexiast_export.graph import Graph
from flexiast_export.precisions import FLOAT32, Arithmetic

if TYPE_CHECKING:
    import onnx


HEAD_WEIGHT, HEAD_TABLE = "head.weight", "head.rows"
"""Initializers: rows [width, rows], and those of each class [classes, most]."""

GELU = 20
"""The opset that has it as one operator."""
ATTENTION = 23
"""The same of attention."""


def encoder(
    checkpoint: Checkpoint,
    arithmetic: Arithmetic = FLOAT32,
    opset: int = OPSET,
    versions: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Tokens [batch, tokens, width], prefix first → logits [batch, classes]."""
    spec = checkpoint.spec
    graph = Graph(opset)
    x = _Blocks(graph, checkpoint, arithmetic).prefix("tokens")
    x = graph.layer_norm("norm", x, checkpoint)
    x = graph.mean(x, axis=1)
    if spec.network.head_norm:
        x = graph.layer_norm("head_norm", x, checkpoint)
    _classify(graph, checkpoint, x)
    return graph.model(
        "encoder",
        ("tokens", ["batch", "tokens", spec.network.width]),
        ("logits", ["batch", spec.classes]),
        {
            "flexiast.spec": spec.drop_extra_rows().model_dump_json(),
            "flexiast.precision": arithmetic.precision,
            "flexiast.versions": json.dumps(dict(versions or {}), sort_keys=True),
        },
    )


def _classify(graph: Graph, checkpoint: Checkpoint, x: str) -> None:
    """Embedding [batch, width] → logits [batch, classes], float32 in every precision."""
    spec, weights = checkpoint.spec, checkpoint.weights
    product = graph.node("MatMul", x, graph.weight(HEAD_WEIGHT, weights["head.weight"].T))
    bias = graph.weight("head.bias", weights["head.bias"])
    if not spec.extra_rows:
        graph.node("Add", product, bias, output="logits")
        return
    table, missing = tabulate_rows(spec)
    rows = graph.node("Gather", graph.node("Add", product, bias), graph.weight(HEAD_TABLE, table), axis=1)
    joined = graph.log_sum_exp(graph.node("Add", rows, graph.weight("head.missing", missing)), axis=2)
    graph.node("Reshape", joined, graph.weight("head.classes", np.array([-1, spec.classes], np.int64)), output="logits")


def read_extra_rows(weights: Mapping[str, NDArray[Any]], spec: Spec) -> tuple[int, ...]:
    """Extra rows of the head of an encoder with these initializers, whose own spec names none."""
    count = weights[HEAD_WEIGHT].shape[1] - spec.classes
    if not count:
        return ()
    table = weights[HEAD_TABLE]
    return tuple(int(np.argwhere(table == spec.classes + row)[0, 0]) for row in range(count))


class _Blocks:
    """Tokens [batch, tokens, width] → the prefix after all pre-norm blocks [batch, prefix, width].

    The tokens of all clips are the rows of one matrix, for then ONNX Runtime makes one operator (Gemm) of a product and
    its bias; only attention tells clips apart. What is handed from block to block is float32, and so are norms and
    softmax; between them stands the arithmetic's own number format.
    """

    def __init__(self, graph: Graph, checkpoint: Checkpoint, arithmetic: Arithmetic) -> None:
        self._graph, self._checkpoint, self._arithmetic = graph, checkpoint, arithmetic
        network = checkpoint.spec.network
        self._width, self._prefix = network.width, network.prefix_tokens
        self._head_width = network.width // network.heads
        # Not in float16: runtimes differ in where the operator rounds; written out, its softmax is float32.
        self._fused = graph.opset >= ATTENTION and arithmetic.dtype is np.float32
        # The operator divides tokens into heads itself.
        self._token = [network.width] if self._fused else [network.heads, self._head_width]
        self._rows = self._shape("rows", -1, network.width)
        self._asking = self._shape("asking", -1, self._prefix, *self._token)
        clips = graph.node("Shape", "tokens", end=2)
        self._all = graph.node("Concat", clips, self._shape("token", *self._token), axis=0)

    def prefix(self, x: str) -> str:
        depth = self._checkpoint.spec.network.depth
        x = self._graph.node("Reshape", x, self._rows)
        for index in range(depth):
            x = self._block(f"blocks.{index}", x, last=index == depth - 1)
        return self._graph.node("Reshape", x, self._shape("prefix", -1, self._prefix, self._width))

    def _block(self, block: str, x: str, *, last: bool) -> str:
        """Rows → rows. In the last one only the prefix asks and goes on, since nothing else reaches the head."""
        normed = self._normalize(f"{block}.norm1", x)
        asking = normed
        if last:
            asking, x = self._first_tokens(f"{block}.asking", normed), self._first_tokens(f"{block}.residual", x)
        x = self._sum(x, self._attention(block, normed, asking, self._prefix if last else "tokens"))
        hidden = self._gelu(block, self._linear(f"{block}.expand", self._normalize(f"{block}.norm2", x)))
        return self._sum(x, self._linear(f"{block}.contract", hidden))

    def _attention(self, block: str, normed: str, asking: str, askers: int | str) -> str:
        """Softmax(q kᵀ) v of all heads, projected; the scale 1 / √(head width) is part of q's weights.

        k's bias adds the same to every score of a query, which softmax does not see. The weights of a softmax sum to 1,
        so that v's bias arrives unchanged, and its projection is part of the projection's bias.
        """
        weights = self._checkpoint.weights
        (q, k, v), (q_bias, _, v_bias) = (np.split(weights[f"{block}.qkv.{kind}"], 3) for kind in ("weight", "bias"))
        projection, bias = (weights[f"{block}.projection.{kind}"] for kind in ("weight", "bias"))
        scale = np.float32(self._head_width**-0.5)
        mixed = self._attend(
            self._clips(self._product(f"{block}.q", asking, q * scale, q_bias * scale), askers),
            self._clips(self._product(f"{block}.k", normed, k, None), "tokens"),
            self._clips(self._product(f"{block}.v", normed, v, None), "tokens"),
        )
        mixed = self._graph.node("Reshape", mixed, self._rows)
        return self._product(f"{block}.projection", mixed, projection, bias + projection @ v_bias)

    def _attend(self, q: str, k: str, v: str) -> str:
        graph, arithmetic, heads = self._graph, self._arithmetic, self._checkpoint.spec.network.heads
        if self._fused:
            return graph.node("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads, scale=1.0)
        q, k, v = (graph.node("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, k, v))
        scores = graph.node("MatMul", q, graph.node("Transpose", k, perm=[0, 1, 3, 2]))
        attention = graph.node("Softmax", arithmetic.leave(graph, scores), axis=-1)
        mixed = graph.node("MatMul", arithmetic.enter(graph, attention), v)
        return graph.node("Transpose", mixed, perm=[0, 2, 1, 3])

    def _clips(self, x: str, count: int | str) -> str:
        """Rows → [batch, tokens, heads, head width], or undivided where attention is one operator."""
        clips = self._graph.node("Reshape", x, self._all if count == "tokens" else self._asking)
        return self._graph.name_axes(clips, self._arithmetic.dtype, ["batch", count, *self._token])

    def _first_tokens(self, name: str, x: str) -> str:
        bounds = [
            self._shape(f"{name}.{part}", value) for part, value in (("from", 0), ("to", self._prefix), ("axis", 1))
        ]
        first = self._graph.node("Slice", self._graph.node("Reshape", x, self._all), *bounds)
        return self._graph.node("Reshape", first, self._rows)

    def _gelu(self, block: str, x: str) -> str:
        """X · ½ (1 + erf(x / √2)); where it is no operator, the pattern that ONNX Runtime and TensorRT make one of."""
        graph = self._graph
        if graph.opset >= GELU:
            return graph.node("Gelu", x)

        def constant(name: str, value: float) -> str:
            return graph.weight(f"{block}.{name}", np.array(value, self._arithmetic.dtype))

        erf = graph.node("Erf", graph.node("Div", x, constant("sqrt2", np.sqrt(2))))
        gate = graph.node("Add", erf, constant("one", 1))
        return graph.node("Mul", graph.node("Mul", x, gate), constant("half", 0.5))

    def _linear(self, name: str, x: str) -> str:
        weights = self._checkpoint.weights
        return self._product(name, x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def _product(self, name: str, x: str, weight: Float, bias: Float | None) -> str:
        return self._arithmetic.linear(self._graph, name, x, weight, bias)

    def _normalize(self, name: str, x: str) -> str:
        return self._arithmetic.enter(self._graph, self._graph.layer_norm(name, x, self._checkpoint))

    def _sum(self, x: str, y: str) -> str:
        return self._graph.node("Add", x, self._arithmetic.leave(self._graph, y))

    def _shape(self, name: str, *axes: int) -> str:
        return self._graph.weight(name, np.array(axes, np.int64))
