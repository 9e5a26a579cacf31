"""A bundle checks itself; bundles that vouch for something wrong are made here on purpose."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.errors import VerificationError
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import MANIFEST, FileEntry, read_manifest
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import golden_errors, golden_key, verify_bundle

Arrays = dict[str, NDArray[np.float32]]


def put(folder: Path, name: str, content: bytes) -> Bundle:
    """Replace a file and let the manifest vouch for it: checksums pass, so that answers alone must tell."""
    manifest = read_manifest(folder)
    fields = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files = tuple(entry.model_copy(update=fields) if entry.name == name else entry for entry in manifest.files)
    (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json(exclude_none=True))
    return Bundle.open(folder)


def golden_of(folder: Path) -> Arrays:
    with np.load(folder / "golden.npz") as arrays:
        return dict(arrays)


def packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_sound_bundle_passes_and_says_how_far_each_size_is_off(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    errors = verify_bundle(bundle)
    assert [variant for variant, _ in errors] == list(bundle.manifest.variants)
    for variant, error in errors:
        # the same machine that exported it: at most what export found, on fewer inputs, and rounding
        assert 0 <= error <= variant.parity.max_abs_error + 1e-5


def test_golden_answers_are_the_source_models(tiny_bundle: Path, tiny_source: Classifier) -> None:
    """Not the engines' own: a device is compared with the model, not with another device."""
    golden = golden_of(tiny_bundle)
    for patch in Bundle.open(tiny_bundle).manifest.patches:
        assert np.array_equal(golden[golden_key(patch)], tiny_source.logits(golden["features"], patch))


def test_a_file_that_no_engine_reads_is_checked_too(bundle_copy: Path) -> None:
    manifest = read_manifest(bundle_copy)
    files = (*manifest.files, FileEntry(name="notes.txt", size=5, sha256=hashlib.sha256(b"notes").hexdigest()))
    (bundle_copy / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json(exclude_none=True))
    (bundle_copy / "notes.txt").write_bytes(b"notes")
    verify_bundle(Bundle.open(bundle_copy))
    (bundle_copy / "notes.txt").write_bytes(b"Notes")
    with pytest.raises(VerificationError, match=r"notes\.txt differs"):
        verify_bundle(Bundle.open(bundle_copy))


def test_golden_answers_can_be_checked_for_some_sizes_alone(tiny_bundle: Path) -> None:
    bundle, wanted = Bundle.open(tiny_bundle), (PatchSize(16, 16),)
    found = golden_errors(bundle, load_engines(bundle, wanted))
    assert tuple(variant.patch_size for variant, _ in found) == wanted


@pytest.mark.parametrize("patch", [PatchSize(8, 8), PatchSize(20, 10)], ids=str)
@pytest.mark.parametrize("change", [1e-2, np.nan, np.inf])
def test_an_engine_that_answers_otherwise_is_named(bundle_copy: Path, patch: PatchSize, change: float) -> None:
    golden = golden_of(bundle_copy)
    golden[golden_key(patch)][-1, -1] += change
    bundle = put(bundle_copy, "golden.npz", packed(golden))
    with pytest.raises(VerificationError, match=f"patch size {patch} in fp32 answers the golden inputs with"):
        verify_bundle(bundle)


def test_a_graph_exchanged_for_another_sizes_is_noticed(bundle_copy: Path) -> None:
    """A valid graph under the wrong name, with the right checksum: it says itself which size it is of."""
    bundle = put(bundle_copy, "embed-12x12.onnx", (bundle_copy / "embed-8x8.onnx").read_bytes())
    with pytest.raises(VerificationError, match=r"embed-12x12\.onnx was exported with another patch_size"):
        verify_bundle(bundle)


def test_answers_that_are_missing_are_named(bundle_copy: Path) -> None:
    golden = golden_of(bundle_copy)
    del golden[golden_key(PatchSize(16, 16))]
    with pytest.raises(VerificationError, match=r"golden\.npz has no answers of patch size 16x16"):
        verify_bundle(put(bundle_copy, "golden.npz", packed(golden)))


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:100], lambda content: b"PK" + bytes(200)], ids=[0, 1, 2]
)
def test_golden_answers_that_cannot_be_unpacked_are_named(bundle_copy: Path, damage: Callable[[bytes], bytes]) -> None:
    content = (bundle_copy / "golden.npz").read_bytes()
    with pytest.raises(VerificationError, match=r"golden\.npz cannot be read"):
        verify_bundle(put(bundle_copy, "golden.npz", damage(content)))


def test_golden_answers_are_never_unpickled(bundle_copy: Path) -> None:
    trap = {"features": np.array([print], dtype=object)}
    with pytest.raises(VerificationError, match="allow_pickle"):
        verify_bundle(put(bundle_copy, "golden.npz", packed(trap)))
