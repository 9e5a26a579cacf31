"""import → inspect → export → verify → classify, and what `flexiast import` refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Run
from tests.cli.test_errors import assert_refused

transformers = pytest.importorskip("transformers", reason="an AST is made on the spot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AST of Hugging Face with overlapping patches, whose answers differ from sound to sound."""
    folder = tmp_path_factory.mktemp("hf") / "tones"
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_length=50,
        id2label={0: "high", 1: "low"},
        label2id={"high": 0, "low": 1},
        problem_type="single_label_classification",
    )
    model = transformers.ASTForAudioClassification(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + parameter)
    model.save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=50).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-Ti of one block."""
    shapes = {
        "cls_token": (1, 1, 192),
        "pos_embed": (1, 197, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,),
        "blocks.0.attn.qkv.weight": (576, 192),
        "blocks.0.attn.qkv.bias": (576,),
        "blocks.0.attn.proj.weight": (192, 192),
        "blocks.0.attn.proj.bias": (192,),
        "blocks.0.mlp.fc1.weight": (768, 192),
        "blocks.0.mlp.fc1.bias": (768,),
        "blocks.0.mlp.fc2.weight": (192, 768),
        "blocks.0.mlp.fc2.bias": (192,),
        **{
            f"{name}.{kind}": (192,)
            for name in ("norm", "blocks.0.norm1", "blocks.0.norm2")
            for kind in ("weight", "bias")
        },
    }
    path = tmp_path_factory.mktemp("vit") / "vit.pth"
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    return path


def test_an_imported_model_goes_all_the_way(run: Run, folder: Path, sounds: Path, tmp_path: Path) -> None:
    result = run("import", folder, "-o", tmp_path / "tones.safetensors")
    assert result.returncode == 0, result.stderr
    assert "2 labels: high, low" in result.stderr

    shown = run("inspect", tmp_path / "tones.safetensors").stdout
    assert "stride 10x10" in shown
    assert "imported from tones/model.safetensors (transformers)" in shown
    document = json.loads(run("inspect", tmp_path / "tones.safetensors", "--json").stdout)
    assert document["spec"]["network"]["prefix_tokens"] == 2
    assert document["info"]["imported"]["format"] == "transformers"

    bundle = tmp_path / "tones.bundle"
    result = run("export", tmp_path / "tones.safetensors", "--patch-sizes", "16,8,32x20", "-o", bundle)
    assert result.returncode == 0, result.stderr
    result = run("verify", bundle)
    assert result.returncode == 0, result.stderr
    result = run("classify", bundle, sounds, "--format", "csv", "--threshold", "0.01")
    assert result.returncode == 0, result.stderr
    assert "low" in result.stdout


def test_half_takes_half_the_room(run: Run, folder: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert run("import", folder, "-o", whole).returncode == 0
    assert run("import", folder, "-o", half, "--half").returncode == 0
    assert half.stat().st_size < 0.8 * whole.stat().st_size  # at this width kernel and positions still weigh much


def test_a_file_that_exists_is_kept_unless_forced(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_text("precious")
    assert_refused(run("import", folder, "-o", path), 2, "exists", "--force")
    assert path.read_text() == "precious"
    assert run("import", folder, "-o", path, "--force").returncode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_the_source_is_never_overwritten(run: Run, folder: Path) -> None:
    path = folder / "model.safetensors"
    before = path.read_bytes()
    assert_refused(run("import", folder, "-o", path, "--force"), 2, "is what is imported")
    assert path.read_bytes() == before


def test_an_output_that_is_a_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    assert_refused(run("import", folder, "-o", tmp_path), 2, "folder", "name a file")


def test_labels_are_read_before_the_weights(run: Run, start: Path, tmp_path: Path) -> None:
    labels, output = tmp_path / "labels.txt", tmp_path / "x.safetensors"
    assert_refused(run("import", start, "-o", output, "--labels", labels), 2, "labels.txt")
    labels.write_text("dog\n\x1b[31mcat\n")
    result = run("import", start, "-o", output, "--labels", labels)
    assert_refused(result, 2, "control characters")
    assert "\x1b" not in result.stderr
    assert not output.exists()


def test_a_vision_transformer_is_a_start_and_nothing_else(run: Run, start: Path, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    result = run("import", start, "-o", path, "--frames", "98")
    assert result.returncode == 0, result.stderr
    assert "--init" in result.stderr
    assert "no labels: a start for training" in run("inspect", path).stdout
    assert_refused(run("export", path, "--patch-sizes", "16", "-o", tmp_path / "b"), 3, "start for training", "--init")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--std", "0"), "--std 0.0 cannot be used"),
        (("--frames", "99999999"), "--frames 99999999 cannot be used"),
        (("--frames", "8"), "larger than one window"),
        (("--stride", "20"), "leaves gaps"),
    ],
)
def test_a_value_that_cannot_be_is_a_usage_error(
    run: Run, start: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    assert_refused(run("import", start, "-o", tmp_path / "x.safetensors", *options), 2, said)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_is_no_model(run: Run, tmp_path: Path) -> None:
    torch.save({"model": np.ones(3)}, tmp_path / "ast.pth")
    result = run("import", tmp_path / "ast.pth", "-o", tmp_path / "x.safetensors")
    assert_refused(result, 3, "never loaded", "state_dict")
    assert "Warning" not in result.stderr
    assert_refused(run("import", tmp_path / "none.pth", "-o", tmp_path / "x.safetensors"), 3, "none.pth")
    assert_refused(run("import", tmp_path, "-o", tmp_path / "x.safetensors"), 3, "config.json")
