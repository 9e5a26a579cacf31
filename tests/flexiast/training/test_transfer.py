"""Weights carried from one model to another: what stays, what is resized, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weight_shapes
from flexiast.errors import ModelError
from flexiast.networks import TorchClassifier, build_model, load_model
from flexiast.patching import patch_matrices
from flexiast.spec import NetworkSpec, PatchSize, ResizeSpec, Spec
from flexiast.training.transfer import changes, check_transfer, transfer_weights

Float = NDArray[np.float32]
MakeSpec = Callable[..., Spec]

PATCHES = (PatchSize(8, 8), PatchSize(16, 16), PatchSize(24, 10))


def random_checkpoint(spec: Spec) -> Checkpoint:
    rng = np.random.default_rng(1)
    shapes = weight_shapes(spec)
    weights = {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in weights.items():
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "running_var")):
            weights[name] = 1 + abs(value)  # else every norm would take most of the signal
    return Checkpoint(spec, weights)


def carried(source: Checkpoint, spec: Spec) -> Checkpoint:
    """The spec's freshly built model with what was transferred, as a run starts."""
    model = build_model(spec)
    fresh = {name: value.numpy() for name, value in model.state_dict().items() if value.is_floating_point()}
    found = transfer_weights(source, spec)
    assert {name: value.shape for name, value in found.items()} == {name: fresh[name].shape for name in found}
    return Checkpoint(spec, fresh | found)


def features_of(spec: Spec, clips: int = 3) -> Float:
    shape = (clips, spec.frontend.window_frames, spec.frontend.mel_bins)
    return np.random.default_rng(2).normal(scale=0.5, size=shape).astype(np.float32)


def logits(checkpoint: Checkpoint, features: Float, patch: PatchSize) -> Float:
    model = load_model(checkpoint)
    return TorchClassifier(model).logits(features, patch)


# ----- what stays


@pytest.mark.parametrize(
    "fields",
    [{}, {"base_patch": PatchSize(12, 20)}, {"resize": ResizeSpec(kernel="cubic")}, {"base_stride": PatchSize(10, 10)}],
    ids=["default", "base size", "cubic", "overlap"],
)
def test_a_model_carried_to_its_own_spec_answers_the_same(build_spec: MakeSpec, fields: dict[str, Any]) -> None:
    source = random_checkpoint(build_spec(**fields))
    found = transfer_weights(source, source.spec)
    assert found.keys() == source.weights.keys()
    for name, value in found.items():
        # a matrix of the identity that went through an SVD in float64, then float32
        np.testing.assert_allclose(value, source.weights[name], rtol=0, atol=1e-6)
    features = features_of(source.spec)
    for patch in PATCHES:
        expected = logits(source, features, patch)
        assert np.ptp(expected) > 0.1
        # the rounding above, through the network
        np.testing.assert_allclose(logits(carried(source, source.spec), features, patch), expected, atol=1e-4)


@given(st.sampled_from([("high", "low", "mid"), ("low", "high"), ("a", "b")]))
def test_other_labels_begin_with_a_head_anew_and_all_else_kept(build_spec: MakeSpec, labels: tuple[str, ...]) -> None:
    source = random_checkpoint(build_spec())
    found = transfer_weights(source, build_spec(labels=labels))
    assert source.weights.keys() - found.keys() == {"head.weight", "head.bias"}
    assert all(np.allclose(found[name], source.weights[name], rtol=0, atol=1e-6) for name in found)


def test_the_head_stays_for_the_same_labels_whatever_else_differs(build_spec: MakeSpec) -> None:
    source = random_checkpoint(build_spec())
    spec = build_spec(60, base_patch=PatchSize(8, 8), trained_patches=PATCHES[:1])
    found = transfer_weights(source, spec)
    assert np.array_equal(found["head.weight"], source.weights["head.weight"])


def test_the_source_is_not_touched(build_spec: MakeSpec) -> None:
    source = random_checkpoint(build_spec())
    before = {name: value.copy() for name, value in source.weights.items()}
    transfer_weights(source, build_spec(60, base_patch=PatchSize(8, 8), labels=("a",)))
    assert source.weights.keys() == before.keys()
    assert all(np.array_equal(source.weights[name], value) for name, value in before.items())


def test_a_norm_of_the_head_is_part_of_the_body(build_spec: MakeSpec) -> None:
    network = NetworkSpec(width=16, depth=1, heads=2, prefix_tokens=2, head_norm=True)
    source = random_checkpoint(build_spec(network=network))
    found = transfer_weights(source, build_spec(network=network, labels=("a", "b", "c")))
    assert {"distillation", "head_norm.weight", "head_norm.bias"} <= found.keys()
    assert not {"head.weight", "head.bias"} & found.keys()


def test_a_start_without_labels_lends_its_body(build_spec: MakeSpec, tmp_path: Path) -> None:
    start = build_spec(labels=())
    save_checkpoint(tmp_path / "start.safetensors", random_checkpoint(start))
    source = load_checkpoint(tmp_path / "start.safetensors", start=True)
    spec = build_spec(labels=("a", "b", "c"))
    answers = logits(carried(source, spec), features_of(spec), PATCHES[1])
    assert (answers == 0).all()  # a head of zeros says nothing yet
    assert transfer_weights(source, spec).keys() == source.weights.keys()


