"""ONNX graphs written node by node from the checkpoint's numpy weights; no tracer, no torch.

    embedder   features [batch, frames, mels] → tokens [batch, tokens, width]    one per patch size, holds its matrices
    encoder    tokens [batch, tokens, width] → logits [batch, classes]           one for all: the token axis is dynamic

The embedder puts the prefix tokens in front. One graph for all sizes is at least as fast as what PyTorch's exporter
writes for a single one (benchmarks/export.py). Here stand the graph that both are built in, and the embedder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.errors import UsageError
from flexiast.extras import require
from flexiast.manifest import OPSET
from flexiast.patching import patch_matrices
from flexiast.pcen import ALPHA, DELTA, padding_value, smoothing_matrices
from flexiast.spec import FrontendSpec, PatchSize, Spec

if TYPE_CHECKING:
    import onnx

AXES_AS_INPUT = 18
"""The opset from which ReduceMean and ReduceMax take their axes as an input."""


class Description(NamedTuple):
    """What a viewer such as Netron shows of a model, of its input and of its output."""

    graph: str = ""
    source: str = ""
    result: str = ""


class Graph:
    """Nodes and weights in the order they are added; each method returns the name of its output."""

    def __init__(self, opset: int = OPSET) -> None:
        self._onnx = require("onnx", "export")
        self.opset = opset
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._named: list[Any] = []
        self.quantized: dict[str, tuple[str, ...]] = {}
        """Tensor → what it is in integers: several layers take one tensor."""

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """A node with several outputs."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        names = [f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return tuple(names)

    def weight(self, name: str, value: NDArray[Any]) -> str:
        self._weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: np.generic) -> str:
        """Of no axis at all: a scale with one could be read as one step for each channel."""
        self._weights.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def cast(self, x: str, dtype: type[np.generic]) -> str:
        return self.node("Cast", x, to=self._element(dtype))

    def name_axes(self, x: str, dtype: type[np.generic], axes: Sequence[str | int]) -> str:
        """The tensor, its axes told where a computed shape hides them: runtimes work in place only on known sizes."""
        self._named.append(self._onnx.helper.make_tensor_value_info(x, self._element(dtype), axes))
        return x

    def _element(self, dtype: type[np.generic]) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def mean(self, x: str, axis: int, *, keep: bool = False) -> str:
        """The mean over an axis, which stays with length 1 or goes."""
        return self._reduce("ReduceMean", x, axis, keep=keep)

    def log_sum_exp(self, x: str, axis: int) -> str:
        """Over an axis, which stays with length 1. Without the maximum, runtimes would overflow from 89 on."""
        largest = self._reduce("ReduceMax", x, axis, keep=True)
        powers = self.node("Exp", self.node("Sub", x, largest))
        sums = self.node("ReduceSum", powers, self.weight(f"{powers}.axis", np.array([axis], np.int64)))
        return self.node("Add", self.node("Log", sums), largest)

    def _reduce(self, operator: str, x: str, axis: int, *, keep: bool) -> str:
        if self.opset < AXES_AS_INPUT:
            return self.node(operator, x, axes=[axis], keepdims=int(keep))
        return self.node(operator, x, self.weight(f"{x}.axis", np.array([axis], np.int64)), keepdims=int(keep))

    def layer_norm(self, name: str, x: str, checkpoint: Checkpoint) -> str:
        scale, bias = (
            self.weight(f"{name}.{part}", checkpoint.weights[f"{name}.{part}"]) for part in ("weight", "bias")
        )
        epsilon = checkpoint.spec.network.norm_epsilon
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def append(self, model: onnx.ModelProto, part: str, x: str) -> str:
        """Add the nodes of a model with one input, which ``x`` becomes; ``part/`` goes before all of its names."""
        graph = model.graph
        names = {graph.input[0].name: x}

        def rename(name: str) -> str:
            return names.get(name, f"{part}/{name}") if name else name  # an input that is left out has no name

        for kind, items in (
            (self._nodes, graph.node),
            (self._weights, graph.initializer),
            (self._named, graph.value_info),
        ):
            for item in items:
                copied = type(item)()
                copied.CopyFrom(item)
                copied.name = rename(item.name)
                if kind is self._nodes:
                    copied.input[:] = map(rename, item.input)
                    copied.output[:] = map(rename, item.output)
                kind.append(copied)
        return rename(graph.output[0].name)

    def model(
        self,
        name: str,
        source: tuple[str, list[Any]],
        result: tuple[str, list[Any]],
        metadata: dict[str, str],
        description: Description | None = None,
    ) -> onnx.ModelProto:
        """The checked model; axes are named by strings and fixed by numbers."""
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        described = description or Description()
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(source[0], float32, source[1], described.source)],
            [helper.make_tensor_value_info(result[0], float32, result[1], described.result)],
            self._weights,
            described.graph,
            self._named,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        # What came with the opset: the oldest runtimes that know the operators load the file.
        ir_version = helper.find_min_ir_version_for(opsets)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="flexiast")
        helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model, full_check=True)
        return model


