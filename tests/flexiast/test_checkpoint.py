"""Checkpoints: what is written comes back, and nothing else is read."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from flexiast.checkpoint import (
    KIND,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    weight_shapes,
    weights_sha256,
)
from flexiast.errors import ModelError
from flexiast.spec import PRESETS, Spec

Weights = dict[str, NDArray[Any]]


@pytest.fixture
def checkpoint(build_spec: Callable[..., Spec]) -> Checkpoint:
    spec, rng = build_spec(), np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    return Checkpoint(spec, weights, {"seed": 3, "data": "two tones", "validation": [{"accuracy": 0.5}]})


@pytest.fixture
def written(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, checkpoint)
    return path


def write_raw(path: Path, weights: Weights, spec_json: str) -> Path:
    """A safetensors file that ``save_checkpoint`` need not agree with."""
    safetensors.numpy.save_file(weights, path, {"kind": KIND, "spec": spec_json})
    return path


# ----- round trip


def test_weights_spec_and_info_come_back_bit_for_bit(checkpoint: Checkpoint, written: Path) -> None:
    read = load_checkpoint(written)
    assert (read.spec, read.info) == (checkpoint.spec, checkpoint.info)
    assert read.weights.keys() == checkpoint.weights.keys()
    for name, value in checkpoint.weights.items():
        assert read.weights[name].dtype == np.float32
        assert read.weights[name].tobytes() == value.tobytes(), name


def test_weights_in_any_memory_order_are_written_by_value(checkpoint: Checkpoint, tmp_path: Path) -> None:
    fortran = {name: np.asfortranarray(value) for name, value in checkpoint.weights.items()}
    save_checkpoint(tmp_path / "new folder" / "c.safetensors", Checkpoint(checkpoint.spec, fortran))
    read = load_checkpoint(tmp_path / "new folder" / "c.safetensors")
    assert weights_sha256(read) == weights_sha256(checkpoint)


def test_torch_reads_the_same_weights(checkpoint: Checkpoint, written: Path) -> None:
    # a second reader: a user's own script
    with safetensors.safe_open(written, framework="pt") as file:
        assert torch.equal(file.get_tensor("cls"), torch.from_numpy(checkpoint.weights["cls"]))


def test_half_rounds_the_matrices_and_nothing_else(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, checkpoint, half=True)
    read = load_checkpoint(path)
    assert (read.spec, read.info) == (checkpoint.spec, checkpoint.info)
    for name, value in checkpoint.weights.items():
        expected = value.astype(np.float16).astype(np.float32) if value.ndim == 2 else value
        assert read.weights[name].dtype == np.float32
        assert np.array_equal(read.weights[name], expected), name
    save_checkpoint(tmp_path / "again.safetensors", read, half=True)
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert weights_sha256(again) == weights_sha256(read)  # rounding again changes nothing


@pytest.mark.parametrize("preset", ["nano", "base"])
def test_a_half_file_is_half_the_size(preset: str, build_spec: Callable[..., Spec]) -> None:
    shapes = weight_shapes(build_spec(frames=498, network=PRESETS[preset])).values()
    matrices = sum(math.prod(shape) for shape in shapes if len(shape) == 2)
    assert matrices / sum(math.prod(shape) for shape in shapes) > 0.93


def test_what_float16_cannot_hold_is_not_halved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = checkpoint.weights | {"head.weight": checkpoint.weights["head.weight"] * np.float32(1e6)}
    with pytest.raises(ModelError, match=r"head\.weight holds values beyond float16's 65,504"):
        save_checkpoint(tmp_path / "half.safetensors", Checkpoint(checkpoint.spec, weights), half=True)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_labels_is_read_as_a_start_only(
    checkpoint: Checkpoint, build_spec: Callable[..., Spec], tmp_path: Path
) -> None:
    body = {name: value for name, value in checkpoint.weights.items() if not name.startswith("head.")}
    path = tmp_path / "start.safetensors"
    save_checkpoint(path, Checkpoint(build_spec(labels=()), body))
    assert load_checkpoint(path, start=True).weights.keys() == body.keys()
    with pytest.raises(ModelError, match=r"no labels: it is a start for training only; .* --init"):
        load_checkpoint(path)


# ----- identity


def test_the_hash_is_of_the_weights_alone(checkpoint: Checkpoint) -> None:
    shuffled = dict(reversed(checkpoint.weights.items()))
    assert weights_sha256(Checkpoint(checkpoint.spec, shuffled, {"note": "other"})) == weights_sha256(checkpoint)


def test_the_hash_changes_with_the_last_bit_of_any_weight(checkpoint: Checkpoint) -> None:
    hashes = {weights_sha256(checkpoint)}
    for name, value in checkpoint.weights.items():
        nudged = value.copy()
        nudged.flat[-1] = np.nextafter(nudged.flat[-1], np.float32(np.inf))
        hashes.add(weights_sha256(Checkpoint(checkpoint.spec, checkpoint.weights | {name: nudged})))
    assert len(hashes) == 1 + len(checkpoint.weights)


def test_the_hash_changes_with_names_and_shapes(checkpoint: Checkpoint) -> None:
    weights = checkpoint.weights
    swapped = weights | {"cls": weights["norm.bias"], "norm.bias": weights["cls"]}
    reshaped = weights | {"cls": weights["cls"].reshape(2, 8)}
    hashes = {weights_sha256(Checkpoint(checkpoint.spec, variant)) for variant in (weights, swapped, reshaped)}
    assert len(hashes) == 3


# ----- what is refused


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.safetensors does not exist; .*flexiast train"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a flexiast checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("metadata", [{}, {"kind": "another-model", "spec": "{}"}, {"kind": KIND}], ids=str)
def test_a_safetensors_file_of_another_kind_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"cls": np.zeros(16, np.float32)}, path, metadata or None)
    with pytest.raises(ModelError, match="without a flexiast spec"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999], ids=lambda kept: f"{kept:.1%}")
def test_a_truncated_file_is_refused(written: Path, kept: float) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelError, match="is not a flexiast checkpoint"):
        load_checkpoint(written)


def test_a_spec_of_another_version_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    newer = checkpoint.spec.model_dump_json().replace('"schema_version":"1.0"', '"schema_version":"2.0"')
    path = write_raw(tmp_path / "newer.safetensors", checkpoint.weights, newer)
    with pytest.raises(ModelError, match=r"(?s)spec cannot be read by this version.*schema_version"):
        load_checkpoint(path)


def without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


def with_a_nan(weights: Weights, name: str) -> Weights:
    value = weights[name].copy()
    value.flat[0] = np.nan
    return weights | {name: value}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: without(weights, "cls"), "missing cls"),
        (lambda weights: weights | {"tail.bias": np.zeros(3, np.float32)}, "unknown tail.bias"),
        (
            lambda weights: weights | {"cls": weights["cls"].reshape(4, 4)},
            r"cls has shape \(4, 4\), the spec says \(16,\)",
        ),
        (
            lambda weights: weights | {"norm.bias": weights["norm.bias"].astype(np.float16)},
            "norm.bias has dtype float16, expected float32",
        ),
        (
            lambda weights: weights | {"norm.bias": weights["norm.bias"].astype(np.float64)},
            "norm.bias has dtype float64, expected float32",
        ),
        (
            lambda weights: with_a_nan(weights, "blocks.0.qkv.bias"),
            "blocks.0.qkv.bias holds values that are not finite",
        ),
    ],
    ids=["missing", "unknown", "misshaped", "float16", "float64", "nan"],
)
def test_weights_that_do_not_fit_are_named(
    checkpoint: Checkpoint, tmp_path: Path, damage: Callable[[Weights], Weights], message: str
) -> None:
    path = write_raw(tmp_path / "damaged.safetensors", damage(checkpoint.weights), checkpoint.spec.model_dump_json())
    with pytest.raises(ModelError, match=f"does not fit its spec: {message}$"):
        load_checkpoint(path)


def test_many_differences_are_counted_not_listed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = write_raw(
        tmp_path / "empty.safetensors", {"cls": checkpoint.weights["cls"]}, checkpoint.spec.model_dump_json()
    )
    with pytest.raises(ModelError, match=f"and {len(checkpoint.weights) - 1 - 5} more$"):
        load_checkpoint(path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))], ids=["pt", "pickle"]
)
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, save: Callable[[Trap, Path], Any]) -> None:
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    save(Trap(marker), path)
    with pytest.raises(ModelError, match="is not a flexiast checkpoint"):
        load_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if path.read_bytes().startswith(b"PK") else pickle.loads(path.read_bytes())
    assert marker.exists()  # the trap works, so that its silence above means something
