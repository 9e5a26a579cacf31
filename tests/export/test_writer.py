"""The folder and the manifest of a bundle that is being written say the same at every moment."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from flexiast.errors import VerificationError
from flexiast.manifest import MANIFEST, read_manifest
from flexiast_export.writer import UNMEASURED, BundleWriter
from flexiast_runtime.bundle import Bundle

pytest.importorskip("onnx", reason="bundles are exported on the spot")


def listed(writer: BundleWriter) -> dict[str, tuple[int, str]]:
    return {entry.name: (entry.size, entry.sha256) for entry in writer.manifest.files}


def on_disk(folder: Path) -> dict[str, tuple[int, str]]:
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: (len(content), sha256(content).hexdigest()) for name, content in contents.items()}


def test_every_file_is_listed_once_with_its_size_and_hash(tiny_bundle: Path, tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path, Bundle.open(tiny_bundle).manifest.model_copy(update={"files": ()}))
    for name, content in (("one", b"1"), ("two", b"22"), ("one", b"333")):
        writer.add_file(name, content)
        assert listed(writer) == on_disk(tmp_path)
    assert [entry.name for entry in writer.manifest.files] == ["one", "two"]


def test_a_bundle_is_copied_to_the_byte(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tmp_path, bundle.manifest)
    writer.copy_files(bundle)
    assert not (tmp_path / MANIFEST).exists()
    assert writer.finish() == bundle.manifest == read_manifest(tmp_path)
    assert on_disk(tmp_path) == on_disk(tiny_bundle)


def test_a_damaged_file_is_not_copied(bundle_copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    path = bundle_copy / bundle.manifest.golden
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(VerificationError):
        BundleWriter(tmp_path, bundle.manifest).copy_files(bundle)


def test_a_manifest_that_no_reader_takes_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path, Bundle.open(tiny_bundle).manifest.model_copy(update={"variants": ()}))
    with pytest.raises(ValidationError, match="variants"):
        writer.finish()
    assert not list(tmp_path.iterdir())


def test_figures_replace_those_of_their_own_variants_only(tiny_bundle: Path, tmp_path: Path) -> None:
    """A stand-in for the comparison: which figures it finds is tested where engines are verified."""

    class Measuring:
        def verify_variant(self, engines: object, variant: object) -> object:
            return variant.model_copy(update={"parity": UNMEASURED})  # type: ignore[attr-defined]

    bundle = Bundle.open(tiny_bundle)
    writer = BundleWriter(tmp_path, bundle.manifest)
    writer.copy_files(bundle)
    first, *others = bundle.manifest.variants
    measured = writer.measure([first], Measuring())  # type: ignore[arg-type]
    assert [variant.parity for variant in measured] == [UNMEASURED]
    assert writer.manifest.variants == (*measured, *others)
