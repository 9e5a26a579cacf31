"""The front end as a graph: samples → features, from the same constants as `flexiast.frontend`.

The spectrum is a Fourier transform in two matrix products (Cooley and Tukey's first step): every runtime has MatMul,
few have DFT, and of 512 points the two take a seventh of the work of one. All before the power is float64: in float32
quiet bins beside loud ones are wrong by up to 6e-3 nat. Frames are the last axis throughout, so that every product is
one of few and large matrices: WebAssembly spends as long on preparing small ones as on multiplying them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double, Float
from flexiast.frontend import Frontend, mel_filters
from flexiast.manifest import OPSET
from flexiast.spec import LOG_FLOOR, FrontendSpec, Spec
from flexiast_export.graph import Graph

if TYPE_CHECKING:
    import onnx

FRONTEND = "frontend.onnx"
MEL_GROUPS = 4
"""Groups of mel bins, each summed over its own bins: a third of the products of one matrix, most of which is 0."""
GOLDEN_FRAMES = 24
"""Of each golden waveform: enough for every part of the graph, and 80 kB"""


def frontend(spec: Spec, opset: int = OPSET) -> onnx.ModelProto:
    """Samples [batch, samples] at the model's rate → features [batch, frames, mels]; none from less than one taper.

    Its metadata names no versions, so that one made on a device equals one made from the checkpoint, to the byte.
    """
    graph = Graph(opset)
    write_features(graph, spec.frontend, "samples", "features")
    return graph.model(
        "frontend",
        ("samples", ["batch", "samples"]),
        ("features", ["batch", "frames", spec.frontend.mel_bins]),
        {"flexiast.spec": spec.model_dump_json()},
    )


def write_features(graph: Graph, spec: FrontendSpec, samples: str, output: str | None = None) -> str:
    """Add the nodes of ``Frontend.__call__``: samples [batch, samples] → features [batch, frames, mels]."""
    batch, frames = _count_frames(graph, spec, samples)
    tapered = _taper_frames(graph, spec, samples, frames)
    mel = _sum_bins(graph, spec, _power(graph, spec, tapered))
    log_mel = graph.node("Log", graph.node("Max", mel, graph.weight("log_floor", np.float32(LOG_FLOOR))))
    centred = graph.node("Sub", log_mel, graph.weight("mean", np.float32(spec.mean)))
    features = graph.node("Div", centred, graph.weight("two_std", np.float32(2 * spec.std)))
    features = graph.node("Transpose", features, perm=[1, 0])
    shape = graph.node("Concat", batch, frames, _integers(graph, "mel_bins", spec.mel_bins), axis=0)
    return graph.node("Reshape", features, shape, output=output, allowzero=1)  # there may be no frame at all


def golden_samples(spec: FrontendSpec) -> Float:
    """Waveforms [4, samples] of noise, silence, a loud rising tone and one impulse; the same on every machine."""
    count = spec.taper_samples + (GOLDEN_FRAMES - 1) * spec.hop_samples
    noise = np.random.default_rng(0).integers(-3000, 3000, count) / 32768  # as 16-bit audio, which packs well
    phase = np.pi * np.arange(count) ** 2 / (2 * count)
    sweep = np.rint(32000 * np.sin(phase)) / 32768
    impulse = np.zeros(count)
    impulse[count // 2] = 1
    return np.stack([noise, np.zeros(count), sweep, impulse]).astype(np.float32)


def golden(spec: FrontendSpec) -> dict[str, Float]:
    """Samples and the features that numpy makes of them, for a device to compare its own with."""
    samples, compute = golden_samples(spec), Frontend(spec)
    return {"samples": samples, "features-of-samples": np.stack([compute(waveform) for waveform in samples])}


def _integers(graph: Graph, name: str, *values: int) -> str:
    return graph.weight(name, np.array(values, np.int64))


def _count_frames(graph: Graph, spec: FrontendSpec, samples: str) -> tuple[str, str]:
    """The batch and ``FrontendSpec.frames_in``, as tensors of one number."""
    shape = graph.node("Shape", samples)
    axis = [_integers(graph, f"axis_{number}", number) for number in (0, 1, 2)]
    batch, count = graph.node("Slice", shape, axis[0], axis[1]), graph.node("Slice", shape, axis[1], axis[2])
    # A whole hop is added first, since integers are divided towards zero.
    beyond = graph.node("Sub", count, _integers(graph, "taper_less_hop", spec.taper_samples - spec.hop_samples))
    beyond = graph.node("Max", beyond, _integers(graph, "none", 0))
    return batch, graph.node("Div", beyond, _integers(graph, "hop", spec.hop_samples))


def _taper_frames(graph: Graph, spec: FrontendSpec, samples: str, frames: str) -> str:
    """Samples → frames without their means, pre-emphasised and tapered [taper_samples − 1, batch, frames], in float64.

    Emphasis and means are taken before the frames are cut, which overlap: x[j] − a x[j−1] less (1 − a) times the mean.
    The first sample of a frame is 0 under the taper, so it is left out; that turns phases, and no power.
    """
    hop, count = spec.hop_samples, -(-spec.taper_samples // spec.hop_samples)
    length = graph.node("Mul", graph.node("Add", frames, _integers(graph, "later_blocks", count - 1)), "hop")
    padded = graph.cast(graph.node("Pad", samples, _integers(graph, "last_blocks", 0, 0, 0, count * hop)), np.float64)
    padded = graph.node("Slice", padded, "none", length, "axis_1")
    before = graph.node("Pad", padded, _integers(graph, "one_before", 0, 1, 0, -1))
    scaled = graph.node("Mul", before, graph.weight("preemphasis", np.float64(spec.preemphasis)))
    shape = _integers(graph, "blocks", 0, -1, hop)
    blocks = graph.node("Transpose", graph.node("Reshape", padded, shape), perm=[2, 0, 1])
    emphasised = graph.node(
        "Transpose", graph.node("Reshape", graph.node("Sub", padded, scaled), shape), perm=[2, 0, 1]
    )
    widths = [min(hop, spec.taper_samples - place * hop) for place in range(count)]
    parts = [_shift(graph, emphasised, frames, place, int(place == 0), width) for place, width in enumerate(widths)]
    total = _sum_frames(graph, blocks, frames, widths)
    share = np.float64((1 - spec.preemphasis) / spec.taper_samples)
    centre = graph.node("Mul", total, graph.weight("emphasised_mean", share))
    centred = graph.node("Sub", graph.node("Concat", *parts, axis=0), centre)
    return graph.node("Mul", centred, graph.weight("taper", Frontend(spec).taper[1:, None, None]))


def _sum_frames(graph: Graph, blocks: str, frames: str, widths: Sequence[int]) -> str:
    """Blocks [hop, batch, blocks] → the sum of each frame's samples [1, batch, frames], from sums of whole blocks."""
    sums = {
        width: graph.node("ReduceSum", _first_rows(graph, blocks, width), "none", keepdims=1) for width in set(widths)
    }
    total, *others = (_shift(graph, sums[width], frames, place, 0, 1) for place, width in enumerate(widths))
    for other in others:
        total = graph.node("Add", total, other)
    return total


