"""What every embedder of a bundle is made from: the base kernel and its companions travel as one small file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flexiast.arrays import Float
from flexiast.checkpoint import weight_shapes
from flexiast.errors import ModelError, VerificationError
from flexiast.patching import patch_matrices
from flexiast.pcen import normalize_energy, padding_value
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.bundle import Bundle

Weights = Mapping[str, Float]

EMBEDDING = "embedding.npz"


def pack(spec: Spec, weights: Weights) -> bytes:
    """The checkpoint's weights that an embedder holds, or is resized from."""
    return npz({name: weights[name] for name in _shapes(spec)})


def unpack(bundle: Bundle) -> dict[str, Float]:
    """The same from a bundle; raises ModelError and VerificationError."""
    manifest = bundle.manifest
    if manifest.embedding is None:
        raise ModelError(
            f"{bundle.folder} was made before bundles could take more sizes; export it again from its checkpoint"
        )
    weights = bundle.arrays(manifest.embedding)
    found = {name: (value.shape, value.dtype) for name, value in weights.items()}
    expected = {name: (shape, np.dtype(np.float32)) for name, shape in _shapes(manifest.spec).items()}
    if found != expected:
        raise VerificationError(f"{bundle.folder / manifest.embedding} does not fit the bundle's spec; export again")
    return weights


def tokens(spec: Spec, weights: Weights, features: Float, patch: PatchSize) -> Float:
    """What an embedder answers, in numpy's arithmetic: features [batch, frames, mels] → [batch, tokens, width]."""
    matrices, stride, (rows, columns) = patch_matrices(spec, patch), spec.stride(patch), spec.grid(patch)
    reach = ((columns - 1) * stride.frames + patch.frames, (rows - 1) * stride.mels + patch.mels)
    missing = [(0, max(0, end - size)) for end, size in zip(reach, features.shape[1:], strict=True)]
    if spec.pcen:
        features = normalize_energy(features, spec.frontend)
    padded = np.pad(features, ((0, 0), *missing), constant_values=padding_value(spec))
    patches = sliding_window_view(padded, (patch.frames, patch.mels), axis=(1, 2))
    patches = patches[:, :: stride.frames, :: stride.mels][:, :columns, :rows]
    kernel = matrices.kernel(weights["embedding.kernel"]).astype(np.float64)
    grid = np.einsum("bcrtm,wmt->brcw", patches, kernel, optimize=True).reshape(len(features), rows * columns, -1)
    grid = grid + matrices.positions(weights["embedding.positions"]) + weights["embedding.bias"]
    prefix = [weights[name] for name in ("cls", "distillation")[: spec.network.prefix_tokens]]
    return np.concatenate((np.broadcast_to(prefix, (len(grid), *np.shape(prefix))), grid), axis=1).astype(np.float32)


def npz(arrays: Mapping[str, Float]) -> bytes:
    """The same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub wants only allow_pickle's type
    return buffer.getvalue()


def _shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    return {
        name: shape
        for name, shape in weight_shapes(spec).items()
        if name.startswith("embedding.") or name in {"cls", "distillation"}
    }
