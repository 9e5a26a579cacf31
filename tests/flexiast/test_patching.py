"""The matrices of a patch size, against torch's interpolate and direct least squares."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from flexiast.errors import UsageError
from flexiast.patching import Axis, axes, patch_matrices, pi_resize_matrix, position_matrix, resize_matrix
from flexiast.spec import PatchSize, ResizeSpec, Spec

SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
PAIRS = tuple(product(SIZES, SIZES))
RECTANGLES = tuple(
    PatchSize(*pair) for pair in ((8, 48), (48, 8), (16, 32), (32, 16), (10, 24), (24, 10), (128, 2), (1, 98))
)
PATCHES = tuple(PatchSize(size, size) for size in SIZES) + RECTANGLES

BASES = pytest.mark.parametrize(
    "base", [PatchSize(size, size) for size in SIZES] + [PatchSize(8, 24), PatchSize(32, 10)], ids=str
)

LINEAR = ResizeSpec()
RESIZES = pytest.mark.parametrize(
    "resize",
    [ResizeSpec(kernel=kernel, antialias=antialias) for kernel in ("linear", "cubic") for antialias in (True, False)],
    ids=lambda resize: f"{resize.kernel}-{'antialias' if resize.antialias else 'plain'}",
)

ROUNDING = 1e-10
"""float64: every resize matrix here has a condition number under 3, so a pseudo-inverse costs few digits."""


def torch_resize(images: NDArray[np.float64], size: tuple[int, int], resize: ResizeSpec) -> NDArray[np.float64]:
    """[n, mels, frames] → [n, *size] by torch."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}[resize.kernel]
    batch = torch.from_numpy(images)[:, None]
    resized = functional.interpolate(batch, size, mode=mode, align_corners=False, antialias=resize.antialias)
    return resized[:, 0].numpy()


# ----- resize of an axis


@RESIZES
def test_the_resize_of_an_axis_is_torchs_interpolate(resize: ResizeSpec) -> None:
    for source, target in PAIRS:
        # rows of height 1: torch 2.11 resizes columns of width 1 wrongly with antialias
        by_torch = torch_resize(np.eye(source)[:, None, :], (1, target), resize)[:, 0, :].T
        np.testing.assert_allclose(
            resize_matrix(source, target, resize), by_torch, atol=ROUNDING, err_msg=f"{source} → {target}"
        )


@RESIZES
def test_a_constant_stays_constant_when_resized(resize: ResizeSpec) -> None:
    for source, target in PAIRS:
        np.testing.assert_allclose(resize_matrix(source, target, resize).sum(axis=1), 1, atol=ROUNDING)


# ----- PI-resize


@RESIZES
def test_a_grown_kernel_answers_a_grown_patch_as_the_kernel_answers_the_patch(resize: ResizeSpec) -> None:
    growing = [(base, patch) for base, patch in PAIRS if patch >= base]
    pi_resize = {pair: pi_resize_matrix(*pair, resize) for pair in growing}
    rng = np.random.default_rng(0)
    for (base_mels, mels), (base_frames, frames) in product(growing, growing):
        patch, kernel = rng.normal(size=(2, base_mels, base_frames))
        grown_patch = resize_matrix(base_mels, mels, resize) @ patch @ resize_matrix(base_frames, frames, resize).T
        grown_kernel = pi_resize[base_mels, mels] @ kernel @ pi_resize[base_frames, frames].T
        error = abs((grown_patch * grown_kernel).sum() - (patch * kernel).sum())
        # the inner product of two normal patches has standard deviation √(mels · frames), at most 48
        assert error < 48 * ROUNDING, f"{base_mels}x{base_frames} → {mels}x{frames}"


