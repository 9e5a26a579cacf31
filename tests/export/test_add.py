"""Sizes added to a bundle on a device: the engines that the checkpoint would have given, or nothing at all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.errors import FlexiastError, ModelError, UsageError, VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import MANIFEST, read_manifest
from flexiast.spec import NetworkSpec, PatchSize, Spec
from flexiast_export.add import add_sizes
from flexiast_export.embedding import EMBEDDING, npz, tokens
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import VerificationData
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import golden_key, verify_bundle

Float = NDArray[np.float32]

OLD, NEW = (PatchSize(16, 16),), (PatchSize(12, 12), PatchSize(20, 10))


@pytest.fixture
def folder(tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path: Path) -> Path:
    """A bundle of one size."""
    export_onnx(tiny_checkpoint, tiny_source, OLD, tmp_path / "bundle")
    return tmp_path / "bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewritten(folder: Path, name: str, content: bytes) -> Bundle:
    """The bundle with another file of that name, which its manifest vouches for."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    (entry,) = (entry for entry in document["files"] if entry["name"] == name)
    entry |= {"size": len(content), "sha256": sha256(content).hexdigest()}
    for path, text in ((folder / name, content), (folder / MANIFEST, json.dumps(document).encode())):
        path.unlink()
        path.write_bytes(text)
    return Bundle.open(folder)


# ----- what is added


def test_added_engines_are_those_of_the_checkpoint_to_the_byte(
    folder: Path, tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path: Path
) -> None:
    before = contents(folder)
    added = add_sizes(Bundle.open(folder), NEW, folder)
    export_onnx(tiny_checkpoint, tiny_source, (*OLD, *NEW), tmp_path / "whole")
    ours, whole = contents(folder), contents(tmp_path / "whole")
    assert ours.keys() == whole.keys()
    assert {name for name in whole if ours[name] != whole[name]} <= {"golden.npz", MANIFEST}
    assert {name for name in before if ours[name] != before[name]} == {"golden.npz", MANIFEST}
    assert read_manifest(folder) == added
    assert added.patches == (*OLD, *NEW)
    assert [variant.metric for variant in added.variants] == [0.7, 0.8, None]  # 20x10 was never measured
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_added_engines_answer_as_the_pytorch_model_does(folder: Path, tiny_source: Classifier) -> None:
    add_sizes(Bundle.open(folder), NEW, folder)
    bundle = Bundle.open(folder)
    assert [variant.patch_size for variant, _ in verify_bundle(bundle)] == [*OLD, *NEW]
    golden = np.load(io.BytesIO(bundle.read("golden.npz")))
    engines = load_engines(bundle)
    for patch in NEW:
        expected = tiny_source.logits(golden["features"], patch)
        np.testing.assert_allclose(engines.logits(golden["features"], patch), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(golden[golden_key(patch)], expected, rtol=0, atol=1e-5)
        parity = bundle.manifest.variant(patch).parity
        assert parity.inputs == 3
        assert parity.max_abs_error < 1e-5


def test_real_sounds_are_compared_too(folder: Path, tmp_path: Path) -> None:
    clips = [np.random.default_rng(0).normal(scale=0.1, size=8_000).astype(np.float32)]
    sounds = VerificationData(read_manifest(folder).spec, clips)
    variant = add_sizes(Bundle.open(folder), NEW, tmp_path / "other", sounds=sounds).variant(NEW[0])
    assert (variant.parity.inputs, variant.parity.real_inputs) == (3 + sounds.real, sounds.real)
    assert sounds.real > 0


def test_another_place_leaves_the_bundle_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    add_sizes(Bundle.open(folder), NEW, tmp_path / "other")
    assert contents(folder) == before
    assert read_manifest(tmp_path / "other").patches == (*OLD, *NEW)
    with pytest.raises(UsageError, match="exists; choose another name"):
        add_sizes(Bundle.open(folder), NEW, tmp_path / "other")


@pytest.mark.parametrize("named", ["link", "output", "parent"])
def test_the_bundle_itself_is_known_by_any_name(folder: Path, tmp_path: Path, named: str) -> None:
    (tmp_path / "current").symlink_to(folder)
    (tmp_path / "here").symlink_to(tmp_path)
    source, output = {
        "link": (tmp_path / "current", tmp_path / "current"),
        "output": (folder, tmp_path / "current"),
        "parent": (folder, tmp_path / "here" / folder.name),
    }[named]
    add_sizes(Bundle.open(source), NEW, output)
    assert read_manifest(folder).patches == (*OLD, *NEW)
    assert (tmp_path / "current").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "current", "here"}


