"""A bundle's files: what differs by one bit never reaches ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from flexiast.errors import ModelError, UsageError, VerificationError
from flexiast.manifest import MANIFEST
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import golden_errors, verify_bundle

ENGINES = ("encoder.onnx", "embed-8x8.onnx", "embed-12x12.onnx", "embed-16x16.onnx", "embed-20x10.onnx")
EVERY_FILE = pytest.mark.parametrize("name", [*ENGINES, "golden.npz"])


def flip(path: Path, place: float) -> bytes:
    """Turn over one bit, this share into the file."""
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    return bytes(content)


@pytest.fixture
def seen_by_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every model that ONNX Runtime is given."""
    seen, session = [], onnxruntime.InferenceSession

    def remember(content: bytes, *arguments: Any, **options: Any) -> onnxruntime.InferenceSession:
        seen.append(content)
        return session(content, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    return seen


def test_every_file_that_is_listed_reads_as_it_lies_there(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert {entry.name for entry in bundle.manifest.files} == {*ENGINES, "embedding.npz", "frontend.onnx", "golden.npz"}
    for entry in bundle.manifest.files:
        assert bundle.read(entry.name) == (tiny_bundle / entry.name).read_bytes()


@EVERY_FILE
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first byte", "middle", "last byte"])
def test_one_bit_in_any_file_is_caught_with_its_name(bundle_copy: Path, name: str, place: float) -> None:
    flip(bundle_copy / name, place)
    with pytest.raises(VerificationError, match=rf"{name} differs from what was exported: sha256"):
        verify_bundle(Bundle.open(bundle_copy))


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_with_a_flipped_bit_never_reaches_onnx_runtime(
    bundle_copy: Path, name: str, seen_by_onnx_runtime: list[bytes]
) -> None:
    flipped = flip(bundle_copy / name, 0.9)
    with pytest.raises(VerificationError, match=name):
        load_engines(Bundle.open(bundle_copy))
    assert flipped not in seen_by_onnx_runtime
    assert len(seen_by_onnx_runtime) == ENGINES.index(name)  # those before it were sound


@EVERY_FILE
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_caught_with_both_sizes(bundle_copy: Path, name: str, kept: float) -> None:
    path = bundle_copy / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    sizes = rf"{int(kept * len(content)):,} bytes, {len(content):,} were exported"
    with pytest.raises(VerificationError, match=rf"{name} has {sizes}"):
        verify_bundle(Bundle.open(bundle_copy))


def by_a_link(path: Path) -> None:
    """The content is right: what counts is that it can be changed from outside the bundle."""
    target = path.parent.parent / path.name
    shutil.move(path, target)
    path.symlink_to(target)


def by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@EVERY_FILE
@pytest.mark.parametrize("replace", [by_a_link, by_a_folder], ids=["link", "folder"])
def test_what_is_no_plain_file_is_refused_with_its_name(
    bundle_copy: Path, name: str, replace: Callable[[Path], None]
) -> None:
    replace(bundle_copy / name)
    with pytest.raises(VerificationError, match=rf"{name} is not a plain file"):
        verify_bundle(Bundle.open(bundle_copy))


@EVERY_FILE
def test_a_missing_file_is_named(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} cannot be read: No such file"):
        verify_bundle(Bundle.open(bundle_copy))


def test_bytes_once_read_are_not_read_again(bundle_copy: Path, tiny_bundle: Path) -> None:
    """A file that changes after loading changes nothing: engines hold what was checked."""
    engines = load_engines(Bundle.open(bundle_copy))
    (bundle_copy / "encoder.onnx").write_bytes(b"changed")
    assert max(error for _, error in golden_errors(Bundle.open(tiny_bundle), engines)) < 1e-4


def test_a_folder_without_manifest_is_no_bundle(bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).unlink()
    with pytest.raises(ModelError, match=r"is not a bundle: manifest\.json cannot be read .*flexiast export"):
        Bundle.open(bundle_copy)


def test_a_size_that_the_bundle_lacks_is_a_usage_error(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="it has 8x8, 12x12, 16x16, 20x10"):
        Bundle.open(tiny_bundle).manifest.variant(PatchSize(8, 16))
