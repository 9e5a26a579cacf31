"""A patch size is four small matrices: PI-resize of the kernel, interpolation of the positions.

Everything that depends on the patch size is linear and separable in mel and time, so one axis at a time suffices:

    kernel     Ŵ = P_f W P_tᵀ    P = (Bᵀ)⁺, B the resize of one axis from base to patch size
    positions  π̂ = R_f π R_tᵀ    R samples the base grid at each patch's true centre, i · stride + size / 2

PI-resize (FlexiViT, arXiv 2212.08013): with x resized to Bx, the kernel ŵ that keeps ⟨Bx, ŵ⟩ = ⟨x, w⟩ for every patch
x is (Bᵀ)⁺ w; exact when the patch grows, the least-squares projection when it shrinks. Kernel and positions keep
their base size for ever and are always resized from it. The model, the exporter and the tests use these matrices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.spec import PatchSize, ResizeSpec, Spec


class Axis(NamedTuple):
    """Patches along one axis, sizes in bins or frames; the first begins at 0."""

    size: int
    stride: int
    patches: int

    @property
    def centres(self) -> Double:
        """[patches], in bins or frames."""
        return np.arange(self.patches, dtype=np.float64) * self.stride + self.size / 2


class PatchMatrices(NamedTuple):
    """What a patch size is: base sizes stand in the second dimension."""

    kernel_mels: Double
    """P_f [patch mels, base mels]"""
    kernel_frames: Double
    """P_t [patch frames, base frames]"""
    position_mels: Double
    """R_f [rows, base rows]"""
    position_frames: Double
    """R_t [columns, base columns]"""

    def kernel(self, kernel: Float) -> Float:
        """Kernel [width, base mels, base frames] → [width, patch mels, patch frames]."""
        return (self.kernel_mels @ kernel @ self.kernel_frames.T).astype(np.float32)

    def positions(self, positions: Float) -> Float:
        """Positions [base rows, base columns, width] → [rows · columns, width], rows first."""
        grid = np.einsum("rb,cd,bdw->rcw", self.position_mels, self.position_frames, positions)
        return grid.reshape(-1, grid.shape[-1]).astype(np.float32)


@lru_cache(maxsize=256)
def patch_matrices(spec: Spec, patch: PatchSize) -> PatchMatrices:
    """The four matrices of a patch size; raises UsageError when it is larger than a window."""
    spec.check_patch(patch)
    base = spec.base_patch
    (base_rows, base_columns), (rows, columns) = axes(spec, base), axes(spec, patch)
    matrices = PatchMatrices(
        pi_resize_matrix(base.mels, patch.mels, spec.resize),
        pi_resize_matrix(base.frames, patch.frames, spec.resize),
        position_matrix(base_rows, rows),
        position_matrix(base_columns, columns),
    )
    for matrix in matrices:  # every caller gets the same ones
        matrix.setflags(write=False)
    return matrices


def pi_resize_matrix(base: int, patch: int, resize: ResizeSpec) -> Double:
    """P = (Bᵀ)⁺ [patch, base] for one axis of the kernel."""
    return np.linalg.pinv(resize_matrix(base, patch, resize).T)


def resize_matrix(source: int, target: int, resize: ResizeSpec) -> Double:
    """B [target, source]: resizing one axis, pixel centres aligned at the edges (``align_corners=False``).

    Equals ``torch.nn.functional.interpolate`` of mode bilinear or bicubic along that axis, with or without antialias.
    """
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    stretch = max(scale, 1.0) if resize.antialias else 1.0
    if resize.kernel == "linear":
        kernel, radius = _triangle, 1
    else:
        kernel, radius = (_keys_half if resize.antialias else _keys_three_quarters), 2
    if resize.antialias:
        weights = kernel((np.arange(source) - centres[:, None]) / stretch)
    else:  # taps beyond an edge repeat the edge, as torch does without antialias
        taps = np.floor(centres)[:, None] + np.arange(1 - radius, radius + 1)
        weights = np.zeros((target, source))
        rows = np.broadcast_to(np.arange(target)[:, None], taps.shape)
        np.add.at(weights, (rows, np.clip(taps, 0, source - 1).astype(int)), kernel(taps - centres[:, None]))
    return weights / weights.sum(axis=1, keepdims=True)


def position_matrix(base: Axis, patches: Axis) -> Double:
    """R [patches, base patches]: the base grid sampled at the true centre of each patch, antialiased.

    Centres are in bins or frames, never stretched to fit, though the last patches of the two grids may end at
    different places. Coarser grids average what they cover.
    """
    return sampling_matrix(base, patches.centres, patches.stride)


def sampling_matrix(base: Axis, centres: Double, stride: int) -> Double:
    """[centres, base patches]: the base grid sampled at any centres, antialiased for patches of this stride.

    Linear interpolation where the stride is the base grid's or less. A centre beyond the reach of all patches, at an
    edge, takes the position nearest to it.
    """
    distances = np.abs(base.centres - centres[:, None])
    weights = _triangle(distances / max(base.stride, stride))
    nearest = distances == distances.min(axis=1, keepdims=True)
    weights = np.where(weights.any(axis=1, keepdims=True), weights, nearest)
    return weights / weights.sum(axis=1, keepdims=True)


def axes(spec: Spec, patch: PatchSize) -> tuple[Axis, Axis]:
    """Rows over mel and columns over time."""
    stride, (rows, columns) = spec.stride(patch), spec.grid(patch)
    return Axis(patch.mels, stride.mels, rows), Axis(patch.frames, stride.frames, columns)


def _triangle(x: Double) -> Double:
    return np.maximum(1 - np.abs(x), 0)


def _keys(x: Double, a: float) -> Double:
    """Cubic convolution kernel (Keys 1981) with slope ``a`` at 1."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _keys_half(x: Double) -> Double:
    return _keys(x, -0.5)  # torch and PIL with antialias


def _keys_three_quarters(x: Double) -> Double:
    return _keys(x, -0.75)  # torch without