def _first_rows(graph: Graph, x: str, count: int) -> str:
    return graph.node("Slice", x, "none", _integers(graph, f"{x}.first_{count}", count), "none")


def _shift(graph: Graph, blocks: str, frames: str, place: int, start: int, end: int) -> str:
    """Of the block ``place`` after each frame's first, the rows ``start`` … ``end`` [rows, batch, frames]."""
    name = f"{blocks}.{place}"
    last = graph.node("Add", frames, _integers(graph, f"{name}.place", place))
    ends = graph.node("Concat", _integers(graph, f"{name}.end", end), last, axis=0)
    axes = _integers(graph, f"{name}.axes", 0, 2)
    return graph.node("Slice", blocks, _integers(graph, f"{name}.start", start, place), ends, axes)


def _factors(spec: FrontendSpec) -> tuple[int, int]:
    """Points of the first and of the second transform; their product is ``fft_samples``."""
    first: int = 1 << (spec.fft_samples.bit_length() // 2)
    return first, spec.fft_samples // first


def _power(graph: Graph, spec: FrontendSpec, tapered: str) -> str:
    """Frames [samples, batch, frames] → powers [bins, batch · frames] in the order of ``_list_bins``.

    With sample n = N₂ n₁ + n₂ and bin k = k₁ + N₁ k₂: first N₁ points over n₁ for each n₂, then, turned by n₂ k₁, N₂
    points over n₂. Of a real signal k₁ up to N₁ / 2 is enough: the rest is its mirror image. Frames are the last axis,
    so that both are products of few and large matrices.
    """
    first, second = _factors(spec)
    rows, columns = -(-spec.taper_samples // second), first // 2 + 1
    missing = rows * second - (spec.taper_samples - 1)
    if missing:
        tapered = graph.node("Pad", tapered, _integers(graph, "to_rows", 0, 0, 0, missing, 0, 0))
    x = graph.node("Reshape", tapered, _integers(graph, "rows", rows, -1))
    angles = -2 * np.pi * np.outer(np.arange(columns), np.arange(rows)) / first
    transform = np.stack((np.cos(angles), np.sin(angles)), axis=1).reshape(2 * columns, rows)
    x = graph.node("MatMul", graph.weight("first_transform", transform), x)
    x = graph.node("Reshape", x, _integers(graph, "columns", columns, 2 * second, -1))
    squares = []
    for name, matrices in zip(("real", "imaginary"), _second_transform(spec), strict=True):
        part = graph.cast(graph.node("MatMul", graph.weight(name, matrices), x), np.float32)
        squares.append(graph.node("Mul", part, part))
    x = graph.node("Transpose", graph.node("Add", *squares), perm=[1, 0, 2])
    return graph.node("Reshape", x, _integers(graph, "bins", columns * second, -1))


def _second_transform(spec: FrontendSpec) -> tuple[Double, Double]:
    """For each k₁, matrices [N₂, 2 N₂] from real and imaginary parts over n₂ to the real and to the imaginary parts."""
    first, second = _factors(spec)
    n2, k1 = np.arange(second), np.arange(first // 2 + 1)[:, None, None]
    angles = -2 * np.pi * (n2 * k1 / spec.fft_samples + np.outer(_order(second), n2) / second)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate((cosine, -sine), axis=2), np.concatenate((sine, cosine), axis=2)


def _order(second: int) -> NDArray[np.int64]:
    """k₂ in the order 0, N₂ − 1, 1, N₂ − 2 …, in which bins rise: those of N₂ − 1 are mirror images that follow 0's."""
    return np.stack((np.arange(second), np.arange(second)[::-1]), axis=1).ravel()[:second]


def _list_bins(spec: FrontendSpec) -> NDArray[np.int64]:
    """The bin of each row of ``_power``; those above the middle are mirror images."""
    first, second = _factors(spec)
    return np.add.outer(first * _order(second), np.arange(first // 2 + 1)).ravel()


def _sum_bins(graph: Graph, spec: FrontendSpec, power: str) -> str:
    """Powers → mel energies [mels, batch · frames]. Low filters need few bins, so they are summed in groups."""
    filters, parts = _filters_by_row(spec), []
    for number, group in enumerate(np.array_split(np.arange(spec.mel_bins), min(MEL_GROUPS, spec.mel_bins))):
        used = np.flatnonzero(filters[:, group].any(axis=1))
        start, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        bounds = (_integers(graph, f"bins_{number}.{name}", at) for name, at in (("start", start), ("end", end)))
        matrix = graph.weight(f"filters_{number}", filters[start:end, group].T)
        parts.append(graph.node("MatMul", matrix, graph.node("Slice", power, *bounds, "none")))
    return graph.node("Concat", *parts, axis=0)


def _filters_by_row(spec: FrontendSpec) -> Float:
    """`mel_filters` in the order of ``_power``'s rows; each bin counts once, its mirror image not at all."""
    first, _ = _factors(spec)
    bins = _list_bins(spec)
    mirrored = bins > spec.fft_samples // 2
    filters = mel_filters(spec)[np.where(mirrored, spec.fft_samples - bins, bins)]
    filters[mirrored & np.isin(bins % first, (0, first // 2))] = 0  # there both a bin and its mirror image are listed
    return filters
