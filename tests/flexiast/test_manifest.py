"""The manifest: what is read is exactly what was written, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexiast.errors import ModelError, UsageError
from flexiast.manifest import MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest, json_schema, read_manifest
from flexiast.spec import PatchSize

Document = dict[str, Any]


@pytest.fixture
def write(tmp_path: Path, tiny_manifest: Manifest) -> Callable[..., Path]:
    """A bundle folder whose manifest was changed by a function, or is this text."""

    def make(change: Callable[[Document], object] | None = None, text: str | bytes | None = None) -> Path:
        document = json.loads(tiny_manifest.model_dump_json(exclude_none=True))
        if change is not None:
            change(document)
        content = json.dumps(document) if text is None else text
        (tmp_path / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return make


# ----- round trip


def test_a_manifest_survives_being_written_and_read(write: Callable[..., Path], tiny_manifest: Manifest) -> None:
    assert read_manifest(write()) == tiny_manifest


def test_metrics_that_were_never_measured_stay_unknown(write: Callable[..., Path]) -> None:
    def measure(document: Document) -> None:
        document["variants"][0]["metric"] = 0.5

    assert [variant.metric for variant in read_manifest(write(measure)).variants] == [0.5, None, None, None]


def test_of_sizes_that_know_the_clips_equally_well_the_one_with_fewer_false_events_is_the_best(
    write: Callable[..., Path], tiny_manifest: Manifest
) -> None:
    fine, coarse = sorted(tiny_manifest.patches, key=tiny_manifest.spec.tokens, reverse=True)[:2]

    def measure(document: Document) -> None:
        for variant in document["variants"]:
            variant["metric"] = {str(fine): 0.8, str(coarse): 0.8}.get(variant["patch_size"])

    assert read_manifest(write(measure)).best_patch == coarse

    def measure_both(document: Document) -> None:
        measure(document)
        document["specificity"] = {str(fine): 0.9, str(coarse): 0.7}

    assert read_manifest(write(measure_both)).best_patch == fine


@given(st.text(min_size=1, max_size=50))
def test_labels_of_any_script_survive(
    tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest, label: str
) -> None:
    spec = tiny_manifest.spec.model_dump(mode="json") | {"labels": ["a", label]}
    document = json.loads(tiny_manifest.model_dump_json(exclude_none=True)) | {"spec": spec}
    folder = tmp_path_factory.mktemp("bundle")
    try:
        expected = Manifest.model_validate_json(json.dumps(document))
    except ValidationError:  # empty, doubled, or holding what would steer a terminal
        return
    (folder / MANIFEST).write_text(expected.model_dump_json(exclude_none=True), encoding="utf-8")
    assert read_manifest(folder).spec.labels == ("a", label)


def test_variants_and_files_are_found_by_what_they_are_called(tiny_manifest: Manifest) -> None:
    assert tiny_manifest.patches == tuple(map(PatchSize.parse, ("8", "12", "16", "20x10")))
    assert tiny_manifest.variant(PatchSize(20, 10)).embedder == "embed-20x10.onnx"
    assert tiny_manifest.entry("embed-20x10.onnx").name == "embed-20x10.onnx"


def test_a_size_that_is_not_there_names_those_that_are(tiny_manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="no patch size 10x20; it has 8x8, 12x12, 16x16, 20x10"):
        tiny_manifest.variant(PatchSize(10, 20))


# ----- what is refused


def set_at(*path: str | int, value: object) -> Callable[[Document], None]:
    """A change of one place in the document."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


