"""What a damaged bundle answers: each corruption, error and exit code, as in docs/reference/bundle-format.md."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from flexiast.errors import FlexiastError, ModelError, VerificationError
from flexiast.manifest import MANIFEST
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.selfcheck import verify_bundle

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reference" / "bundle-format.md"


@dataclass(frozen=True)
class Corruption:
    what: str
    apply: Callable[[Path], object]
    error: type[FlexiastError]
    answer: str
    """Part of the message."""


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit the manifest as JSON."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / MANIFEST).read_text())
        change(document)
        (folder / MANIFEST).write_text(json.dumps(document))

    return apply


def setting(*path: str | int, value: Any) -> Callable[[Path], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return manifest(change)


def text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: (folder / MANIFEST).write_text(change((folder / MANIFEST).read_text()))


def content(name: str, change: Callable[[bytes], bytes], *, vouched: bool = False) -> Callable[[Path], None]:
    """Change a file; with ``vouched`` the manifest's size and sha256 too, as one who means harm would."""

    def apply(folder: Path) -> None:
        changed = change((folder / name).read_bytes())
        (folder / name).write_bytes(changed)
        if vouched:

            def vouch(document: dict[str, Any]) -> None:
                entry = next(entry for entry in document["files"] if entry["name"] == name)
                entry |= {"size": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}

            manifest(vouch)(folder)

    return apply


def flipped(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


def graph(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        change(model)
        return model.SerializeToString()

    return apply


def scaled_head(model: onnx.ModelProto) -> None:
    (head,) = (tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(head), head.name))


def weights_elsewhere(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def with_metadata(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (item,) = (item for item in model.metadata_props if item.key == key)
        item.value = value

    return change


def pickled(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, features=np.array([print], dtype=object))
    return buffer.getvalue()


def linked(folder: Path) -> None:
    (folder / "encoder.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "encoder.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def swapped(folder: Path) -> None:
    one, other = folder / "embed-8x8.onnx", folder / "embed-16x16.onnx"
    first, second = one.read_bytes(), other.read_bytes()
    content(one.name, lambda _: second, vouched=True)(folder)
    content(other.name, lambda _: first, vouched=True)(folder)


ENCODER = "encoder.onnx"

TABLE = [
    # ----- files
    Corruption("one bit of a graph", content(ENCODER, flipped), VerificationError, "differs from what was exported"),
    Corruption(
        "one bit of the golden file", content("golden.npz", flipped), VerificationError, "differs from what was"
    ),
    Corruption("a graph cut short", content(ENCODER, lambda data: data[:-1]), VerificationError, "were exported"),
    Corruption("a graph that grew", content(ENCODER, lambda data: data + b"\0"), VerificationError, "were exported"),
    Corruption("an empty file", content("embed-8x8.onnx", lambda _: b""), VerificationError, "has 0 bytes"),
    Corruption("a missing file", lambda folder: (folder / ENCODER).unlink(), ModelError, "No such file"),
    Corruption("a link in place of a file", linked, VerificationError, "is not a plain file"),
    Corruption(
        "a pipe in place of a file",
        lambda folder: ((folder / ENCODER).unlink(), os.mkfifo(folder / ENCODER)),
        VerificationError,
        "is not a plain file",
    ),
    # ----- the manifest
    Corruption("no manifest", lambda folder: (folder / MANIFEST).unlink(), ModelError, "is not a bundle"),
    Corruption("a manifest cut short", text(lambda old: old[: len(old) // 2]), ModelError, "not a valid manifest"),
    Corruption("a manifest of 5 MB", text(lambda old: old + " " * 5_000_000), ModelError, "cannot be a manifest"),
    Corruption("a nest of 100,000 brackets", text(lambda _: "[" * 100_000), ModelError, "not a valid manifest"),
    Corruption(
        "a duplicate key",
        text(lambda old: old.replace("{", '{"golden": "other.npz",', 1)),
        ModelError,
        "stands twice",
    ),
    Corruption("an unknown key", setting("run_as", value="root"), ModelError, "run_as"),
    Corruption("the next major version", setting("schema_version", value="2.0"), ModelError, "upgrade flexiast"),
    Corruption("a number as text", setting("variants", 0, "tokens", value="7"), ModelError, "tokens"),
    Corruption("a path out of the folder", setting("golden", value="../golden.npz"), ModelError, "golden"),
    Corruption("an absolute path", setting("golden", value="/etc/passwd"), ModelError, "golden"),
    Corruption("a file of 3 GB", setting("files", 0, "size", value=3_000_000_000), ModelError, "size"),
    Corruption("an unlisted engine", setting("variants", 0, "embedder", value="my.onnx"), ModelError, "my.onnx"),
    Corruption(
        "a missing variant", manifest(lambda m: m["encoders"].update(int8={"file": ENCODER})), ModelError, "every"
    ),
    Corruption("other labels", setting("spec", "labels", 0, value="gun shot"), VerificationError, "another spec"),
    Corruption(
        "another sample rate",
        setting("spec", "frontend", "sample_rate_hz", value=32_000),
        VerificationError,
        "another spec",
    ),
    # ----- both: whoever did this also set size and sha256
    Corruption("the graphs of two sizes swapped", swapped, VerificationError, "another patch_size"),
    Corruption(
        "a graph of another precision",
        content(ENCODER, graph(with_metadata("flexiast.precision", "int8")), vouched=True),
        VerificationError,
        "another precision",
    ),
    Corruption(
        "a weight 1 % larger",
        content(ENCODER, graph(scaled_head), vouched=True),
        VerificationError,
        "answers the golden inputs with an error",
    ),
    Corruption(
        "a file that is no graph", content(ENCODER, lambda _: b"MZ" * 999, vouched=True), ModelError, "cannot be loaded"
    ),
    Corruption(
        "weights in a file outside",
        content(ENCODER, graph(weights_elsewhere("../../etc/passwd")), vouched=True),
        ModelError,
        "cannot be loaded",
    ),
    Corruption(
        "weights at an absolute path",
        content(ENCODER, graph(weights_elsewhere("/etc/passwd")), vouched=True),
        ModelError,
        "cannot be loaded",
    ),
    Corruption("pickled answers", content("golden.npz", pickled, vouched=True), VerificationError, "cannot be read"),
]


@pytest.mark.parametrize("corruption", TABLE, ids=lambda corruption: corruption.what)
def test_a_corruption_is_answered_as_the_table_says(corruption: Corruption, bundle_copy: Path) -> None:
    verify_bundle(Bundle.open(bundle_copy))
    corruption.apply(bundle_copy)
    with pytest.raises(corruption.error, match=re.escape(corruption.answer)) as caught:
        verify_bundle(Bundle.open(bundle_copy))
    assert type(caught.value) is corruption.error


def test_the_document_has_this_table() -> None:
    rows = [f"| {c.what} | {c.error.exit_code.value} | … {c.answer} … |\n" for c in TABLE]
    assert "".join(["| corruption | exit code | message |\n", "|---|---|---|\n", *rows]) in DOCUMENT.read_text("utf-8")