def test_sizes_that_are_there_are_kept(folder: Path) -> None:
    assert add_sizes(Bundle.open(folder), (*OLD, NEW[0], NEW[0]), folder).patches == (*OLD, NEW[0])


def test_neither_torch_nor_a_checkpoint_is_needed(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None; from flexiast_cli.main import run; "
        f"sys.argv = ['flexiast', 'export', {str(folder)!r}, '--patch-sizes', '12,20x10']; run()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert read_manifest(folder).patches == (*OLD, *NEW)


# ----- numpy's tokens


@pytest.mark.parametrize("text", ["8", "12", "16", "20x10", "32", "5x38"])
@pytest.mark.parametrize("overlap", [False, True], ids=["side by side", "overlapping"])
def test_numpys_tokens_are_the_models(build_spec: Callable[..., Spec], text: str, overlap: bool) -> None:
    torch = pytest.importorskip("torch")
    from flexiast.networks import load_model

    stride = {"base_stride": PatchSize(10, 10), "network": NetworkSpec(width=16, depth=1, heads=2, prefix_tokens=2)}
    spec = build_spec(98, 32, **(stride if overlap else {}))
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    features, patch = rng.normal(size=(2, 98, 32)).astype(np.float32), PatchSize.parse(text)
    with torch.inference_mode():
        expected = load_model(Checkpoint(spec, weights)).embedding(torch.from_numpy(features), patch).numpy()
    found = tokens(spec, weights, features, patch)[:, spec.network.prefix_tokens :]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # sums of up to a thousand products in float32


# ----- what is refused


def test_a_bundle_that_has_them_all_is_left_alone(folder: Path) -> None:
    with pytest.raises(UsageError, match="has these sizes already: 16x16"):
        add_sizes(Bundle.open(folder), OLD, folder)


def test_an_older_bundle_says_that_it_takes_no_more(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    del document["embedding"]
    document["files"] = [entry for entry in document["files"] if entry["name"] != EMBEDDING]
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    assert [variant.patch_size for variant, _ in verify_bundle(Bundle.open(folder))] == [*OLD]  # it still runs
    with pytest.raises(ModelError, match="export it again from its checkpoint"):
        add_sizes(Bundle.open(folder), NEW, folder)


def test_a_size_larger_than_a_window_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="400x400"):
        add_sizes(Bundle.open(folder), (PatchSize(400, 400),), folder)


def damages(folder: Path) -> dict[str, bytes]:
    """Contents of embedding.npz that no export wrote."""
    with np.load(folder / EMBEDDING) as arrays:
        weights = dict(arrays)
    kernel, whole = weights["embedding.kernel"], (folder / EMBEDDING).read_bytes()
    return {
        "no zip": b"PK",
        "cut off": whole[: len(whole) // 2],
        "a weight too few": npz({name: value for name, value in weights.items() if name != "cls"}),
        "a weight too many": npz(weights | {"head.bias": weights["cls"]}),
        "another shape": npz(weights | {"embedding.kernel": kernel[:, 1:]}),
        "another type": npz(weights | {"embedding.kernel": kernel.astype(np.float64)}),
    }


@pytest.mark.parametrize(
    "damage", ["no zip", "cut off", "a weight too few", "a weight too many", "another shape", "another type"]
)
def test_a_damaged_embedding_adds_nothing(folder: Path, damage: str) -> None:
    bundle = rewritten(folder, EMBEDDING, damages(folder)[damage])
    before = contents(folder)
    with pytest.raises(VerificationError):
        add_sizes(bundle, NEW, folder)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["encoder.onnx", "embed-16x16.onnx", "golden.npz", EMBEDDING])
def test_a_bundle_whose_files_changed_takes_no_more(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    before = contents(folder)
    with pytest.raises(FlexiastError):
        add_sizes(Bundle.open(folder), NEW, folder)
    assert contents(folder) == before


def test_an_engine_that_numpy_contradicts_is_not_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr("flexiast_export.add.tokens", lambda *arguments: tokens(*arguments)[..., ::-1].copy())
    with pytest.raises(VerificationError, match="nothing was published"):
        add_sizes(Bundle.open(folder), NEW, folder)
    assert contents(folder) == before
    assert list(folder.parent.iterdir()) == [folder]
