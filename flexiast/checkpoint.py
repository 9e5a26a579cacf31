"""A checkpoint: one safetensors file that holds the weights and, as metadata, the spec. Never pickle.

Reading needs numpy only, so engines can be exported on a machine without torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from flexiast.errors import ModelError
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.spec import MLP_RATIO, Spec, describe

KIND = "flexiast-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A spec, the weights it describes, and what is known of their making (data, seed, metrics, versions)."""

    spec: Spec
    weights: dict[str, NDArray[np.float32]]
    info: dict[str, Any] = field(default_factory=dict)


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of a spec; linear weights are [out, in]."""
    width, hidden = spec.network.width, MLP_RATIO * spec.network.width
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.kernel": (width, *spec.base_patch),
        "embedding.bias": (width,),
        "embedding.positions": (*spec.base_grid, width),
        "cls": (width,),
    }
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
    return shapes | {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (spec.classes, width),
        "head.bias": (spec.classes,),
    }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write by rename: the path holds the old checkpoint or the new one, never half of it.

    Raises ModelError for weights that `load_checkpoint` would refuse.
    """
    _check_weights(path, checkpoint.weights, checkpoint.spec)
    safetensors = require("safetensors.numpy", "train")
    metadata = {
        "kind": KIND,
        "spec": checkpoint.spec.model_dump_json(),
        "info": json.dumps(checkpoint.info, sort_keys=True),
    }
    weights = {name: np.ascontiguousarray(value) for name, value in checkpoint.weights.items()}
    write_atomically(path, safetensors.save(weights, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check against the spec it carries; raises ModelError that says what differs."""
    safetensors = require("safetensors", "export")
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
    _check_weights(path, weights, spec)
    return Checkpoint(spec, weights, info)


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Hash of names, shapes and bytes of all weights: which model this is, whatever its file is called."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.weights):
        value = checkpoint.weights[name]
        digest.update(f"{name} {value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _check_kind(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("kind") != KIND or "spec" not in metadata:
        raise ModelError(
            f"{path} is a safetensors file without a flexiast spec; expected a checkpoint written by `flexiast train`"
        )


def _check_weights(path: Path, weights: dict[str, NDArray[Any]], spec: Spec) -> None:
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
        raise ModelError(f"{path} does not fit the spec it carries: {listed}")