def check_opset(opset: int) -> int:
    """The opset; raises UsageError for one that lacks an operator, or that the installed onnx does not know."""
    newest = int(require("onnx", "export").defs.onnx_opset_version())
    if not OPSET <= opset <= newest:
        raise UsageError(f"opset {opset} cannot be written; it must be {OPSET} … {newest}")
    return opset


def embedder(spec: Spec, weights: Mapping[str, Float], patch: PatchSize, opset: int = OPSET) -> onnx.ModelProto:
    """Features [batch, window_frames, mels] → tokens [batch, tokens, width], prefix first, positions added.

    Its metadata names no versions, so that one made on a device equals one made from the checkpoint, to the byte.
    """
    frontend, network = spec.frontend, spec.network
    matrices = patch_matrices(spec, patch)
    kernel = matrices.kernel(weights["embedding.kernel"])
    positions = matrices.positions(weights["embedding.positions"]) + weights["embedding.bias"]
    prefix = [weights[name] for name in ("cls", "distillation")[: network.prefix_tokens]]

    graph = Graph(opset)
    x = write_pcen(graph, frontend, "features") if spec.pcen else "features"
    x = (_side_by_side if spec.base_stride is None else _embed_overlapping)(graph, spec, x, patch, kernel)
    # Where the prefix stands x is zero, so adding it there makes it.
    added = np.concatenate((prefix, positions))[None].astype(np.float32)
    graph.node("Add", x, graph.weight("positions", added), output="tokens")
    return graph.model(
        f"embed-{patch}",
        ("features", ["batch", frontend.window_frames, frontend.mel_bins]),
        ("tokens", ["batch", spec.tokens(patch), network.width]),
        {"flexiast.patch_size": str(patch), "flexiast.spec": spec.model_dump_json()},
    )


def write_pcen(graph: Graph, frontend: FrontendSpec, features: str) -> str:
    """Add the nodes of ``normalize_energy``: features [batch, frames, mels] → the same after PCEN."""

    def constant(name: str, value: float) -> str:
        return graph.weight(f"pcen.{name}", np.float32(value))

    scaled = graph.node("Mul", features, constant("two_std", 2 * frontend.std))
    log_mel = graph.node("Add", scaled, constant("mean", frontend.mean))
    smooth = _smooth(graph, frontend, graph.node("Exp", log_mel))
    past = graph.node("Log", smooth)
    gained = graph.node("Exp", graph.node("Sub", log_mel, graph.node("Mul", past, constant("alpha", ALPHA))))
    root = graph.node("Sqrt", graph.node("Add", gained, constant("delta", DELTA)))
    return graph.node("Sub", root, constant("root_of_delta", DELTA**0.5))


