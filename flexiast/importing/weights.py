"""Files of weights that others wrote: read without running anything, renamed without losing anything."""

from __future__ import annotations

import io
import pickle
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import ModelError
from flexiast.extras import require

Names = dict[str, tuple[str, ...]]
"""Our name of a weight or layer → theirs, whose rows make it up in this order."""


@dataclass(frozen=True)
class WeightFile:
    """Name → array of every weight in a file, and what is kept of its origin."""

    path: Path
    weights: dict[str, Float]
    sha256: str

    def rename_weights(self, names: Names, ignored: tuple[str, ...] = ()) -> dict[str, Float]:
        """The weights under our names; raises ModelError for those that are missing or unknown."""
        wanted = {name for parts in names.values() for name in parts}
        found = {name for name in self.weights if not name.startswith(ignored) or name in wanted}
        faults = [f"missing {name}" for name in sorted(wanted - found)]
        faults += [f"unknown {name}" for name in sorted(found - wanted)]
        if faults:
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise ModelError(f"{self.path} cannot be imported: {'; '.join(faults[:5])}{more}")
        try:
            return {ours: np.concatenate([self.weights[name] for name in parts]) for ours, parts in names.items()}
        except ValueError as error:  # numpy's word for shapes that do not go together
            raise ModelError(f"{self.path} cannot be imported: {error}") from error


def read_weights(path: Path) -> WeightFile:
    """Every weight in float32; raises ModelError. Nothing that is pickled but tensors is ever loaded."""
    torch = require("torch", "train")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}); give a file of weights, or the folder of a Hugging Face model"
        ) from error
    tensors = _tensors(path, content)
    for nested in ("model", "state_dict"):  # beside an optimiser's state, as DeiT's authors publish theirs
        if isinstance(tensors, dict) and isinstance(tensors.get(nested), dict):
            tensors = tensors[nested]
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise ModelError(f"{path} holds something else than named weights; give a state_dict")
    for name, value in tensors.items():
        _check_numbers(path, name, value)
    weights = {name.removeprefix("module."): value.detach().float().numpy() for name, value in tensors.items()}
    return WeightFile(path, weights, sha256(content).hexdigest())


def _check_numbers(path: Path, name: str, value: Any) -> None:
    """Raise ModelError unless the tensor holds its values as floats, one by one, or counts something."""
    torch = require("torch", "train")
    numbers = value.is_floating_point() or value.dtype is torch.int64  # nothing is quantised to 64 bits
    if not numbers or value.layout is not torch.strided or value.is_meta:
        raise ModelError(
            f"{path} holds {name} as {value.dtype} ({value.layout}, {value.device}); only dense floats can be "
            "imported, so save the state_dict of the model before it was quantised or made sparse"
        )


def _tensors(path: Path, content: bytes) -> Any:
    torch = require("torch", "train")
    safetensors = require("safetensors", "train")
    try:
        if path.suffix == ".safetensors":
            return require("safetensors.torch", "train").load(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders aloud at foreign pickles before it refuses them
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or pickles more than weights, which is never loaded; save its state_dict alone "
            "with torch.save"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        raise ModelError(f"{path} is damaged or no file of weights ({type(error).__name__}); fetch it again") from error


def pairs(layers: Names) -> Names:
    """Weight and bias of each layer."""
    return {
        f"{ours}.{kind}": tuple(f"{part}.{kind}" for part in parts)
        for ours, parts in layers.items()
        for kind in ("weight", "bias")
    }


def layers(stem: str, block: Names, depth: int) -> Names:
    return pairs(
        {
            f"blocks.{index}.{ours}": tuple(f"{stem}.{index}.{part}" for part in parts)
            for index in range(depth)
            for ours, parts in block.items()
        }
    )
