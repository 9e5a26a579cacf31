"""Export as a whole: what is published is the model, all of it, and the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import Manifest, Variant, read_manifest
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize, Spec
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import VerificationData
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.selfcheck import verify_bundle

Float = NDArray[np.float32]

PATCHES = (PatchSize(16, 16), PatchSize(20, 10))


@pytest.fixture
def export(tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path: Path) -> Callable[..., Manifest]:
    """Export two sizes of the tiny checkpoint to ``tmp_path / "bundle"``; anything can be given instead."""

    def run(
        checkpoint: Checkpoint = tiny_checkpoint,
        output: Path = tmp_path / "bundle",
        patches: Sequence[PatchSize] = PATCHES,
        source: Classifier = tiny_source,
        **options: Any,
    ) -> Manifest:
        return export_onnx(checkpoint, source, patches, output, **options)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sizes(verified: list[tuple[Variant, float]]) -> tuple[PatchSize, ...]:
    return tuple(variant.patch_size for variant, _ in verified)


# ----- what is published


def test_the_bundle_verifies_and_is_what_the_manifest_lists(export: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest, folder = export(), tmp_path / "bundle"
    assert sizes(verify_bundle(Bundle.open(folder))) == PATCHES
    assert read_manifest(folder) == manifest
    assert set(contents(folder)) == {"manifest.json", *(entry.name for entry in manifest.files)}
    assert list(tmp_path.iterdir()) == [folder]


def test_the_manifest_describes_the_checkpoint(
    export: Callable[..., Manifest], tiny_checkpoint: Checkpoint, tiny_spec: Spec
) -> None:
    manifest = export(patches=(*PATCHES, PatchSize(8, 8)))
    assert manifest.spec == tiny_spec
    assert manifest.source_sha256 == weights_sha256(tiny_checkpoint)
    assert manifest.patches == (*PATCHES, PatchSize(8, 8))
    assert [variant.metric for variant in manifest.variants] == [0.7, None, 0.9]  # 20x10 was never measured
    assert [variant.tokens for variant in manifest.variants] == [2 * 3 + 1, 2 * 4 + 1, 4 * 5 + 1]
    assert {"flexiast", "numpy", "onnx", "onnxruntime"} == set(manifest.versions)


def test_readers_see_nothing_of_a_head_with_more_rows(
    export: Callable[..., Manifest], tiny_spec: Spec, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Scores, manifest and metadata are of classes, so programs from before read such a bundle too."""
    spec = tiny_spec.model_copy(update={"extra_rows": (2, 2)})
    rows = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    head = {
        "head.weight": np.concatenate((tiny_checkpoint.weights["head.weight"], rows)),
        "head.bias": np.concatenate((tiny_checkpoint.weights["head.bias"], np.ones(2, np.float32))),
    }
    checkpoint = Checkpoint(spec, tiny_checkpoint.weights | head)
    manifest = export(checkpoint, source=TorchClassifier(load_model(checkpoint)))
    assert manifest.spec == tiny_spec
    assert b"extra_rows" not in (tmp_path / "bundle" / "manifest.json").read_bytes()
    verify_bundle(Bundle.open(tmp_path / "bundle"))


def test_parity_is_measured_on_synthetic_and_on_real_sounds(export: Callable[..., Manifest], tiny_spec: Spec) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=size).astype(np.float32) for size in (3_000, 20_000)]
    for variant in export(sounds=VerificationData(tiny_spec, clips)).variants:
        real = 1 + -(-20_000 // tiny_spec.frontend.window_samples)  # every window of each clip
        assert (variant.parity.inputs, variant.parity.real_inputs) == (3 + real, real)
        assert 0 < variant.parity.max_abs_error < 1e-5  # two implementations never round alike everywhere
        assert variant.parity.top1_agreement == 1


def test_the_same_checkpoint_gives_the_same_bytes(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export(output=tmp_path / "once")
    export(output=tmp_path / "again")
    assert contents(tmp_path / "once") == contents(tmp_path / "again")


def test_a_size_gives_the_same_graphs_whatever_is_exported_beside_it(
    export: Callable[..., Manifest], tmp_path: Path
) -> None:
    export(output=tmp_path / "two")
    export(output=tmp_path / "one", patches=PATCHES[1:])
    two, one = contents(tmp_path / "two"), contents(tmp_path / "one")
    assert all(two[name] == one[name] for name in ("encoder.onnx", "embed-20x10.onnx"))


def test_files_are_read_only(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle").iterdir()}
    assert set(modes.values()) == {0o444}
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755


def test_progress_is_told_each_variant_once(export: Callable[..., Manifest]) -> None:
    told = []

    def progress(variants: Iterable[Variant]) -> Iterator[Variant]:
        for variant in variants:
            told.append(variant.patch_size)
            yield variant

    export(progress=progress)
    assert told == list(PATCHES)


def test_folders_on_the_way_are_made(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export(output=tmp_path / "a" / "b" / "bundle")
    assert (tmp_path / "a" / "b" / "bundle" / "manifest.json").is_file()


# ----- what is not


def with_a_wrong(name: str, checkpoint: Checkpoint) -> Checkpoint:
    """One element of one weight is off by a half."""
    value = checkpoint.weights[name].copy()
    value.flat[-1] += 0.5
    return Checkpoint(checkpoint.spec, checkpoint.weights | {name: value}, checkpoint.info)


def test_one_wrong_number_in_any_weight_publishes_nothing(
    export: Callable[..., Manifest], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for name in tiny_checkpoint.weights:
        with pytest.raises(VerificationError, match=r"patch size 16x16 in fp32: the engine's logits differ"):
            export(with_a_wrong(name, tiny_checkpoint))
        assert not list(tmp_path.iterdir()), name


def test_a_wrong_weight_leaves_the_old_bundle(
    export: Callable[..., Manifest], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    export()
    before = contents(tmp_path / "bundle")
    with pytest.raises(VerificationError):
        export(with_a_wrong("cls", tiny_checkpoint), force=True)
    assert contents(tmp_path / "bundle") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_size_larger_than_a_window_is_refused(export: Callable[..., Manifest], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="patch size 48x48 is larger than one window"):
        export(patches=(*PATCHES, PatchSize(48, 48)))
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_replaced_unasked(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export()
    with pytest.raises(UsageError, match=rf"{re.escape(str(tmp_path / 'bundle'))} exists; .*--force"):
        export(patches=PATCHES[1:])
    assert read_manifest(tmp_path / "bundle").patches == PATCHES


def test_force_replaces_a_bundle(export: Callable[..., Manifest], tmp_path: Path) -> None:
    export()
    export(patches=PATCHES[1:], force=True)
    assert sizes(verify_bundle(Bundle.open(tmp_path / "bundle"))) == PATCHES[1:]
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_an_interrupted_export_leaves_nothing(export: Callable[..., Manifest], tmp_path: Path) -> None:
    def interrupted(variants: Iterable[Variant]) -> Iterator[Variant]:
        yield next(iter(variants))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(progress=interrupted)
    assert not list(tmp_path.iterdir())
