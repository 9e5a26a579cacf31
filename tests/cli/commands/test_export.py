"""`flexiast export` and `inspect`: what a dry run refuses, options without effect, and what is told of each size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from flexiast.checkpoint import Checkpoint, save_checkpoint, weight_shapes
from flexiast.evaluation.evaluate import Classifier
from flexiast.manifest import MANIFEST, Labelled, Manifest, read_manifest
from flexiast.spec import PRESETS, PatchSize
from flexiast_cli.app import app
from flexiast_cli.terminal.console import count_noun
from flexiast_export.to_onnx import export_onnx

NOTES = ("Compared on", "are compared under")


def flexiast(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "400"})


@pytest.fixture(scope="module")
def ready(tiny_checkpoint: Checkpoint, tiny_source: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, bundles and sounds; nobody writes here."""
    folder = tmp_path_factory.mktemp("ready")
    save_checkpoint(folder / "CHECKPOINT", tiny_checkpoint)
    spec = tiny_checkpoint.spec.model_copy(update={"network": PRESETS["convnet"]})
    weights = {name: np.ones(shape, np.float32) for name, shape in weight_shapes(spec).items()}
    save_checkpoint(folder / "CONVNET", Checkpoint(spec, weights))
    for name in ("fp32", "int8"):
        export_onnx(tiny_checkpoint, tiny_source, [PatchSize(16, 16)], folder / f"BUNDLE-{name}", precisions=[name])
    clip = np.random.default_rng(0).normal(scale=0.1, size=16_000)
    for label in ("PLAIN/wind", *(f"LABELLED/{label}" for label in spec.labels)):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            soundfile.write(folder / label / f"{number}.wav", clip, 16_000)
    (folder / "EMPTY").mkdir()
    (folder / "FILE").write_text("notes")
    return folder