def test_a_convolutional_network_keeps_its_statistics(build_spec: MakeSpec) -> None:
    network = NetworkSpec(kind="convolutional", width=16, depth=1, heads=1)
    source = random_checkpoint(build_spec(network=network))
    found = transfer_weights(source, build_spec(60, network=network, labels=("a", "b", "c")))
    assert source.weights.keys() - found.keys() == {"head.weight", "head.bias"}
    assert all(np.array_equal(found[name], source.weights[name]) for name in found)


# ----- the kernel at another base size

SIZES = st.builds(PatchSize, st.integers(4, 32), st.integers(4, 32))


@given(SIZES, SIZES, st.sampled_from([ResizeSpec(), ResizeSpec(kernel="cubic"), ResizeSpec(antialias=False)]))
def test_the_kernel_of_another_base_size_is_pi_resized(
    build_spec: MakeSpec, old: PatchSize, new: PatchSize, resize: ResizeSpec
) -> None:
    source = random_checkpoint(build_spec(base_patch=old, resize=resize))
    found = transfer_weights(source, build_spec(base_patch=new, resize=resize))["embedding.kernel"]
    # what the source itself would use at that size: the model at patch size `new`
    expected = patch_matrices(source.spec, new).kernel(source.weights["embedding.kernel"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32 products of float64 matrices


def test_a_larger_kernel_answers_resized_sounds_as_the_smaller_one_did(build_spec: MakeSpec) -> None:
    """What PI-resize is for, with torch's own resize: ⟨resized patch, resized kernel⟩ = ⟨patch, kernel⟩."""
    source = random_checkpoint(build_spec(base_patch=PatchSize(8, 8)))
    found = transfer_weights(source, build_spec(base_patch=PatchSize(16, 12)))["embedding.kernel"]
    patch = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 1, 8, 8)))
    larger = F.interpolate(patch, (16, 12), mode="bilinear", antialias=True).numpy()[0, 0]
    expected = (source.weights["embedding.kernel"] * patch.numpy()[0, 0]).sum(axis=(1, 2))
    np.testing.assert_allclose(
        (found * larger).sum(axis=(1, 2)), expected, rtol=0, atol=1e-4
    )  # 192 products in float32


# ----- positions


def positions(source: Checkpoint, spec: Spec) -> Float:
    found: Float = transfer_weights(source, spec)["embedding.positions"]
    return found


