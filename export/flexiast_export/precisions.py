"""How the encoder's linear layers are written: in float32, in float16, or in int8.

    fp32         as trained
    fp16         weights and products in float16. A CPU without such products computes in float32 at the same speed, so
                 there it halves the file and nothing else.
    int8         for CPUs: weights in int8 per output channel, inputs in uint8 by their range in each window
    int8-static  for TensorRT: explicit QuantizeLinear/DequantizeLinear, input ranges fixed by calibration

The products of attention, which have no weights, stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.manifest import Precision

if TYPE_CHECKING:
    from flexiast_export.graph import Graph


class Arithmetic(Protocol):
    """What a precision changes in the graph."""

    @property
    def precision(self) -> Precision: ...

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Of everything between a norm, or softmax, and the next sum."""
        ...

    def enter(self, graph: Graph, x: str) -> str:
        """From float32 to ``dtype``."""
        ...

    def leave(self, graph: Graph, x: str) -> str:
        """From ``dtype`` to float32."""
        ...

    def linear(self, graph: Graph, name: str, x: str, weight: Float, bias: Float | None) -> str:
        """X [rows, in] times weight [out, in] transposed, plus bias [out] where there is one."""
        ...


class Float32:
    """As trained."""

    precision: Precision = "fp32"
    dtype: type[np.floating[Any]] = np.float32

    def enter(self, graph: Graph, x: str) -> str:
        return x

    def leave(self, graph: Graph, x: str) -> str:
        return x

    def linear(self, graph: Graph, name: str, x: str, weight: Float, bias: Float | None) -> str:
        product = self.product(graph, name, x, weight)
        if bias is None:
            return product
        return graph.node("Add", product, graph.weight(f"{name}.bias", bias.astype(self.dtype)))

    def product(self, graph: Graph, name: str, x: str, weight: Float) -> str:
        return graph.node("MatMul", x, graph.weight(f"{name}.weight", weight.T.astype(self.dtype)))


class Float16(Float32):
    """Half the bytes; norms, softmax and the sums from block to block stay float32."""

    precision: Precision = "fp16"
    dtype: type[np.floating[Any]] = np.float16

    def enter(self, graph: Graph, x: str) -> str:
        return graph.cast(x, np.float16)

    def leave(self, graph: Graph, x: str) -> str:
        return graph.cast(x, np.float32)


FLOAT32, FLOAT16 = Float32(), Float16()


WEIGHT_LIMIT = 64
"""Of dynamic int8 weights: two products of 255 × 64 fit the 16 bits in which CPUs without VNNI add them; 127 do not."""


@dataclass(frozen=True)
class DynamicInt8(Float32):
    """MatMulInteger on inputs quantised by their own range, which ONNX Runtime fuses into one operator."""

    keep_float: frozenset[str] = frozenset()
    """Layers left in float32, because the answers suffered."""
    precision: Precision = field(default="int8", init=False)

    def product(self, graph: Graph, name: str, x: str, weight: Float) -> str:
        if layer_of(name) in self.keep_float:
            return super().product(graph, name, x, weight)
        if x not in graph.quantized:
            graph.quantized[x] = graph.nodes("DynamicQuantizeLinear", x, outputs=3)
        levels, step, zero = graph.quantized[x]
        integers, steps = quantize_weight(weight, WEIGHT_LIMIT)
        product = graph.node("MatMulInteger", levels, graph.weight(f"{name}.weight", integers.T), zero)
        scale = graph.node("Mul", step, graph.weight(f"{name}.step", steps))
        return graph.node("Mul", graph.cast(product, np.float32), scale)


@dataclass(frozen=True)
class StaticInt8(Float32):
    """Quantised and dequantised explicitly, which is how TensorRT 10 and later are told of int8."""

    ranges: Mapping[str, float]
    """Layer → largest magnitude of its input, by calibration."""
    keep_float: frozenset[str] = frozenset()
    precision: Precision = field(default="int8-static", init=False)

    def product(self, graph: Graph, name: str, x: str, weight: Float) -> str:
        layer = layer_of(name)
        if layer in self.keep_float:
            return super().product(graph, name, x, weight)
        if x not in graph.quantized:
            step = graph.scalar(f"{name}.input_step", np.float32(self.ranges[layer] / 127))
            zero = graph.scalar(f"{name}.input_zero", np.int8(0))
            levels = graph.node("QuantizeLinear", x, step, zero)
            graph.quantized[x] = (graph.node("DequantizeLinear", levels, step, zero),)
        integers, steps = quantize_weight(weight, 127)
        zeros = graph.weight(f"{name}.zero", np.zeros(len(steps), np.int8))
        source = graph.weight(f"{name}.weight", integers.T)
        restored = graph.node("DequantizeLinear", source, graph.weight(f"{name}.step", steps), zeros, axis=1)
        return graph.node("MatMul", *graph.quantized[x], restored)


def layer_of(name: str) -> str:
    """What is quantised together or not at all: q, k and v are one, ``qkv``."""
    block, _, part = name.rpartition(".")
    return f"{block}.qkv" if part in {"q", "k", "v"} else name


def quantize_weight(weight: Float, limit: int) -> tuple[NDArray[np.int8], Float]:
    """Weight [out, in] → integers within ± limit [out, in] and the step of each output channel [out]."""
    largest = np.abs(weight).max(axis=1)
    steps = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    return np.rint(weight / steps[:, None]).astype(np.int8), steps