CHANGES = {
    "unknown field": (set_at("owner", value="me"), "owner"),
    "unknown field of a variant": (set_at("variants", 0, "speed", value=1), "speed"),
    "unknown field of the spec": (set_at("spec", "colour", value="red"), "colour"),
    "no labels": (set_at("spec", "labels", value=[]), "must have labels"),
    "missing field": (lambda document: document.pop("versions"), "versions"),
    "a number as text": (set_at("variants", 0, "tokens", value="21"), "tokens"),
    "a number that is none": (set_at("variants", 0, "gmac", value=float("nan")), "gmac"),
    "an infinite number": (set_at("variants", 0, "parity", "tolerance", value=float("inf")), "tolerance"),
    "a negative size": (set_at("files", 0, "size", value=-1), "size"),
    "a metric above one": (set_at("variants", 0, "metric", value=1.5), "metric"),
    "a checksum in capitals": (set_at("files", 0, "sha256", value="A" * 64), "sha256"),
    "a short checksum": (set_at("files", 0, "sha256", value="0" * 63), "sha256"),
    "another precision": (set_at("variants", 0, "precision", value="int4"), "precision"),
    "no variants": (set_at("variants", value=[]), "variants"),
    "a patch size twice": (set_at("variants", 1, "patch_size", value="8x8"), "stands twice"),
    "a file twice": (lambda document: document["files"].append(document["files"][0]), "listed twice"),
    "a file that is not listed": (lambda document: document["files"].pop(), "not listed: embed-20x10.onnx"),
    "an encoder that is not listed": (set_at("encoders", "fp32", "file", value="other.onnx"), "not listed: other.onnx"),
    "a label that steers a terminal": (set_at("spec", "labels", 0, value="\x1b[2J"), "control characters"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_what_the_schema_does_not_know_is_refused_and_named(
    write: Callable[..., Path], change: Callable[[Document], object], message: str
) -> None:
    with pytest.raises(
        ModelError, match=rf"(?s)manifest\.json is not a valid manifest: .*{message}.*export the bundle"
    ):
        read_manifest(write(change))


TRICKS = (
    *("../encoder.onnx", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "", "encoder.onnx\n", "encoder\x00.onnx"),
    *("~/encoder.onnx", "C:encoder.onnx", "encodér.onnx", "-rf", "e" * 129),
)


@pytest.mark.parametrize("name", TRICKS, ids=repr)
@pytest.mark.parametrize(
    "place", [("encoders", "fp32", "file"), ("golden",), ("variants", 0, "embedder"), ("files", 0, "name")]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    write: Callable[..., Path], name: str, place: tuple[str | int, ...]
) -> None:
    with pytest.raises(ModelError, match=r"(?s)not a valid manifest.*String should match pattern"):
        read_manifest(write(set_at(*place, value=name)))


@given(st.text(max_size=20))
def test_a_name_that_is_accepted_is_a_file_right_inside_the_folder(name: str) -> None:
    try:
        FileEntry(name=name, size=0, sha256="0" * 64)
    except ValidationError:
        return
    path = Path("/bundle") / name
    assert path.resolve().parent == Path("/bundle")
    assert path.name == name


@pytest.mark.parametrize("version", ["2.0", "1.1", "0.9", "10.0", "", "one", None, 2])
def test_another_version_says_what_to_do(write: Callable[..., Path], version: object) -> None:
    with pytest.raises(ModelError, match=r"this flexiast reads 1\.0: upgrade flexiast or export again"):
        read_manifest(write(set_at("schema_version", value=version)))


TEXTS = {
    "nothing": "",
    "a list": "[]",
    "half of it": '{"schema_version": "1.0", "spec": {',
    "no json": "manifest",
    "a key twice": '{"schema_version": "1.0", "schema_version": "1.0"}',
    "a key twice further in": '{"schema_version": "1.0", "spec": {"task": "multi", "task": "single"}}',
    "nested too deeply": "[" * 100_000,
    "not utf-8": b'{"schema_version": "1.0", "encoder": "\xff\xfe"}',
    "an endless number": '{"schema_version": "1.0", "encoder": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_what_is_no_manifest_at_all_is_a_model_error_with_the_path(
    write: Callable[..., Path], text: str | bytes
) -> None:
    folder = write(text=text)
    with pytest.raises(ModelError) as caught:
        read_manifest(folder)
    assert str(folder / MANIFEST) in str(caught.value)


def test_a_key_twice_is_refused_even_where_both_say_the_same(
    write: Callable[..., Path], tiny_manifest: Manifest
) -> None:
    text = tiny_manifest.model_dump_json(exclude_none=True)
    doubled = text.replace('"golden":"golden.npz"', '"golden":"golden.npz","golden":"golden.npz"')
    assert doubled != text
    with pytest.raises(ModelError, match="a key stands twice"):
        read_manifest(write(text=doubled))


def test_a_file_that_is_too_large_is_not_parsed(write: Callable[..., Path], tiny_manifest: Manifest) -> None:
    text = tiny_manifest.model_dump_json(exclude_none=True)
    whole = text + " " * (MAX_MANIFEST_BYTES - len(text.encode()))
    assert read_manifest(write(text=whole)) == tiny_manifest
    with pytest.raises(ModelError, match=r"larger than 4,000,000 bytes"):
        read_manifest(write(text=whole + " "))


@pytest.mark.parametrize("name", ["absent", MANIFEST], ids=["no folder", "a file for a folder"])
def test_what_is_no_folder_says_how_to_make_a_bundle(write: Callable[..., Path], name: str) -> None:
    with pytest.raises(ModelError, match=r"is not a bundle: manifest\.json cannot be read \(.+\); .*flexiast export"):
        read_manifest(write() / name)


def test_a_manifest_cannot_be_changed_in_memory(tiny_manifest: Manifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_manifest.encoder = "other.onnx"


# ----- the JSON Schema


def test_the_published_schema_is_that_of_the_models() -> None:
    published = (Path(__file__).parents[2] / "docs/reference/manifest.schema.json").read_text("utf-8")
    assert json.loads(published) == json_schema(), "python -m flexiast.manifest > docs/reference/manifest.schema.json"


@pytest.mark.parametrize("name", ["commands", "commands-ar", "sounds"])
def test_the_schema_takes_what_the_models_take(name: str) -> None:
    folder = Path(__file__).parents[2] / f"runtime/flexiast_runtime/models/{name}/bundle"
    jsonschema.validate(json.loads((folder / MANIFEST).read_text("utf-8")), json_schema())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("run_as",), "root"),
        (("schema_version",), "2.0"),
        (("variants", 0, "tokens"), "7"),
        (("variants", 0, "patch_size"), "16"),
        (("variants", 0, "temperature"), 0),
        (("golden",), "../golden.npz"),
        (("spec", "frontend", "std"), 0),
        (("spec", "task"), "both"),
        (("files", 0, "sha256"), "abc"),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(
    tiny_manifest: Manifest, where: tuple[str | int, ...], value: object
) -> None:
    document = json.loads(tiny_manifest.model_dump_json(exclude_none=True))
    jsonschema.validate(document, json_schema())
    *path, last = where
    place = document
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())