def _smooth(graph: Graph, frontend: FrontendSpec, energy: str) -> str:
    """The running mean of energies [batch, frames, mels] over the frames, block by block."""
    within, fading, carried = smoothing_matrices(frontend.window_frames)
    frames, mels, block, blocks = frontend.window_frames, frontend.mel_bins, len(within), len(carried)

    def integers(name: str, *values: int) -> str:
        return graph.weight(f"pcen.{name}", np.array(values, np.int64))

    zero, one = integers("zero", 0), integers("one", 1)
    x = graph.node("Pad", energy, integers("padding", 0, 0, 0, 0, blocks * block - frames, 0))
    x = graph.node("Reshape", x, integers("blocks", 0, blocks, block, mels))
    local = graph.node("MatMul", graph.weight("pcen.within", within), x)
    last = graph.node(
        "Slice", local, integers("last", 0, block - 1), integers("end", blocks - 1, block), integers("axes", 1, 2)
    )
    last = graph.node("Reshape", last, integers("means", 0, blocks - 1, mels))
    first = graph.node("Slice", energy, zero, one, one)
    before = graph.node("MatMul", graph.weight("pcen.carried", carried), graph.node("Concat", first, last, axis=1))
    before = graph.node("Reshape", before, integers("before", 0, blocks, 1, mels))
    x = graph.node("Add", local, graph.node("Mul", before, graph.weight("pcen.fading", fading)))
    x = graph.node("Reshape", x, integers("joined", 0, blocks * block, mels))
    return graph.node("Slice", x, zero, integers("frames", frames), one)


def _side_by_side(graph: Graph, spec: Spec, x: str, patch: PatchSize, kernel: Float) -> str:
    """Patches cut by reshaping, times the kernel [width, patch mels, patch frames]; zeros where the prefix stands."""
    frontend, (rows, columns) = spec.frontend, spec.grid(patch)
    padding = [0, 0, 0, 0, columns * patch.frames - frontend.window_frames, rows * patch.mels - frontend.mel_bins]
    floor = graph.weight("floor", np.float32(padding_value(spec)))
    x = graph.node("Pad", x, graph.weight("padding", np.array(padding, np.int64)), floor)
    cells = np.array([0, columns, patch.frames, rows, patch.mels], np.int64)
    x = graph.node("Reshape", x, graph.weight("cells", cells))
    # A frame's mels stay together, which halves the time of the copy.
    x = graph.node("Transpose", x, perm=[0, 3, 1, 2, 4])  # [batch, rows, columns, patch frames, patch mels]
    patches = np.array([0, rows * columns, patch.frames * patch.mels], np.int64)
    x = graph.node("Reshape", x, graph.weight("patches", patches))
    # The kernel is stored as in the checkpoint, mel by mel; the runtime turns it once, when it loads.
    turned = graph.node("Transpose", graph.weight("kernel", kernel.transpose(1, 2, 0)), perm=[1, 0, 2])
    turned = graph.node("Reshape", turned, graph.weight("columns", np.array([-1, len(kernel)], np.int64)))
    return _with_room(graph, spec, graph.node("MatMul", x, turned))


def _embed_overlapping(graph: Graph, spec: Spec, x: str, patch: PatchSize, kernel: Float) -> str:
    """The same where patches overlap: a strided convolution, which takes whole patches only."""
    stride = spec.stride(patch)
    x = graph.node("Unsqueeze", x, graph.weight("channel_axis", np.array([1], np.int64)))
    weight = graph.weight("kernel", kernel.transpose(0, 2, 1)[:, None])  # time before mel, as in the features
    x = graph.node("Conv", x, weight, kernel_shape=[patch.frames, patch.mels], strides=[stride.frames, stride.mels])
    x = graph.node("Transpose", x, perm=[0, 3, 2, 1])  # [batch, rows, columns, width]
    rows, columns = spec.grid(patch)
    x = graph.node("Reshape", x, graph.weight("patches", np.array([0, rows * columns, len(kernel)], np.int64)))
    return _with_room(graph, spec, x)


def _with_room(graph: Graph, spec: Spec, x: str) -> str:
    """[batch, patches, n] → [batch, prefix + patches, n], zeros in front."""
    room = np.array([0, spec.network.prefix_tokens, 0, 0, 0, 0], np.int64)
    return graph.node("Pad", x, graph.weight("room", room))
