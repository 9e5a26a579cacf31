"""A checkpoint: one safetensors file that holds the weights and, as metadata, the spec. Never pickle.

Reading needs numpy only, so engines can be exported on a machine without torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from flexiast.arrays import Float
from flexiast.errors import ModelError
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.spec import MLP_RATIO, Spec, describe

KIND = "flexiast-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A spec, the weights it describes, and what is known of their making (data, seed, metrics, versions)."""

    spec: Spec
    weights: dict[str, Float]
    info: dict[str, Any] = field(default_factory=dict)


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of a spec; linear weights are [out, in]."""
    if spec.network.kind == "convolutional":
        return _convolutional_shapes(spec)
    width, hidden = spec.network.width, MLP_RATIO * spec.network.width
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.kernel": (width, *spec.base_patch),
        "embedding.bias": (width,),
        "embedding.positions": (*spec.base_grid, width),
        "cls": (width,),
    }
    if spec.network.prefix_tokens == 2:
        shapes["distillation"] = (width,)
    for block in range(spec.network.depth):
        for name, out, into in (
            ("qkv", 3 * width, width),
            ("projection", width, width),
            ("expand", hidden, width),
            ("contract", width, hidden),
        ):
            shapes |= {f"blocks.{block}.{name}.weight": (out, into), f"blocks.{block}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.weight": (width,), f"blocks.{block}.{name}.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    if spec.network.head_norm:
        shapes |= {"head_norm.weight": (width,), "head_norm.bias": (width,)}
    if spec.labels:
        shapes |= {"head.weight": (spec.head_rows, width), "head.bias": (spec.head_rows,)}
    return shapes


def _convolutional_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    channels = spec.network.channels
    norms = {"input_norm": spec.frontend.mel_bins, "stem.norm": channels[0]}
    shapes: dict[str, tuple[int, ...]] = {"stem.convolution.weight": (channels[0], 1, 3, 3)}
    for stage, (before, after) in enumerate(pairwise(channels)):
        for place, into in enumerate((before, after)):
            shapes[f"stages.{stage}.{place}.convolution.weight"] = (after, into, 3, 3)
            norms[f"stages.{stage}.{place}.norm"] = after
    for name, width in norms.items():
        shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"head.weight": (spec.classes, channels[-1]), "head.bias": (spec.classes,)}


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write by rename: the path holds the old checkpoint or the new one, never half of it.

    With ``half`` the matrices, 94 % and more of a transformer, are rounded to float16. Vectors, the kernel and the
    positions stay float32: they cost little, and what is resized to every patch size keeps its digits.

    Raises ModelError for weights that `load_checkpoint` would refuse.
    """
    check_weights(path, checkpoint.weights, checkpoint.spec)
    safetensors = require("safetensors.numpy", "train")
    metadata = {
        "kind": KIND,
        "spec": checkpoint.spec.model_dump_json(),
        "info": json.dumps(checkpoint.info, sort_keys=True),
    }
    weights: dict[str, NDArray[Any]] = dict(checkpoint.weights)
    if half:
        weights = {name: _half(path, name, value) if value.ndim == 2 else value for name, value in weights.items()}
    contiguous = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    write_atomically(path, safetensors.save(contiguous, metadata))


def load_checkpoint(path: Path, *, start: bool = False) -> Checkpoint:
    """Read and check against the spec it carries; raises ModelError that says what differs.

    Weights are float32 whatever the file holds. A checkpoint without labels is a start for training and is read only
    where one will do, with ``start``.
    """
    safetensors = require("safetensors", "train")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_kind(path, metadata)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; give a checkpoint written by `flexiast train`") from None
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise ModelError(
            f"{path} is not a flexiast checkpoint: {error}; expected a .safetensors file written by `flexiast train`"
        ) from error
    try:
        spec = Spec.model_validate_json(metadata["spec"])
        info = TypeAdapter(dict[str, Any]).validate_json(metadata.get("info", "{}"))
    except ValidationError as error:
        raise ModelError(
            f"{path}: the stored spec cannot be read by this version of flexiast: {describe(error)}"
        ) from error
    if not spec.labels and not start:
        raise ModelError(
            f"{path} has no labels: it is a start for training only; train it on your sounds with "
            f"`flexiast train SOUNDS --init {path}`"
        )
    weights = {name: _single(value) for name, value in weights.items()}
    check_weights(path, weights, spec)
    return Checkpoint(spec, weights, info)


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Hash of names, shapes and bytes of all weights: which model this is, whatever its file is called."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.weights):
        value = checkpoint.weights[name]
        digest.update(f"{name} {value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _half(path: Path, name: str, value: Float) -> NDArray[np.float16]:
    if np.abs(value).max() > np.finfo(np.float16).max:
        raise ModelError(f"{path}: {name} holds values beyond float16's 65,504; save it in float32")
    return value.astype(np.float16)


def _single(value: NDArray[Any]) -> NDArray[Any]:
    """A matrix that `save_checkpoint` halved, in float32 again."""
    return value.astype(np.float32) if value.dtype == np.float16 and value.ndim == 2 else value


def _check_kind(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("kind") != KIND or "spec" not in metadata:
        raise ModelError(
            f"{path} is a safetensors file without a flexiast spec; expected a checkpoint written by `flexiast train`"
        )


def check_weights(path: Path, weights: dict[str, NDArray[Any]], spec: Spec) -> None:
    """Raise ModelError unless these are the spec's weights: names, shapes, float32, finite."""
    expected = weight_shapes(spec)
    differences = [f"missing {name}" for name in sorted(expected.keys() - weights.keys())]
    differences += [f"unknown {name}" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        value = weights[name]
        if value.shape != expected[name]:
            differences.append(f"{name} has shape {value.shape}, the spec says {expected[name]}")
        elif value.dtype != np.float32:
            differences.append(f"{name} has dtype {value.dtype}, expected float32")
        elif not np.isfinite(value).all():
            differences.append(f"{name} holds values that are not finite")
    if differences:
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ModelError(f"{path} does not fit its spec: {listed}")
