"""Precisions: what the graphs compute, against numpy, and what stays in float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint
from flexiast.manifest import PRECISIONS, Precision
from flexiast_export.encoder import encoder
from flexiast_export.graph import Graph
from flexiast_export.precisions import (
    FLOAT16,
    FLOAT32,
    WEIGHT_LIMIT,
    Arithmetic,
    DynamicInt8,
    StaticInt8,
    layer_of,
    quantize_weight,
)
from flexiast_export.quantize import count_quantized, layers, template

Float = NDArray[np.float32]

STEPS = st.floats(2**-10, 2**6, width=32)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def one_linear(arithmetic: Arithmetic, x: Float, weight: Float, bias: Float) -> Float:
    """A graph of one layer, run: x [rows, in] → [rows, out]."""
    graph = Graph()
    result = arithmetic.linear(graph, "layer", arithmetic.enter(graph, "x"), weight, bias)
    graph.node("Identity", arithmetic.leave(graph, result), output="y")
    model = graph.model("layer", ("x", ["rows", weight.shape[1]]), ("y", ["rows", weight.shape[0]]), {})
    return session(model).run(None, {"x": x})[0]


def layer(seed: int, rows: int = 5, inputs: int = 24, outputs: int = 7) -> tuple[Float, Float, Float]:
    rng = np.random.default_rng(seed)
    x, weight, bias = (rng.normal(size=shape) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    return x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32)


# ----- numbers


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e3, 1e3, width=32)))
def test_every_weight_is_within_half_a_step_of_its_integer(weight: Float) -> None:
    for limit in (WEIGHT_LIMIT, 127):
        integers, steps = quantize_weight(weight, limit)
        assert np.abs(integers.astype(int)).max() <= limit
        assert (np.abs(integers * steps[:, None] - weight) <= 0.5001 * steps[:, None] + 1e-30).all()
        largest = np.abs(weight).max(axis=1)
        whole = largest > 1e-30  # the smallest numbers of float32 have no 127th part
        assert (np.abs(integers.astype(int)).max(axis=1)[whole] == limit).all()  # no channel wastes its range


def test_two_products_never_overflow_sixteen_bits() -> None:
    """CPUs with AVX2 and without VNNI add pairs of uint8 × int8 in int16, saturating."""
    assert 2 * 255 * WEIGHT_LIMIT <= np.iinfo(np.int16).max < 2 * 255 * 127


@given(st.integers(0, 1000))
def test_dynamic_int8_is_integer_arithmetic(seed: int) -> None:
    x, weight, bias = layer(seed)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / step), 0, 255)
    levels = np.clip(np.rint(x / step) + zero, 0, 255)
    integers, steps = quantize_weight(weight, WEIGHT_LIMIT)
    expected = (levels - zero) @ integers.T.astype(np.float64) * step * steps + bias
    # a value at the edge between two levels may fall to either
    found, one_level = one_linear(DynamicInt8(), x, weight, bias), float(step * WEIGHT_LIMIT * steps.max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=one_level)
    np.testing.assert_allclose(found, x @ weight.T + bias, rtol=0, atol=0.5)


@given(st.integers(0, 1000))
def test_static_int8_rounds_inputs_to_its_range(seed: int) -> None:
    x, weight, bias = layer(seed)
    step = np.float32(2.0 / 127)
    levels = np.clip(np.rint(x / step), -128, 127)  # what is beyond the range is cut off
    integers, steps = quantize_weight(weight, 127)
    expected = levels @ integers.T.astype(np.float64) * step * steps + bias
    found = one_linear(StaticInt8({"layer": 2.0}), x, weight, bias)
    np.testing.assert_allclose(found, expected, rtol=0, atol=float(step * 127 * steps.max()))


@given(st.integers(0, 1000))
def test_float16_rounds_as_numpy_does(seed: int) -> None:
    x, weight, bias = layer(seed)
    halves = [value.astype(np.float16).astype(np.float64) for value in (x, weight, bias)]
    expected = halves[0] @ halves[1].T + halves[2]
    # 11 bits: products may be added, and rounded, in another order
    np.testing.assert_allclose(one_linear(FLOAT16, x, weight, bias), expected, rtol=0, atol=0.02)


def test_a_channel_of_zeros_stays_zero() -> None:
    x, weight, bias = layer(0)
    weight[2] = 0
    for arithmetic in (DynamicInt8(), StaticInt8({"layer": 4.0})):
        np.testing.assert_allclose(one_linear(arithmetic, x, weight, bias)[:, 2], bias[2], rtol=1e-6)


# ----- graphs


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Every tensor's element type."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("opset", [17, 23])
def test_norms_softmax_and_sums_from_block_to_block_are_float32_in_float16(
    tiny_checkpoint: Checkpoint, opset: int
) -> None:
    model = encoder(tiny_checkpoint, FLOAT16, opset)
    element = types(model)
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 2  # no Attention that would round its own
    for node in model.graph.node:
        if node.op_type in {"LayerNormalization", "Softmax", "ReduceMean"}:
            numbers = {element[name] for name in node.input} - {onnx.TensorProto.INT64}  # an axis
            assert numbers == {onnx.TensorProto.FLOAT}, node.name
        if node.op_type in {"MatMul", "Erf", "Gelu"} and "head.weight" not in node.input:
            assert {element[name] for name in node.input} == {onnx.TensorProto.FLOAT16}, node.name


def test_float16_halves_the_weights(tiny_checkpoint: Checkpoint) -> None:
    def weights(arithmetic: Arithmetic) -> int:
        graph = encoder(tiny_checkpoint, arithmetic).graph
        return sum(len(tensor.raw_data) for tensor in graph.initializer if tensor.name.startswith("blocks."))

    assert weights(FLOAT16) < 0.6 * weights(FLOAT32)


@pytest.mark.parametrize("opset", [17, 20, 23])
@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_every_layer_is_quantised_but_those_kept(precision: Precision, opset: int, tiny_checkpoint: Checkpoint) -> None:
    spec = tiny_checkpoint.spec
    every = layers(spec)
    whole = encoder(tiny_checkpoint, template(precision, spec), opset)
    assert count_quantized(whole, precision) == 6 * spec.network.depth
    ranges = dict.fromkeys(every, 1.0)
    for kept, fewer in ((every[0], 3), (every[1], 1)):  # qkv is three
        keep = frozenset({kept})
        arithmetic = DynamicInt8(keep) if precision == "int8" else StaticInt8(ranges, keep)
        model = encoder(tiny_checkpoint, arithmetic, opset)
        assert count_quantized(model, precision) == 6 * spec.network.depth - fewer
        assert layer_of("blocks.0.q") == layer_of("blocks.0.v") == "blocks.0.qkv"


def test_a_static_step_is_of_the_whole_input(tiny_checkpoint: Checkpoint) -> None:
    model = encoder(tiny_checkpoint, template("int8-static", tiny_checkpoint.spec))
    scalars = [tensor for tensor in model.graph.initializer if ".input_" in tensor.name]
    assert len(scalars) == 2 * (4 * tiny_checkpoint.spec.network.depth + 1)  # a step and a zero for each input
    assert all(not tensor.dims for tensor in scalars)


def test_inputs_that_layers_share_are_quantised_once(tiny_checkpoint: Checkpoint) -> None:
    operators = [node.op_type for node in encoder(tiny_checkpoint, DynamicInt8()).graph.node]
    # the last block asks for the prefix only: its q takes another tensor than k and v
    assert operators.count("DynamicQuantizeLinear") == 4 * tiny_checkpoint.spec.network.depth + 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_opsets_answer_alike(precision: Precision, tiny_checkpoint: Checkpoint) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 9, tiny_checkpoint.spec.network.width)).astype(np.float32)
    spec = tiny_checkpoint.spec
    oldest, *newer = (
        session(encoder(tiny_checkpoint, template(precision, spec), opset)).run(None, {"tokens": tokens})[0]
        for opset in (17, 18, 20, 21, 23)
    )
    # what the runtime fuses differs, and in float16 with it where is rounded
    tolerance = 1e-3 if precision == "fp16" else 1e-5
    for answer in newer:
        np.testing.assert_allclose(answer, oldest, rtol=0, atol=tolerance)