def test_a_grown_kernel_answers_what_torch_resized(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(base_patch=PatchSize(8, 10))
    rng = np.random.default_rng(1)
    patch, kernel = rng.normal(size=(2, 1, 8, 10))
    for size in (PatchSize(8, 10), PatchSize(16, 16), PatchSize(10, 48), PatchSize(128, 98)):
        grown_kernel = patch_matrices(spec, size).kernel(kernel)
        answer = (torch_resize(patch, size, LINEAR) * grown_kernel).sum()
        # the stored kernel is float32: 80 products of size 1 at 6e-8 each
        np.testing.assert_allclose(answer, (patch * kernel).sum(), atol=1e-5, err_msg=str(size))


@RESIZES
def test_a_shrunk_kernel_is_the_least_squares_solution(resize: ResizeSpec) -> None:
    rng = np.random.default_rng(2)
    for base, patch in [(base, patch) for base, patch in PAIRS if patch <= base]:
        kernels = rng.normal(size=(base, 5))
        solved, *_ = np.linalg.lstsq(resize_matrix(base, patch, resize).T, kernels)
        shrunk = pi_resize_matrix(base, patch, resize) @ kernels
        np.testing.assert_allclose(shrunk, solved, atol=ROUNDING, err_msg=f"{base} → {patch}")


@RESIZES
@pytest.mark.parametrize("base", [PatchSize(16, 16), PatchSize(8, 24)], ids=str)
@pytest.mark.parametrize("patch", [PatchSize(8, 8), PatchSize(20, 20), PatchSize(10, 20), PatchSize(24, 12)], ids=str)
def test_one_axis_at_a_time_is_the_pseudo_inverse_of_the_whole_patch(
    base: PatchSize, patch: PatchSize, resize: ResizeSpec, build_spec: Callable[..., Spec]
) -> None:
    kernels = np.random.default_rng(3).normal(size=(4, *base)).astype(np.float32)
    whole = torch_resize(np.eye(base.mels * base.frames).reshape(-1, *base), patch, resize)
    whole_resize = whole.reshape(len(whole), -1).T  # [patch elements, base elements]
    # growing on one axis and shrinking on the other leaves no full rank: singular values are over 0.05 or rounding
    by_pinv = np.linalg.pinv(whole_resize.T, rcond=1e-6) @ kernels.reshape(4, -1).T
    separable = patch_matrices(build_spec(base_patch=base, resize=resize), patch).kernel(kernels)
    # kernels are handed out in float32, of size up to 5
    np.testing.assert_allclose(separable.reshape(4, -1).T, by_pinv, atol=2e-6)


def test_a_flat_kernel_answers_a_flat_patch_alike_at_every_size(build_spec: Callable[..., Spec]) -> None:
    for base in SIZES:
        spec = build_spec(base_patch=PatchSize(base, base))
        flat = np.full((1, base, base), 1 / base**2, np.float32)
        gains = [patch_matrices(spec, PatchSize(*pair)).kernel(flat).sum() for pair in PAIRS]
        # shrinking is a projection, so a flat kernel loses a little at its edges; without antialias it would lose 80 %
        assert min(gains) > 0.97, base
        assert max(gains) < 1.03, base


# ----- positions


@BASES
def test_nothing_changes_at_the_base_size(base: PatchSize, build_spec: Callable[..., Spec]) -> None:
    matrices = patch_matrices(build_spec(base_patch=base), base)
    for matrix in matrices:
        np.testing.assert_allclose(matrix, np.eye(len(matrix)), atol=ROUNDING)


@BASES
def test_positions_of_grids_with_one_extent_are_torchs_interpolate(
    base: PatchSize, build_spec: Callable[..., Spec]
) -> None:
    # 480 is a multiple of every size, so all grids end where the base grid ends and torch's stretch does nothing
    spec = build_spec(frames=480, mel_bins=480, base_patch=base)
    positions = np.random.default_rng(4).normal(size=(*spec.base_grid, 3)).astype(np.float32)
    for patch in [PatchSize(size, size) for size in SIZES] + [PatchSize(8, 48), PatchSize(40, 10)]:
        grid = torch_resize(positions.astype(np.float64).transpose(2, 0, 1), spec.grid(patch), LINEAR)
        expected = grid.reshape(3, -1).T
        np.testing.assert_allclose(patch_matrices(spec, patch).positions(positions), expected, atol=1e-6)  # float32


def side_by_side(size: int, extent: int) -> Axis:
    return Axis(size, size, -(-extent // size))


AXES = st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(64, 600))  # base, patch, extent


@given(AXES)
def test_positions_are_averages_of_base_positions(axis: tuple[int, int, int]) -> None:
    base, patch, extent = axis
    matrix = position_matrix(side_by_side(base, extent), side_by_side(patch, extent))
    assert matrix.shape == (-(-extent // patch), -(-extent // base))
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=ROUNDING)


@given(AXES)
def test_a_fine_patch_stands_at_its_true_centre(axis: tuple[int, int, int]) -> None:
    base, patch, extent = max(axis[:2]), min(axis[:2]), axis[2]
    matrix = position_matrix(side_by_side(base, extent), side_by_side(patch, extent))
    base_centres = (np.arange(matrix.shape[1]) + 0.5) * base
    # positions that grow linearly give away where a patch believes to be; beyond the outer centres nothing is known
    believed = matrix @ base_centres
    true = (np.arange(matrix.shape[0]) + 0.5) * patch
    np.testing.assert_allclose(believed, np.clip(true, base_centres[0], base_centres[-1]), atol=1e-8 * extent)


@given(AXES)
def test_a_coarse_patch_hears_every_base_position_it_covers(axis: tuple[int, int, int]) -> None:
    base, patch, extent = min(axis[:2]), max(axis[:2]), axis[2]
    matrix = position_matrix(side_by_side(base, extent), side_by_side(patch, extent))
    base_centres = (np.arange(matrix.shape[1]) + 0.5) * base
    covering = np.minimum(base_centres // patch, matrix.shape[0] - 1).astype(int)
    assert (matrix[covering, np.arange(matrix.shape[1])] > 0).all()


@given(AXES)
def test_without_overlap_positions_are_those_of_the_first_checkpoints(axis: tuple[int, int, int]) -> None:
    base, patch, extent = axis
    centres = (np.arange(-(-extent // patch)) + 0.5) * patch  # as the formula stood before patches could overlap
    base_centres = (np.arange(-(-extent // base)) + 0.5) * base
    weights = np.maximum(1 - np.abs((base_centres - centres[:, None]) / max(base, patch)), 0)
    expected = weights / weights.sum(axis=1, keepdims=True)
    assert np.array_equal(position_matrix(side_by_side(base, extent), side_by_side(patch, extent)), expected)


OVERLAPS = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))  # base, its stride, another size


@given(OVERLAPS)
def test_overlapping_patches_keep_what_is_asked_of_positions(
    build_spec: Callable[..., Spec], sizes: tuple[int, int, int]
) -> None:
    base, stride, size = sizes[0], min(sizes[:2]), sizes[2]
    spec = build_spec(base_patch=PatchSize(base, base), base_stride=PatchSize(stride, stride))
    for base_axis, axis in zip(axes(spec, spec.base_patch), axes(spec, PatchSize(size, size)), strict=True):
        np.testing.assert_array_equal(position_matrix(base_axis, base_axis), np.eye(base_axis.patches))
        matrix = position_matrix(base_axis, axis)
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=ROUNDING)
        if axis.stride <= base_axis.stride:  # a finer grid is interpolated at its true centres
            true = np.clip(axis.centres, base_axis.centres[0], base_axis.centres[-1])
            np.testing.assert_allclose(matrix @ base_axis.centres, true, atol=1e-6)


@pytest.mark.parametrize("patch", [PatchSize(129, 16), PatchSize(16, 99)], ids=str)
def test_a_patch_larger_than_a_window_is_refused(patch: PatchSize, build_spec: Callable[..., Spec]) -> None:
    with pytest.raises(UsageError, match=f"{patch} is larger than one window of 128 mel bins x 98 frames"):
        patch_matrices(build_spec(), patch)


@BASES
@pytest.mark.parametrize("frames", [98, 498])
def test_matrices_have_the_shapes_of_kernel_and_grid(
    frames: int, base: PatchSize, build_spec: Callable[..., Spec]
) -> None:
    spec = build_spec(frames, base_patch=base)
    for patch in PATCHES:
        matrices = patch_matrices(spec, patch)
        rows, columns = spec.grid(patch)
        base_rows, base_columns = spec.base_grid
        expected = [(patch.mels, base.mels), (patch.frames, base.frames), (rows, base_rows), (columns, base_columns)]
        assert [matrix.shape for matrix in matrices] == expected
