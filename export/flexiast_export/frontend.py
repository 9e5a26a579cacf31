"""The front end as a graph: samples → features, from the same constants as `flexiast.frontend`.

The spectrum is a Fourier transform in two matrix products (Cooley and Tukey's first step): every runtime has MatMul,
few have DFT, and of 512 points the two take a seventh of the work of one. All before the power is float64: in float32
quiet bins beside loud ones are wrong by up to 6e-3 nat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.frontend import Frontend, mel_filters
from flexiast.manifest import OPSET
from flexiast.spec import LOG_FLOOR, FrontendSpec, Spec
from flexiast_export.graph import Graph

if TYPE_CHECKING:
    import onnx

FRONTEND = "frontend.onnx"
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
    mel = graph.node("MatMul", _power(graph, spec, tapered), graph.weight("filters", _filters_by_column(spec)))
    log_mel = graph.node("Log", graph.node("Max", mel, graph.weight("log_floor", np.float32(LOG_FLOOR))))
    centred = graph.node("Sub", log_mel, graph.weight("mean", np.float32(spec.mean)))
    features = graph.node("Div", centred, graph.weight("two_std", np.float32(2 * spec.std)))
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
    """Samples → frames without their means, pre-emphasised and tapered [batch, frames, taper_samples − 1], in float64.

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
    blocks = graph.node("Reshape", padded, shape)
    emphasised = graph.node("Reshape", graph.node("Sub", padded, scaled), shape)
    parts, sums = [], []
    for place in range(count):
        bounds = (min(hop, spec.taper_samples - place * hop), int(place == 0))
        parts.append(_shift(graph, emphasised, frames, place, *bounds))
        whole = _shift(graph, blocks, frames, place, bounds[0], 0)
        sums.append(graph.node("ReduceSum", whole, "axis_2", keepdims=1))
    total = sums[0]
    for each in sums[1:]:
        total = graph.node("Add", total, each)
    share = np.float64((1 - spec.preemphasis) / spec.taper_samples)
    centre = graph.node("Mul", total, graph.weight("emphasised_mean", share))
    centred = graph.node("Sub", graph.node("Concat", *parts, axis=2), centre)
    return graph.node("Mul", centred, graph.weight("taper", Frontend(spec).taper[1:]))


def _shift(graph: Graph, blocks: str, frames: str, place: int, width: int, start: int) -> str:
    """Of the block that stands ``place`` after each frame's first, samples ``start`` … ``width``."""
    name = f"{blocks}.{place}"
    last = graph.node("Add", frames, _integers(graph, f"{name}.place", place))
    end = graph.node("Concat", last, _integers(graph, f"{name}.width", width), axis=0)
    axes = _integers(graph, f"{name}.axes", 1, 2)
    return graph.node("Slice", blocks, _integers(graph, f"{name}.start", place, start), end, axes)


def _factors(spec: FrontendSpec) -> tuple[int, int]:
    """Points of the first and of the second transform; their product is ``fft_samples``."""
    first: int = 1 << (spec.fft_samples.bit_length() // 2)
    return first, spec.fft_samples // first


def _power(graph: Graph, spec: FrontendSpec, tapered: str) -> str:
    """Frames → powers [batch · frames, bins] in the order of ``_bins``.

    With sample n = N₂ n₁ + n₂ and bin k = k₁ + N₁ k₂: first N₁ points over n₁ for each n₂, then, turned by n₂ k₁, N₂
    points over n₂. Of a real signal k₁ up to N₁ / 2 is enough: the rest is its mirror image.
    """
    first, second = _factors(spec)
    rows, columns = -(-spec.taper_samples // second), first // 2 + 1
    missing = rows * second - (spec.taper_samples - 1)
    if missing:
        tapered = graph.node("Pad", tapered, _integers(graph, "to_rows", 0, 0, 0, 0, 0, missing))
    x = graph.node("Reshape", tapered, _integers(graph, "rows", -1, rows, second))
    angles = -2 * np.pi * np.outer(np.arange(columns), np.arange(rows)) / first
    transform = np.stack((np.cos(angles), np.sin(angles)), axis=1).reshape(2 * columns, rows)
    x = graph.node("MatMul", graph.weight("first_transform", transform), x)
    x = graph.node("Reshape", x, _integers(graph, "columns", -1, columns, 2 * second))
    x = graph.node("Transpose", x, perm=[1, 0, 2])
    squares = []
    for name, matrices in zip(("real", "imaginary"), _second_transform(spec), strict=True):
        part = graph.cast(graph.node("MatMul", x, graph.weight(name, matrices)), np.float32)
        squares.append(graph.node("Mul", part, part))
    x = graph.node("Transpose", graph.node("Add", *squares), perm=[1, 0, 2])
    return graph.node("Reshape", x, _integers(graph, "bins", -1, columns * second))


def _second_transform(spec: FrontendSpec) -> tuple[Double, Double]:
    """For each k₁, matrices [2 N₂, N₂] from real and imaginary parts over n₂ to the real and to the imaginary parts."""
    first, second = _factors(spec)
    n2, k1 = np.arange(second), np.arange(first // 2 + 1)[:, None, None]
    angles = -2 * np.pi * (n2[:, None] * k1 / spec.fft_samples + np.outer(n2, n2) / second)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate((cosine, -sine), axis=1), np.concatenate((sine, cosine), axis=1)


def _filters_by_column(spec: FrontendSpec) -> Float:
    """`mel_filters` in the order of ``_power``'s bins; each bin counts once, its mirror image not at all."""
    first, second = _factors(spec)
    bins = np.add.outer(np.arange(first // 2 + 1), first * np.arange(second))
    mirrored = bins > spec.fft_samples // 2
    filters = mel_filters(spec)[np.where(mirrored, spec.fft_samples - bins, bins)]
    filters[mirrored & np.isin(bins % first, (0, first // 2))] = 0  # there both a bin and its mirror image are listed
    return filters.reshape(-1, spec.mel_bins)