@given(st.integers(16, 98))
def test_a_shorter_window_keeps_the_positions_of_its_places(build_spec: MakeSpec, frames: int) -> None:
    source = random_checkpoint(build_spec(98))
    found = positions(source, build_spec(frames))
    columns = -(-frames // 16)
    # the first patches stand where they stood; exact but for float32
    np.testing.assert_allclose(found, source.weights["embedding.positions"][:, :columns], rtol=0, atol=1e-6)


@given(st.integers(99, 300))
def test_a_longer_window_stretches_the_positions_along_time(build_spec: MakeSpec, frames: int) -> None:
    source = random_checkpoint(build_spec(98))
    found = positions(source, build_spec(frames))
    grid = torch.from_numpy(source.weights["embedding.positions"]).permute(2, 0, 1)[None]
    size = (grid.shape[2], -(-frames // 16))
    expected = F.interpolate(grid, size, mode="bilinear")[0].permute(1, 2, 0)  # as AST does
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32


@given(SIZES, SIZES)
def test_a_start_answers_at_its_new_base_size_as_the_source_did_there(
    build_spec: MakeSpec, old: PatchSize, new: PatchSize
) -> None:
    source = random_checkpoint(build_spec(base_patch=old))
    start = carried(source, build_spec(base_patch=new))
    expected = patch_matrices(source.spec, new).positions(source.weights["embedding.positions"])
    found = start.weights["embedding.positions"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-6)  # float32
    features = features_of(source.spec)
    # float32; kernels are resized once in both
    np.testing.assert_allclose(logits(start, features, new), logits(source, features, new), rtol=0, atol=1e-4)


def test_positions_of_overlapping_patches_are_those_of_the_same_places(build_spec: MakeSpec) -> None:
    """An imported model's patches overlap, a run's do not: the centres are 8, 18, 28 … and 8, 24, 40 …"""
    source = random_checkpoint(build_spec(base_stride=PatchSize(10, 10)))
    found = positions(source, build_spec())
    grid = source.weights["embedding.positions"]
    np.testing.assert_allclose(found[0, 0], grid[0, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0, 5], grid[0, 8], rtol=0, atol=1e-6)  # 88 frames
    np.testing.assert_allclose(found[5, 0], grid[8, 0], rtol=0, atol=1e-6)  # 88 mel bins
    np.testing.assert_allclose(found[0, 1], 0.4 * grid[0, 1] + 0.6 * grid[0, 2], rtol=0, atol=1e-6)  # 24 of 18 and 28


# ----- what is told


def test_what_is_not_taken_over_as_it_is_is_told(build_spec: MakeSpec) -> None:
    spec = build_spec()
    assert changes(spec, spec) == []
    assert changes(build_spec(98), build_spec(40)) == []
    assert changes(spec, build_spec(120, base_patch=PatchSize(16, 32), labels=("a",))) == [
        "kernel PI-resized from 16x16 to 16x32",
        "positions interpolated at the centres of the new patches",
        "positions stretched along time for a longer window",
        "head started anew for other labels",
    ]
    overlapping = build_spec(base_stride=PatchSize(10, 10))
    assert changes(overlapping, spec) == ["positions interpolated at the centres of the new patches"]
    with_pcen = build_spec(pcen=True)
    assert changes(build_spec(), with_pcen) == ["its weights meet other input: PCEN"]
    assert changes(with_pcen, build_spec()) == ["its weights meet other input: log-mels without PCEN"]


# ----- what is refused


@pytest.mark.parametrize(
    ("network", "difference"),
    [
        (NetworkSpec(width=32, depth=1, heads=2), "width 16, the run's has 32"),
        (NetworkSpec(width=16, depth=2, heads=2), "depth 1, the run's has 2"),
        (NetworkSpec(width=16, depth=1, heads=4), "heads 2, the run's has 4"),
        (NetworkSpec(width=16, depth=1, heads=2, head_norm=True), "head_norm False, the run's has True"),
        (NetworkSpec(kind="convolutional", width=16, depth=1, heads=1), "kind transformer, the run's has conv"),
    ],
)
def test_another_network_is_refused(build_spec: MakeSpec, network: NetworkSpec, difference: str) -> None:
    source = random_checkpoint(build_spec())
    with pytest.raises(ModelError, match=f"the start is a network of {difference}"):
        transfer_weights(source, build_spec(network=network))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate_hz", 32_000),
        ("taper_samples", 512),
        ("hop_samples", 200),
        ("low_hz", 50.0),
        ("high_hz", 7_000.0),
        ("preemphasis", 0.0),
        ("mel_bins", 64),
    ],
)
def test_another_front_end_is_refused_by_name(build_spec: MakeSpec, field: str, value: float) -> None:
    source = build_spec()
    spec = source.model_copy(update={"frontend": source.frontend.model_copy(update={field: value})})
    with pytest.raises(ModelError, match=f"with {field} .*, the run has {value}"):
        check_transfer(source, spec)


@pytest.mark.parametrize("field", ["mean", "std", "window_samples", "remove_bin_means"])
def test_what_a_run_measures_or_chooses_anew_may_differ(build_spec: MakeSpec, field: str) -> None:
    source = random_checkpoint(build_spec())
    values = {"mean": 3.0, "std": 2.0, "window_samples": 8_000, "remove_bin_means": True}
    frontend = source.spec.frontend.model_copy(update={field: values[field]})
    spec = source.spec.model_copy(update={"frontend": frontend})
    assert transfer_weights(source, spec).keys() == source.weights.keys()


# ----- a class for nothing


def test_a_class_for_nothing_is_added_without_touching_the_labels(build_spec: MakeSpec) -> None:
    source = random_checkpoint(build_spec())
    spec = build_spec(nothing_class=True)
    assert changes(source.spec, spec) == ["a class for nothing added"]
    found = logits(carried(source, spec), features_of(spec), PATCHES[1])
    # kernel and positions through the identity that went through an SVD in float64, then float32
    np.testing.assert_allclose(found[:, :2], logits(source, features_of(spec), PATCHES[1]), atol=1e-4)
    assert (found[:, 2] == 0).all()


def test_a_class_for_nothing_is_kept_or_dropped(build_spec: MakeSpec) -> None:
    source = random_checkpoint(build_spec(nothing_class=True))
    kept = transfer_weights(source, source.spec)
    np.testing.assert_array_equal(kept["head.weight"], source.weights["head.weight"])
    assert changes(source.spec, source.spec) == []
    dropped = transfer_weights(source, build_spec())
    np.testing.assert_array_equal(dropped["head.weight"], source.weights["head.weight"][:2])
    np.testing.assert_array_equal(dropped["head.bias"], source.weights["head.bias"][:2])
    assert changes(source.spec, build_spec()) == ["its class for nothing dropped"]


# ----- a head with several rows a class


@pytest.mark.parametrize("nothing_class", [True, False])
def test_a_run_starts_with_one_row_a_class(build_spec: MakeSpec, nothing_class: bool) -> None:
    source = random_checkpoint(build_spec(nothing_class=True, extra_rows=(2, 0)))
    spec = build_spec(nothing_class=nothing_class)
    found = transfer_weights(source, spec)
    np.testing.assert_array_equal(found["head.weight"], source.weights["head.weight"][: spec.classes])
    np.testing.assert_array_equal(found["head.bias"], source.weights["head.bias"][: spec.classes])
    assert changes(source.spec, spec)[-1] == "what it had learnt from verdicts dropped (2 rows of its head)"