REFUSALS: list[tuple[tuple[str, ...], int, str]] = [
    (("CHECKPOINT", "--patch-sizes", "400", "-o", "NEW"), 2, "400x400"),
    (("CHECKPOINT", "--patch-sizes", "8"), 2, "--output"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "BUNDLE-fp32"), 2, "--force"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "PLAIN", "--force"), 2, "not a bundle folder"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "FILE/b"), 2, "is not a folder that you may write to"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "NEW", "--opset", "99"), 2, "opset 99"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "NEW", "--precision", "int8-static"), 2, "--calibration-data"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "NEW", "--verify-data", "NONE"), 8, "does not exist"),
    (("CHECKPOINT", "--patch-sizes", "8", "-o", "NEW", "--verify-data", "EMPTY"), 8, "holds no audio"),
    (("CONVNET", "--patch-sizes", "8", "-o", "NEW"), 3, "a teacher"),
    (("BUNDLE-fp32", "--patch-sizes", "16"), 2, "has these sizes already"),
    (("BUNDLE-fp32", "--patch-sizes", "400"), 2, "400x400"),
    (("BUNDLE-fp32", "--patch-sizes", "8", "-o", "BUNDLE-int8"), 2, "--force"),
    (("BUNDLE-fp32", "--patch-sizes", "8", "--opset", "18"), 2, "stay as they are"),
]
WITHOUT_EFFECT: list[tuple[tuple[str, ...], int, str]] = [
    (("CHECKPOINT", "-o", "NEW", "--calibration-data", "PLAIN"), 2, "int8-static, which is not asked for"),
    (("CHECKPOINT", "-o", "NEW", "--val-fold", "1"), 2, "--val-fold chooses a fold of a CSV"),
    (("CHECKPOINT", "-o", "NEW", "--val-fold", "1", "--verify-data", "LABELLED"), 2, "--val-fold chooses"),
    (("CHECKPOINT", "-o", "NEW", "--max-drop", "1"), 2, "--verify-data"),
    (("CHECKPOINT", "-o", "NEW", "--max-drop", "1", "--verify-data", "PLAIN"), 2, "has no labels that the model knows"),
    (("BUNDLE-int8", "--max-drop", "1", "--verify-data", "LABELLED"), 2, "has no fp32 engines"),
]


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "export"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [*REFUSALS, *(((*given, "--patch-sizes", "8"), code, said) for given, code, said in WITHOUT_EFFECT)],
)
def test_a_dry_run_refuses_what_an_export_refuses_and_neither_speaks_before(
    ready: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str, dry: bool
) -> None:
    there = {path.name for path in ready.iterdir()}
    places = {text: ready / text for text in arguments if text.split("/")[0] in there} | {"NEW": tmp_path / "a/new"}
    given = [places.get(text, text) for text in arguments]
    result = flexiast("export", *given, *["--dry-run"] * dry)
    assert result.exit_code == code, result.output
    assert said in result.output
    assert not any(note in result.output for note in NOTES)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_not_replaced_by_its_own_bundle(ready: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(ready / "BUNDLE-fp32", tmp_path / "bundle")
    shutil.copy(ready / "CHECKPOINT", bundle / "checkpoint.safetensors")
    (tmp_path / "link.safetensors").symlink_to(bundle / "checkpoint.safetensors")
    for model in (bundle / "checkpoint.safetensors", tmp_path / "link.safetensors"):
        result = flexiast("export", model, "--patch-sizes", "8", "-o", bundle, "--force")
        assert result.exit_code == 2, result.output
        assert "holds the checkpoint itself" in result.output


def test_a_size_added_to_a_bundle_without_float32_says_what_was_compared(ready: Path, tmp_path: Path) -> None:
    result = flexiast("export", ready / "BUNDLE-int8", "--patch-sizes", "8", "-o", tmp_path / "more")
    assert result.exit_code == 0, result.output
    assert "compared under its own int8 encoder" in result.output
    assert "not what int8 loses" in result.output
    old, new = read_manifest(tmp_path / "more").variants
    assert (old.parity.against, new.parity.against) == (None, "int8")
    shown = flexiast("inspect", tmp_path / "more").output
    assert "Compared with the model on 3 windows, 0 of them real sound (16x16)." in shown
    assert "Compared with numpy under the bundle's own int8 encoder on 3 windows, 0 of them real sound (8x8)." in shown


# ----- inspect


def rewritten(folder: Path, change: Callable[[Manifest], Any], output: Path) -> Path:
    shutil.copytree(folder, output)
    manifest = change(read_manifest(output))
    (output / MANIFEST).unlink()
    (output / MANIFEST).write_text(manifest.model_dump_json(exclude_none=True))
    return output


def test_each_row_shows_the_engines_own_metric(ready: Path, tmp_path: Path) -> None:
    def measured(manifest: Manifest) -> Manifest:
        (variant,) = manifest.variants
        found = variant.model_copy(update={"labelled": Labelled(clips=100, metric=0.25, source_metric=0.5)})
        return manifest.model_copy(update={"variants": (found,)})

    rows = {
        name: flexiast("inspect", folder).output.split("\n16x16 ")[1].splitlines()[0].split()
        for name, folder in {
            "fp32": ready / "BUNDLE-fp32",
            "int8": ready / "BUNDLE-int8",
            "measured": rewritten(ready / "BUNDLE-int8", measured, tmp_path / "measured"),
        }.items()
    }
    assert rows["fp32"][-1] == "0.700"  # as training measured it
    assert rows["int8"][-1] == "–"
    assert rows["measured"][-2:] == ["0.250", "25.00"]


def test_a_convnet_has_no_patch_sizes_to_show(ready: Path) -> None:
    shown = flexiast("inspect", ready / "CONVNET")
    assert shown.exit_code == 0, shown.output
    assert "convnet, 256 wide, 4 stages" in shown.output
    assert not any(word in shown.output for word in ("tokens", "trained at", "heads", "16x16"))
    assert json.loads(flexiast("inspect", ready / "CONVNET", "--json").output)["spec"]["network"]["depth"] == 4


@pytest.mark.parametrize(
    ("number", "noun", "text"), [(0, "plan", "0 plans"), (1, "plan", "1 plan"), (1000, "plan", "1,000 plans")]
)
def test_one_is_not_many(number: int, noun: str, text: str) -> None:
    assert count_noun(number, noun) == text
    assert count_noun(number, "switch", "switches") == text.replace("plans", "switches").replace("plan", "switch")


# ----- one file a size


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("BUNDLE-fp32",), "--output"),
        (("BUNDLE-fp32", "-o", "NEW", "--patch-sizes", "8"), "no patch size 8x8"),
        (("BUNDLE-fp32", "-o", "NEW", "--precision", "int8"), "has no int8 engines"),
        (("BUNDLE-fp32", "-o", "NEW", "--opset", "18"), "--opset has no effect on a bundle"),
        (("BUNDLE-fp32", "-o", "NEW", "--dry-run"), "leave it out"),
    ],
)
def test_a_single_file_refuses_what_has_no_effect(
    ready: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    there = {path.name for path in ready.iterdir()}
    places = {text: ready / text for text in arguments if text in there} | {"NEW": tmp_path / "new"}
    result = flexiast("export", "--single-file", *(places.get(text, text) for text in arguments))
    assert (result.exit_code, said in result.output) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_a_single_file_without_a_licence_says_so(ready: Path, tmp_path: Path) -> None:
    said = "the licence of these weights is not known"
    alone = flexiast("export", ready / "BUNDLE-fp32", "--single-file", "-o", tmp_path / "a")
    assert (alone.exit_code, said in " ".join(alone.stderr.split())) == (0, True), alone.stderr
    shipped = flexiast("export", "sounds", "--patch-sizes", "48", "--single-file", "-o", tmp_path / "b")
    assert (shipped.exit_code, said in " ".join(shipped.stderr.split())) == (0, False), shipped.stderr


def test_a_checkpoint_gives_the_same_single_file_as_its_bundle(ready: Path, tmp_path: Path) -> None:
    for model, folder in (("CHECKPOINT", "one"), ("BUNDLE-fp32", "two")):
        given = ("--patch-sizes", "16") if model == "CHECKPOINT" else ()
        result = flexiast("export", ready / model, *given, "--single-file", "-o", tmp_path / folder, "--json")
        assert result.exit_code == 0, result.output
    one, two = (next((tmp_path / folder).iterdir()).read_bytes() for folder in ("one", "two"))
    assert one == two
    assert json.loads(result.output[result.output.index("{") :])["files"] == [
        str(tmp_path / "two/BUNDLE-fp32-16x16.onnx")
    ]
