"""The graphs node by node, run by ONNX Runtime, against the PyTorch model's layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.errors import UsageError
from flexiast.manifest import OPSET, Precision
from flexiast.model import FlexiAST
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import NetworkSpec, PatchSize
from flexiast_export.encoder import encoder, read_extra_rows
from flexiast_export.graph import embedder
from flexiast_export.quantize import template

Float = NDArray[np.float32]

OPSETS = (17, 20, 23)
"""The default, and those from which Gelu and Attention are operators."""

PATCHES = ("8", "12", "16", "20x10", "10x20", "5x7", "32x38", "1x38", "32x1", "3x2")
"""Dividing the window or not, finer and coarser than the base, down to one patch for the whole window."""


def random_checkpoint(like: Checkpoint, seed: int = 3, **network: int) -> Checkpoint:
    """Biases are as random, and as large, as the rest."""
    spec = like.spec.model_copy(update={"network": NetworkSpec(**like.spec.network.model_dump() | network)})
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(spec).items()
    return Checkpoint(spec, {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes})


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Checkpoint) -> FlexiAST:
    return load_model(tiny_checkpoint)


def features_of(checkpoint: Checkpoint, batch: int) -> Float:
    frontend = checkpoint.spec.frontend
    shape = (batch, frontend.window_frames, frontend.mel_bins)
    return np.random.default_rng(batch).normal(size=shape).astype(np.float32)


def run(graph: onnx.ModelProto, values: Float) -> Float:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (source.name for source in session.get_inputs())
    (result,) = session.run(None, {name: values})
    return result


@torch.inference_mode()
def torch_tokens(model: FlexiAST, features: Float, patch: PatchSize) -> Float:
    tokens = model.embedding(torch.from_numpy(features), patch)
    return torch.cat((model.cls.expand(len(tokens), 1, -1), tokens), dim=1).numpy()


@torch.inference_mode()
def torch_logits(model: FlexiAST, tokens: Float) -> Float:
    hidden = torch.from_numpy(tokens)
    for block in model.blocks:
        hidden = block(hidden)
    return model.classify(model.norm(hidden[:, 0])).numpy()


# ----- what it computes


@pytest.mark.parametrize("text", PATCHES)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_embedder_gives_the_models_tokens(
    tiny_checkpoint: Checkpoint, model: FlexiAST, text: str, batch: int
) -> None:
    patch, features = PatchSize.parse(text), features_of(tiny_checkpoint, batch)
    found, expected = (
        run(embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, patch), features),
        torch_tokens(model, features, patch),
    )
    assert found.shape == (batch, tiny_checkpoint.spec.tokens(patch), 16)
    # the kernel is resized in float64 here and in float32 there, and a token sums some hundred products up to 20
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", PATCHES)
def test_the_first_token_is_cls_to_the_bit(tiny_checkpoint: Checkpoint, text: str) -> None:
    tokens = run(
        embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, PatchSize.parse(text)), features_of(tiny_checkpoint, 2)
    )
    assert np.array_equal(tokens[:, 0], np.tile(tiny_checkpoint.weights["cls"], (2, 1)))


@given(mels=st.integers(1, 32), frames=st.integers(1, 38))
def test_any_patch_that_fits_the_window_can_be_embedded(
    tiny_checkpoint: Checkpoint, model: FlexiAST, mels: int, frames: int
) -> None:
    patch, features = PatchSize(mels, frames), features_of(tiny_checkpoint, 1)
    found = run(embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, patch), features)
    # pseudo-inverses of small patches have entries of size 10, in float64 here and float32 there
    np.testing.assert_allclose(found, torch_tokens(model, features, patch), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tokens", [2, 3, 17, 300])
@pytest.mark.parametrize("batch", [1, 4])
def test_one_encoder_takes_any_number_of_tokens(
    tiny_checkpoint: Checkpoint, model: FlexiAST, tokens: int, batch: int
) -> None:
    values = np.random.default_rng(tokens).normal(size=(batch, tokens, 16)).astype(np.float32)
    # float32 sums in another order, on logits of size 4
    np.testing.assert_allclose(run(encoder(tiny_checkpoint), values), torch_logits(model, values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", [{"depth": 1}, {"depth": 4}, {"heads": 1}, {"heads": 8}, {"width": 24, "heads": 3}])
def test_networks_of_other_shapes_are_the_models_too(tiny_checkpoint: Checkpoint, network: dict[str, int]) -> None:
    checkpoint = random_checkpoint(tiny_checkpoint, **network)
    model, width = load_model(checkpoint), checkpoint.spec.network.width
    values = np.random.default_rng(0).normal(size=(2, 9, width)).astype(np.float32)
    np.testing.assert_allclose(run(encoder(checkpoint), values), torch_logits(model, values), rtol=0, atol=1e-5)
    patch, features = PatchSize(12, 12), features_of(checkpoint, 2)
    found = run(embedder(checkpoint.spec, checkpoint.weights, patch), features)
    np.testing.assert_allclose(found, torch_tokens(model, features, patch), rtol=1e-5, atol=1e-5)  # as above


@pytest.mark.parametrize("opset", OPSETS)
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    depth=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    prefix_tokens=st.integers(1, 2),
    head_norm=st.booleans(),
)
def test_every_opset_computes_the_model_whatever_its_biases(
    tiny_checkpoint: Checkpoint, opset: int, seed: int, **network: int
) -> None:
    """The graph drops k's bias and moves v's; the model adds both where they stand."""
    checkpoint, patch = random_checkpoint(tiny_checkpoint, seed, **network), PatchSize(16, 16)
    features = features_of(checkpoint, 2)
    tokens = run(embedder(checkpoint.spec, checkpoint.weights, patch, opset), features)
    found = run(encoder(checkpoint, opset=opset), tokens)
    expected = TorchClassifier(load_model(checkpoint)).logits(features, patch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # as above


@pytest.mark.parametrize("part", [0, 2], ids=["q", "v"])
@pytest.mark.parametrize("opset", OPSETS)
def test_of_the_biases_of_attention_only_that_of_k_says_nothing(
    tiny_checkpoint: Checkpoint, opset: int, part: int
) -> None:
    values, width = np.random.default_rng(0).normal(size=(1, 9, 16)).astype(np.float32), 16

    def without(part: int) -> Float:
        weights = {name: value.copy() for name, value in tiny_checkpoint.weights.items()}
        weights["blocks.1.qkv.bias"][part * width : (part + 1) * width] = 0
        return run(encoder(replace(tiny_checkpoint, weights=weights), opset=opset), values)

    whole = run(encoder(tiny_checkpoint, opset=opset), values)
    assert np.array_equal(without(1), whole)
    assert np.abs(without(part) - whole).max() > 1e-3


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_class_of_several_rows_is_their_log_sum_exp_in_every_precision(
    tiny_checkpoint: Checkpoint, opset: int, precision: Precision
) -> None:
    """Beside the same head with a label for each row, whose logits are added up here."""
    extra_rows = (2, 0, 2, 2)
    spec = tiny_checkpoint.spec.model_copy(update={"extra_rows": extra_rows})
    several = random_checkpoint(replace(tiny_checkpoint, spec=spec))
    spread = spec.model_copy(update={"extra_rows": (), "labels": tuple(map(str, range(spec.head_rows)))})
    values = np.random.default_rng(0).normal(size=(3, 9, 16)).astype(np.float32)
    arithmetic = template(precision, spec)
    model = encoder(several, arithmetic, opset)
    rows = run(encoder(replace(several, spec=spread), arithmetic, opset), values).astype(np.float64)
    sums = np.exp(rows[:, : spec.classes])
    for row, number in enumerate(extra_rows, start=spec.classes):
        sums[:, number] += np.exp(rows[:, row])
    # float32's rounding of logits of size 4: the rows are the same to the bit
    np.testing.assert_allclose(run(model, values), np.log(sums), rtol=0, atol=5e-6)
    if precision == "fp32":
        found = torch_logits(load_model(several), values)
        np.testing.assert_allclose(run(model, values), found, rtol=0, atol=1e-5)  # as above
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    plain = spec.drop_extra_rows()
    assert read_extra_rows(weights, plain) == extra_rows
    assert {item.key: item.value for item in model.metadata_props}["flexiast.spec"] == plain.model_dump_json()


def test_logits_of_any_size_can_be_joined(tiny_checkpoint: Checkpoint) -> None:
    """The power of 89 is more than float32 holds."""
    spec = tiny_checkpoint.spec.model_copy(update={"extra_rows": (1,)})
    checkpoint = random_checkpoint(replace(tiny_checkpoint, spec=spec))
    checkpoint.weights["head.bias"][:] = [-500, 200, 0, 400]
    found = run(encoder(checkpoint), np.zeros((1, 9, 16), np.float32))
    np.testing.assert_allclose(found, [[-500, 400, 0]], atol=10)


def test_a_head_of_one_row_a_class_names_no_extra_ones(tiny_checkpoint: Checkpoint) -> None:
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in encoder(tiny_checkpoint).graph.initializer}
    assert read_extra_rows(weights, tiny_checkpoint.spec) == ()


@pytest.mark.parametrize("patch", [PatchSize(33, 8), PatchSize(8, 39)], ids=str)
def test_a_patch_larger_than_the_window_is_refused(tiny_checkpoint: Checkpoint, patch: PatchSize) -> None:
    with pytest.raises(UsageError, match=f"patch size {patch} is larger than one window of 32 mel bins x 38 frames"):
        embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, patch)


# ----- how it is written


def graphs(checkpoint: Checkpoint, opset: int = OPSET) -> list[onnx.ModelProto]:
    return [
        encoder(checkpoint, opset=opset),
        *(embedder(checkpoint.spec, checkpoint.weights, PatchSize.parse(text), opset) for text in PATCHES),
    ]


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def axes(value: Any) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(("opset", "ir_version"), [(17, 8), (20, 9), (23, 11)])
def test_every_graph_passes_the_full_check(tiny_checkpoint: Checkpoint, opset: int, ir_version: int) -> None:
    for graph in graphs(tiny_checkpoint, opset):
        onnx.checker.check_model(graph, full_check=True)
        assert [(item.domain, item.version) for item in graph.opset_import] == [("", opset)]
        assert graph.ir_version == ir_version  # the oldest that may hold the opset


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_encoder_has_two_norms_a_block_one_at_the_end_and_nothing_of_a_tracer(
    tiny_checkpoint: Checkpoint, depth: int
) -> None:
    found = operators(encoder(random_checkpoint(tiny_checkpoint, depth=depth)))
    assert found["LayerNormalization"] == 2 * depth + 1
    assert (found["Softmax"], found["Erf"]) == (depth, depth)
    assert (found["Shape"], found["Concat"]) == (1, 1)  # once for all blocks
    assert not found.keys() & {"IsNaN", "Where", "Gather", "Expand", "If", "Loop"}


def test_newer_opsets_have_operators_for_gelu_and_attention(tiny_checkpoint: Checkpoint) -> None:
    old, gelu, attention = (operators(encoder(tiny_checkpoint, opset=opset)) for opset in OPSETS)
    assert (old["Erf"], old["Gelu"], old["Softmax"], old["Attention"]) == (2, 0, 2, 0)
    assert (gelu["Erf"], gelu["Gelu"], gelu["Softmax"], gelu["Attention"]) == (0, 2, 2, 0)
    assert (attention["Gelu"], attention["Softmax"], attention["Attention"], attention["Transpose"]) == (2, 0, 2, 0)


def test_a_softmax_is_known_to_keep_its_size(tiny_checkpoint: Checkpoint) -> None:
    """Else ONNX Runtime gives it a buffer of its own, which costs 5 % at 1,009 tokens."""
    graph = onnx.shape_inference.infer_shapes(encoder(tiny_checkpoint), strict_mode=True).graph
    named = {value.name: axes(value) for value in graph.value_info}
    sizes = [[named[name] for name in (*node.input, *node.output)] for node in graph.node if node.op_type == "Softmax"]
    assert sizes[:-1] == [[["batch", 2, "tokens", "tokens"]] * 2]
    assert sizes[-1] == [["batch", 2, 1, "tokens"]] * 2  # the prefix alone


def test_only_the_last_block_drops_all_but_the_cls_token(tiny_checkpoint: Checkpoint) -> None:
    assert operators(encoder(random_checkpoint(tiny_checkpoint, depth=3)))["Slice"] == 2  # its query and its residual


def test_the_embedder_cuts_patches_and_turns_its_kernel(tiny_checkpoint: Checkpoint) -> None:
    found = operators(embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, PatchSize(12, 12)))
    # one Transpose and one Reshape are the kernel's, which the runtime does once
    assert found == {"Pad": 2, "Reshape": 3, "Transpose": 2, "MatMul": 1, "Add": 1}


def test_axes_are_named_where_they_are_free_and_numbered_where_they_are_not(tiny_checkpoint: Checkpoint) -> None:
    graph = encoder(tiny_checkpoint).graph
    assert [(value.name, axes(value)) for value in graph.input] == [("tokens", ["batch", "tokens", 16])]
    assert [(value.name, axes(value)) for value in graph.output] == [("logits", ["batch", 3])]
    graph = embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, PatchSize(20, 10)).graph
    assert [(value.name, axes(value)) for value in graph.input] == [("features", ["batch", 38, 32])]
    assert [(value.name, axes(value)) for value in graph.output] == [("tokens", ["batch", 2 * 4 + 1, 16])]


def test_weights_are_inside_and_every_node_has_its_own_name(tiny_checkpoint: Checkpoint) -> None:
    for graph in graphs(tiny_checkpoint):
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)
        names = [node.name for node in graph.graph.node]
        assert len(set(names)) == len(names)


def test_graphs_carry_the_spec_and_the_patch_size(tiny_checkpoint: Checkpoint) -> None:
    spec = tiny_checkpoint.spec.model_dump_json()
    versions = {"onnx": "1.20", "flexiast": "0.1"}
    assert {item.key: item.value for item in encoder(tiny_checkpoint, versions=versions).metadata_props} == {
        "flexiast.spec": spec,
        "flexiast.precision": "fp32",
        "flexiast.versions": '{"flexiast": "0.1", "onnx": "1.20"}',
    }
    props = {
        item.key: item.value
        for item in embedder(tiny_checkpoint.spec, tiny_checkpoint.weights, PatchSize(20, 10)).metadata_props
    }
    assert props == {"flexiast.spec": spec, "flexiast.patch_size": "20x10"}


def test_writing_leaves_the_checkpoint_as_it_was(tiny_checkpoint: Checkpoint) -> None:
    before = {name: value.copy() for name, value in tiny_checkpoint.weights.items()}
    graphs(replace(tiny_checkpoint))
    assert all(np.array_equal(before[name], value) for name, value in tiny_checkpoint.weights.items())


@pytest.mark.parametrize("opset", OPSETS)
def test_the_same_checkpoint_gives_the_same_bytes(tiny_checkpoint: Checkpoint, opset: int) -> None:
    once, again = ([graph.SerializeToString() for graph in graphs(tiny_checkpoint, opset)] for _ in range(2))
    assert once == again
