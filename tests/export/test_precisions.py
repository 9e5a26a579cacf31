"""A bundle in several precisions: one set of embedders, one encoder each, and layers that int8 would spoil."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint
from flexiast.errors import UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import PRECISIONS, Manifest, read_manifest
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize
from flexiast_export.add import add_sizes
from flexiast_export.embedding import tokens
from flexiast_export.quantize import (
    TRIED,
    count_quantized,
    float_counts,
    input_ranges,
    layers,
    rank_by_sensitivity,
    shares,
)
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import VerificationData
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import golden_key, verify_bundle

Float = NDArray[np.float32]

PATCHES = (PatchSize(16, 16), PatchSize(20, 10))


@pytest.fixture
def clips() -> list[Float]:
    rng = np.random.default_rng(0)
    return [rng.normal(scale=scale, size=6_400).astype(np.float32) for scale in (0.01, 0.1, 0.3, 0.5)]


@pytest.fixture
def calibration(tiny_checkpoint: Checkpoint, clips: list[Float]) -> Float:
    return VerificationData(tiny_checkpoint.spec, clips).features


@pytest.fixture
def export(
    tiny_checkpoint: Checkpoint, tiny_source: Classifier, calibration: Float, tmp_path: Path
) -> Callable[..., Manifest]:
    def run(checkpoint: Checkpoint = tiny_checkpoint, source: Classifier = tiny_source, **options: Any) -> Manifest:
        defaults = {"output": tmp_path / "bundle", "precisions": PRECISIONS, "calibration": calibration}
        return export_onnx(checkpoint, source, PATCHES, **defaults | options)

    return run


def with_outliers(checkpoint: Checkpoint, block: int, factor: float = 5000.0) -> Checkpoint:
    """The same function, but one feature of a norm is far larger than the rest, and is made small again by qkv."""
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    for part in ("weight", "bias"):
        weights[f"blocks.{block}.norm1.{part}"][0] *= factor
    weights[f"blocks.{block}.qkv.weight"][:, 0] /= factor
    return Checkpoint(checkpoint.spec, weights, checkpoint.info)


# ----- the bundle


def test_one_embedder_serves_all_precisions(export: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest = export()
    assert (manifest.precisions, manifest.patches) == (PRECISIONS, PATCHES)
    files = {path.name for path in (tmp_path / "bundle").iterdir()}
    encoders = {"encoder.onnx", "encoder.fp16.onnx", "encoder.int8.onnx", "encoder.int8-static.onnx"}
    others = {"embedding.npz", "frontend.onnx", "golden.npz", "manifest.json"}
    assert files == {*encoders, "embed-16x16.onnx", "embed-20x10.onnx", *others}
    found = [(variant.patch_size, variant.precision) for variant, _ in verify_bundle(Bundle.open(tmp_path / "bundle"))]
    assert found == [(patch, precision) for precision in PRECISIONS for patch in PATCHES]


def test_each_precision_is_nearer_to_the_model_than_its_coarser_ones(
    export: Callable[..., Manifest], clips: list[Float], tiny_checkpoint: Checkpoint
) -> None:
    manifest = export(sounds=VerificationData(tiny_checkpoint.spec, clips))
    for patch in PATCHES:
        fine, half, *coarse = (manifest.variant(patch, precision).parity for precision in PRECISIONS)
        for worse in coarse:
            assert fine.max_abs_error < half.max_abs_error < worse.max_abs_error < worse.tolerance
            assert fine.rel_error < half.rel_error < worse.rel_error
            assert fine.cosine > half.cosine > worse.cosine > 0.98


def test_golden_answers_are_the_models_for_every_precision(
    export: Callable[..., Manifest], tiny_source: Classifier, tmp_path: Path
) -> None:
    manifest = export(precisions=("int8", "fp16"))
    golden = Bundle.open(tmp_path / "bundle").arrays(manifest.golden)
    for patch in PATCHES:
        assert np.array_equal(golden[golden_key(patch)], tiny_source.logits(golden["features"], patch))


def test_the_first_precision_is_the_default(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export(precisions=("int8", "fp32"))
    bundle = Bundle.open(tmp_path / "bundle")
    assert load_engines(bundle)[PATCHES[0]].variant.precision == "int8"
    assert load_engines(bundle, precision="fp32")[PATCHES[0]].variant.precision == "fp32"
    with pytest.raises(UsageError, match="the bundle has no fp16 engines; it has int8, fp32"):
        load_engines(bundle, precision="fp16")


def test_the_same_checkpoint_gives_the_same_bytes(export: Callable[..., Manifest], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "again")]
    for folder in folders:
        export(output=folder)
    once, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert once == again


def test_an_added_size_gets_every_precision(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export(precisions=("int8", "fp32", "fp16"))
    added = add_sizes(Bundle.open(tmp_path / "bundle"), [PatchSize(8, 8)], tmp_path / "more")
    new = [variant for variant in added.variants if variant.patch_size == PatchSize(8, 8)]
    assert [variant.precision for variant in new] == ["int8", "fp32", "fp16"]
    errors = {variant.precision: variant.parity.max_abs_error for variant in new}
    assert errors["fp32"] < errors["fp16"] < errors["int8"]  # compared with the finest, not each with itself
    assert len(verify_bundle(Bundle.open(tmp_path / "more"))) == 9


def test_a_bundle_without_float32_does_not_tell_what_an_added_size_loses(
    export: Callable[..., Manifest], clips: list[Float], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    spec = tiny_checkpoint.spec
    sounds = VerificationData(spec, clips, np.eye(spec.classes, dtype=np.float32)[[0, 1, 2, 0]])
    for precisions, told in ((("int8",), False), (("fp32", "int8"), True)):
        export(precisions=precisions, force=True)
        added = add_sizes(
            Bundle.open(tmp_path / "bundle"), [PatchSize(8, 8)], tmp_path / precisions[0], sounds=sounds, max_drop=100
        )
        new = added.variants[-len(precisions) :]
        assert all((variant.labelled is not None) is told for variant in new)
        assert {variant.parity.against for variant in new} == {None if told else "int8"}
        assert read_manifest(tmp_path / precisions[0]) == added
        assert added.variants[0].parity.against is None


@pytest.mark.parametrize("opset", [16, 99])
def test_an_opset_that_cannot_be_written_is_refused(
    opset: int, export: Callable[..., Manifest], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"opset {opset} cannot be written; it must be 17 … \d+"):
        export(opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_newer_opset_is_kept_by_sizes_added_later(export: Callable[..., Manifest], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    assert export(opset=18, precisions=("fp32",)).opset == 18
    add_sizes(Bundle.open(tmp_path / "bundle"), [PatchSize(8, 8)], tmp_path / "more")
    for path in (tmp_path / "more").glob("*.onnx"):
        assert [item.version for item in onnx.load(path).opset_import] == [18]


def test_static_ranges_need_sound(export: Callable[..., Manifest], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibration-data"):
        export(calibration=None)
    assert not list(tmp_path.iterdir())


# ----- ranges and layers


def test_ranges_are_those_that_the_model_sees(tiny_checkpoint: Checkpoint, calibration: Float) -> None:
    model, seen = load_model(tiny_checkpoint), dict.fromkeys(layers(tiny_checkpoint.spec), 0.0)

    def note(name: str, value: torch.Tensor) -> None:
        seen[name] = max(seen[name], float(value.abs().max()))

    for name in seen:
        block, part = name.rsplit(".", 1)
        if part == "qkv":  # called as a function; it takes what the norm gives
            module = model.get_submodule(f"{block}.norm1")
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        else:
            module, constant = model.get_submodule(name), 0.0
            if part == "projection":  # v's bias is part of what the graph adds after it
                constant = model.get_submodule(f"{block}.qkv").bias.detach().chunk(3)[2]
            module.register_forward_pre_hook(lambda _, inputs, name=name, less=constant: note(name, inputs[0] - less))
    classifier = TorchClassifier(model)
    for patch in PATCHES:
        classifier.logits(calibration, patch)
    found = input_ranges(tiny_checkpoint, calibration, PATCHES)
    assert found.keys() == seen.keys()
    for name, largest in seen.items():
        if name.startswith("blocks.0.") or name.endswith("qkv"):  # what follows in the last block is the prefix only
            assert found[name] == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("block", [0, 1])
def test_the_layer_with_the_outlier_is_the_most_sensitive(
    block: int, tiny_checkpoint: Checkpoint, calibration: Float
) -> None:
    from flexiast_export.encoder import encoder
    from flexiast_export.precisions import DynamicInt8

    spoilt = with_outliers(tiny_checkpoint, block)
    ranked = rank_by_sensitivity(spoilt, calibration, PATCHES, lambda kept: encoder(spoilt, DynamicInt8(kept)))
    assert ranked[0] == f"blocks.{block}.qkv"
    assert sorted(ranked) == sorted(layers(spoilt.spec))


def test_layers_are_tried_on_late_windows_too_and_at_every_size(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexiast_export.encoder import encoder
    from flexiast_export.precisions import DynamicInt8

    spec, seen = tiny_checkpoint.spec, []

    def note(spec: Any, weights: Any, features: Float, patch: PatchSize) -> Float:
        seen.extend((patch, int(number)) for number in features[:, 0, 0])
        return tokens(spec, weights, features, patch)

    monkeypatch.setattr("flexiast_export.quantize.tokens", note)
    shape = (400, spec.frontend.window_frames, spec.frontend.mel_bins)
    numbered = np.broadcast_to(np.arange(400, dtype=np.float32)[:, None, None], shape)
    rank_by_sensitivity(tiny_checkpoint, numbered, PATCHES, lambda kept: encoder(tiny_checkpoint, DynamicInt8(kept)))
    for patch in PATCHES:
        numbers = [number for size, number in seen if size == patch]
        assert len(numbers) == len(set(numbers)) == TRIED // len(PATCHES)
        assert {number * 8 // 400 for number in numbers} == set(range(8))


@given(windows=st.integers(1, 2000), sizes=st.integers(1, 100))
def test_every_size_has_as_many_windows_from_all_over(windows: int, sizes: int) -> None:
    found = shares(windows, sizes)
    each = len(found[0])
    assert {len(share) for share in found} == {each}
    assert len(found) == sizes
    assert each == min(windows, -(-TRIED // sizes))
    every = sorted(number for share in found for number in share)
    assert every[0] == 0
    gaps = np.diff([*every, windows])
    assert gaps.min() >= 0
    assert gaps.max() <= -(-windows // len(every))  # no stretch is left out


@given(layers=st.integers(4, 300))
def test_ever_more_layers_are_left_in_float_and_never_all(layers: int) -> None:
    counts = float_counts(layers)
    assert (counts[0], counts[-1]) == (1, layers - 1)
    assert all(before < after <= 2 * before for before, after in pairwise(counts))


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_a_layer_that_spoils_the_answers_is_left_in_float(
    precision: str, export: Callable[..., Manifest], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    spoilt = with_outliers(tiny_checkpoint, 1)
    manifest = export(spoilt, TorchClassifier(load_model(spoilt)), precisions=("fp32", precision))
    encoder = manifest.encoders[precision]  # type: ignore[index]
    assert encoder.float_layers == ("blocks.1.qkv",)
    assert encoder.quantized_layers == 6 * spoilt.spec.network.depth - 3
    assert manifest == read_manifest(tmp_path / "bundle")
    assert len(verify_bundle(Bundle.open(tmp_path / "bundle"))) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_network_that_int8_spoils_everywhere_is_refused(
    export: Callable[..., Manifest], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    spoilt = tiny_checkpoint
    weights = {name: value.copy() for name, value in spoilt.weights.items()}
    for block in range(spoilt.spec.network.depth):
        for norm, layer in (("norm1", "qkv"), ("norm2", "expand")):
            for part in ("weight", "bias"):
                weights[f"blocks.{block}.{norm}.{part}"][0] *= 3000
            weights[f"blocks.{block}.{layer}.weight"][:, 0] /= 3000
    spoilt = Checkpoint(spoilt.spec, weights, spoilt.info)
    # left in float, all but one of the layers are all of the bad ones; a limit that only float keeps refuses still
    with pytest.raises(VerificationError, match=r"patch size .* in int8: .*nothing was published"):
        export(
            spoilt,
            TorchClassifier(load_model(spoilt)),
            precisions=("fp32", "int8"),
            sounds=StrictSounds(spoilt.spec),
        )
    assert not list(tmp_path.iterdir())


class StrictSounds(VerificationData):
    """Labels on which only the model itself is right."""

    def compare_metrics(self, reference: Float, found: Float) -> Any:
        from flexiast.manifest import Labelled

        same = float(np.abs(reference - found).max() < 1e-4)
        return Labelled(clips=100, metric=same, source_metric=1.0)


def test_an_encoder_that_quantised_nothing_is_an_error(tiny_checkpoint: Checkpoint) -> None:
    from flexiast_export.encoder import encoder

    for precision in ("int8", "int8-static"):
        with pytest.raises(VerificationError, match=f"the {precision} encoder has no quantised layer"):
            count_quantized(encoder(tiny_checkpoint), precision)
    assert count_quantized(encoder(tiny_checkpoint), "fp32") == 0
