"""Imported models, against transformers' AST and against timm's and the authors' arithmetic written out in torch."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional

from flexiast.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flexiast.errors import FlexiastError, ModelError, UsageError
from flexiast.frontend import Frontend
from flexiast.importing import ImportOptions, import_model, read_labels
from flexiast.importing.timm import AUDIOSET_MEAN, AUDIOSET_STD
from flexiast.model import PatchEmbedding
from flexiast.networks import TorchClassifier, load_model
from flexiast.patching import patch_matrices
from flexiast.spec import PatchSize, ResizeSpec
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import synthetic_inputs

transformers = pytest.importorskip("transformers", reason="imported models are compared with transformers' AST")

Float = NDArray[np.float32]
Tensors = dict[str, torch.Tensor]

TOLERANCE = 1e-4
"""Of logits of size 1 to 10: float32 in another order stays near 1e-6, a wrong weight is far above."""

LABELS = ("alarm", "bark", "clap")
TOLD = ImportOptions(labels=LABELS, task="multi")
WIDTH, DEPTH = 192, 2  # timm's narrowest, so that the number of heads is known


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Nothing is zero or one: every norm, bias, token and position must arrive for logits to agree."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.5 if len(shape) == 1 or "pos" in name or "token" in name else math.prod(shape[1:]) ** -0.5
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = torch.from_numpy(rng.normal(offset, scale, shape).astype(np.float32))
    return tensors


def features_of(checkpoint: Checkpoint, batch: int = 2) -> Float:
    frontend = checkpoint.spec.frontend
    shape = (batch, frontend.window_frames, frontend.mel_bins)
    return np.random.default_rng(9).normal(scale=0.5, size=shape).astype(np.float32)


def logits_of(checkpoint: Checkpoint, patch: PatchSize | None = None) -> Float:
    classifier = TorchClassifier(load_model(checkpoint))
    return classifier.logits(features_of(checkpoint), patch or checkpoint.spec.base_patch)


def assert_equal(found: Float, expected: Any) -> None:
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 0.1  # logits that are all alike would agree with anything
    assert np.abs(expected[0] - expected[1]).max() > 100 * TOLERANCE
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


# ----- Hugging Face


def reference(folder: Path, **changes: Any) -> Any:
    """A tiny AST of transformers with random weights, saved as anyone saves a fine-tune."""
    fields = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "num_mel_bins": 32,
        "max_length": 50,
        "patch_size": 8,
        "frequency_stride": 5,
        "time_stride": 6,
        "layer_norm_eps": 1e-6,
        "problem_type": "multi_label_classification",
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    } | changes
    model = transformers.ASTForAudioClassification(transformers.ASTConfig(**fields)).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(random_tensors(shapes))
    model.save_pretrained(folder)
    transformers.ASTFeatureExtractor(
        num_mel_bins=fields["num_mel_bins"], max_length=fields["max_length"], mean=-5.5, std=3.25
    ).save_pretrained(folder)
    return model


def answers(model: Any, features: Float) -> Float:
    with torch.inference_mode():
        return model(torch.from_numpy(features)).logits.numpy()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("hf") / "ast-tiny"
    return folder, reference(folder)


@pytest.fixture
def folder(pretrained: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "ast-tiny"
    copy.mkdir()
    for path in pretrained[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frequency_stride": 8, "time_stride": 8, "max_length": 48},  # side by side, tiled
        {"frequency_stride": 8, "time_stride": 8},  # side by side, two frames are cropped
        {"qkv_bias": False},
        {"layer_norm_eps": 1e-12, "num_hidden_layers": 1},
        {"layer_norm_eps": 1e-3, "num_attention_heads": 1},
        {"patch_size": 16, "frequency_stride": 10, "time_stride": 10, "num_mel_bins": 128, "max_length": 128},
    ],
    ids=["overlap", "tiled", "cropped", "no qkv bias", "epsilon 1e-12", "epsilon 1e-3", "as AST on commands"],
)
def test_a_hugging_face_ast_answers_as_it_did(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = reference(tmp_path, **changes)
    checkpoint = import_model(tmp_path)
    assert_equal(logits_of(checkpoint), answers(model, features_of(checkpoint)))


def test_the_spec_is_what_the_folder_says(pretrained: tuple[Path, Any]) -> None:
    checkpoint = import_model(pretrained[0])
    spec = checkpoint.spec
    assert (spec.labels, spec.task) == (LABELS, "multi")
    assert (spec.base_patch, spec.base_stride, spec.base_grid) == ((8, 8), (5, 6), (5, 8))
    assert (spec.frontend.window_frames, spec.frontend.mel_bins) == (50, 32)
    assert (spec.frontend.mean, spec.frontend.std) == (-5.5, 3.25)
    content = (pretrained[0] / "model.safetensors").read_bytes()
    assert checkpoint.info == {
        "imported": {
            "format": "transformers",
            "file": "ast-tiny/model.safetensors",
            "sha256": sha256(content).hexdigest(),
        }
    }


def test_patches_that_tile_the_window_lose_nothing_at_other_sizes(tmp_path: Path) -> None:
    reference(tmp_path, frequency_stride=8, time_stride=8, max_length=48)
    assert import_model(tmp_path).spec.base_stride is None


def test_features_are_those_of_the_feature_extractor(pretrained: tuple[Path, Any]) -> None:
    spec = import_model(pretrained[0]).spec.frontend
    rng = np.random.default_rng(0)
    waveform = rng.normal(scale=0.1, size=spec.window_samples).astype(np.float32)
    extractor = transformers.ASTFeatureExtractor.from_pretrained(pretrained[0])
    expected = np.asarray(extractor(waveform, sampling_rate=16_000)["input_values"])[0]
    # torchaudio's front end is float32, ours float64 inside
    np.testing.assert_allclose(Frontend(spec).window(waveform), expected, rtol=0, atol=1e-3)


def test_features_that_are_not_normalised_stay_as_they_are(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", do_normalize=False)
    frontend = import_model(folder).spec.frontend
    assert Frontend(frontend).normalise(np.float32(-7.0)) == np.float32(-7.0)


def test_weights_in_half_precision_are_read(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value.bfloat16() for name, value in tensors.items()}, path)
    assert all(value.dtype == np.float32 for value in import_model(folder).weights.values())


def test_files_of_the_hubs_cache_are_links(folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert import_model(folder).spec.labels == LABELS


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in (document | changes).items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "model_type: Input should be 'audio-spectrogram-transformer'"),
        ({"architectures": ["ASTModel"]}, "architectures.0: Input should be 'ASTForAudioClassification'"),
        ({"architectures": None}, "architectures"),
        ({"hidden_act": "gelu_new"}, "hidden_act: Input should be 'gelu'"),
        ({"hidden_size": "48"}, "hidden_size: Input should be a valid integer"),
        ({"hidden_size": ...}, "hidden_size: Field required"),
        ({"hidden_size": 50}, "intermediate_size 192; only 4 times hidden_size, 200"),
        ({"intermediate_size": 96}, "intermediate_size 96; only 4 times hidden_size, 192"),
        ({"num_attention_heads": 5}, "width 48 is not divisible by 5 heads"),
        ({"layer_norm_eps": 0.0}, "norm_epsilon"),
        ({"time_stride": 0}, "time_stride"),
        ({"time_stride": 9}, "base_stride 5x9 leaves gaps between patches of 8x8"),
        ({"time_stride": 5}, r"positions of shape \(1, 42, 48\), its patches and strides make \(1, 47, 48\)"),
        ({"max_length": 1024}, "max_length 1024, preprocessor_config.json 50; they must agree"),
        ({"num_mel_bins": 128}, "num_mel_bins 128, preprocessor_config.json 32; they must agree"),
        ({"id2label": {"0": "a", "2": "b"}}, "does not number its 2 labels from 0 to 1"),
        ({"id2label": {"0": "a", "1": "b"}}, r"head.bias has shape \(3,\), the spec says \(2,\)"),
        ({"id2label": {"0": "a", "1": "b", "2": "\x1b[31mc"}}, "control characters"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "labels must be distinct"),
        ({"num_hidden_layers": 1}, r"unknown audio_spectrogram_transformer\.encoder\.layer\.1\..*; and 11 more"),
        ({"num_hidden_layers": 3}, r"missing audio_spectrogram_transformer\.encoder\.layer\.2\."),
        ({"qkv_bias": False}, r"unknown .*\.query\.bias"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_followed_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        import_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sampling_rate": 44_100}, "sampling_rate"), ({"std": 0.0}, "std"), ({"mean": ...}, "mean: Field required")],
)
def test_a_front_end_of_another_kind_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match=message):
        import_model(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_every_file_of_the_folder_is_needed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} cannot be read \(No such file"):
        import_model(folder)
    (folder / name).mkdir()
    with pytest.raises(ModelError, match=rf"{name} cannot be read \(Is a directory\)"):
        import_model(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(folder / name)
    with pytest.raises(ModelError, match=rf"{name} cannot be read"):
        import_model(folder)


def test_a_task_that_nobody_told_is_asked_for(folder: Path) -> None:
    edit(folder / "config.json", problem_type=None)
    with pytest.raises(UsageError, match="has no problem_type; say with --task"):
        import_model(folder)
    assert import_model(folder, ImportOptions(task="single")).spec.task == "single"


@pytest.mark.parametrize(
    "told",
    [
        ImportOptions(labels=LABELS),
        ImportOptions(mean=0.0),
        ImportOptions(std=1.0),
        ImportOptions(frames=100),
        ImportOptions(stride=PatchSize(8, 8)),
    ],
    ids=str,
)
def test_what_the_folder_says_cannot_be_told(folder: Path, told: ImportOptions) -> None:
    with pytest.raises(UsageError, match="the folder says it itself; leave it out"):
        import_model(folder, told)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999], ids=lambda kept: f"{kept:.1%}")
def test_truncated_weights_are_refused(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or no file of weights"):
        import_model(folder)


# ----- the authors' AST


def timm_shapes(top: str, prefix: int, patches: int, channels: int = 1, size: int = 16) -> dict[str, tuple[int, ...]]:
    """Names and shapes of timm's VisionTransformer, its head included."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, prefix + patches, WIDTH),
        "patch_embed.proj.weight": (WIDTH, channels, size, size),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    if prefix == 2:
        shapes |= {"dist_token": (1, 1, WIDTH), "head_dist.weight": (10, WIDTH), "head_dist.bias": (10,)}
    for block in range(DEPTH):
        for name, out, into in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"blocks.{block}.{name}.weight": (out, into), f"blocks.{block}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    return {top + name: shape for name, shape in shapes.items()}


HEAD = {
    "mlp_head.0.weight": (WIDTH,),
    "mlp_head.0.bias": (WIDTH,),
    "mlp_head.1.weight": (len(LABELS), WIDTH),
    "mlp_head.1.bias": (len(LABELS),),
}


def encoded(tensors: Tensors, tokens: torch.Tensor, top: str) -> torch.Tensor:
    """timm's blocks and last norm, written out; epsilon 1e-6 and heads 64 wide, as in every DeiT."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    for block in range(DEPTH):
        stem = f"{top}blocks.{block}"
        qkv = linear(f"{stem}.attn.qkv", norm(f"{stem}.norm1", tokens))
        q, k, v = (part.unflatten(-1, (3, 64)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = (q @ k.transpose(-2, -1) * 64**-0.5).softmax(dim=-1) @ v
        tokens = tokens + linear(f"{stem}.attn.proj", mixed.transpose(1, 2).flatten(2))
        hidden = functional.gelu(linear(f"{stem}.mlp.fc1", norm(f"{stem}.norm2", tokens)))
        tokens = tokens + linear(f"{stem}.mlp.fc2", hidden)
    return norm(f"{top}norm", tokens)


def headed(tensors: Tensors, pooled: torch.Tensor) -> torch.Tensor:
    """AST's head: a LayerNorm of PyTorch's own epsilon, 1e-5, and a linear layer."""
    normed = functional.layer_norm(pooled, (WIDTH,), tensors["mlp_head.0.weight"], tensors["mlp_head.0.bias"], 1e-5)
    return functional.linear(normed, tensors["mlp_head.1.weight"], tensors["mlp_head.1.bias"])


def by_the_authors(tensors: Tensors, features: Float, stride: tuple[int, int]) -> torch.Tensor:
    images = torch.from_numpy(features).transpose(1, 2)[:, None]
    proj = tensors["v.patch_embed.proj.weight"], tensors["v.patch_embed.proj.bias"]
    tokens = functional.conv2d(images, *proj, stride=stride).flatten(2).transpose(1, 2)
    prefix = torch.cat((tensors["v.cls_token"], tensors["v.dist_token"]), dim=1)
    tokens = torch.cat((prefix.expand(len(tokens), -1, -1), tokens), dim=1) + tensors["v.pos_embed"]
    hidden = encoded(tensors, tokens, "v.")
    return headed(tensors, (hidden[:, 0] + hidden[:, 1]) / 2)


def write(path: Path, tensors: Any, prefix: str = "") -> Path:
    torch.save({prefix + name: value for name, value in tensors.items()}, path)
    return path


AST = random_tensors(timm_shapes("v.", 2, 12 * 12) | HEAD)
"""12 × 12 patches at stride 10: speech commands, 128 frames."""
COMMANDS = ImportOptions(labels=LABELS, task="single", frames=128)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_ast_of_its_authors_answers_as_it_did(tmp_path: Path, prefix: str) -> None:
    path = write(tmp_path / "ast.pth", AST, prefix)
    checkpoint = import_model(path, COMMANDS)
    assert checkpoint.spec.base_stride == (10, 10)
    assert checkpoint.info["imported"]["file"] == "ast.pth"
    assert checkpoint.info["imported"]["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert_equal(logits_of(checkpoint), by_the_authors(AST, features_of(checkpoint), (10, 10)))


def test_parameters_are_read_as_their_values(tmp_path: Path) -> None:
    parameters = {name: torch.nn.Parameter(value) for name, value in AST.items()}
    read = import_model(write(tmp_path / "parameters.pth", parameters), COMMANDS).weights
    expected = import_model(write(tmp_path / "tensors.pth", AST), COMMANDS).weights
    assert all(np.array_equal(read[name], value) for name, value in expected.items())


def test_the_epsilon_of_the_head_is_its_own(tmp_path: Path) -> None:
    # a last norm this small leaves a variance of 1e-5, so that 1e-6 in place of 1e-5 would be seen
    small = {f"v.norm.{kind}": AST[f"v.norm.{kind}"] * 3e-3 for kind in ("weight", "bias")}
    checkpoint = import_model(write(tmp_path / "ast.pth", AST | small), COMMANDS)
    expected = by_the_authors(AST | small, features_of(checkpoint), (10, 10))
    np.testing.assert_allclose(logits_of(checkpoint), expected, rtol=0, atol=TOLERANCE)


def test_the_two_ways_of_hugging_face_and_the_authors_meet(tmp_path: Path) -> None:
    model = reference(
        tmp_path / "hf",
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_mel_bins=128,
        max_length=128,
        patch_size=16,
        frequency_stride=10,
        time_stride=10,
    )
    there = model.state_dict()
    here = dict(AST)
    body = "audio_spectrogram_transformer"
    embeddings = {
        "cls_token": "cls_token",
        "distillation_token": "dist_token",
        "position_embeddings": "pos_embed",
        "patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "patch_embeddings.projection.bias": "patch_embed.proj.bias",
    }
    here |= {f"v.{ours}": there[f"{body}.embeddings.{theirs}"] for theirs, ours in embeddings.items()}
    for kind in ("weight", "bias"):
        here[f"v.norm.{kind}"] = there[f"{body}.layernorm.{kind}"]
        here[f"mlp_head.0.{kind}"] = there[f"classifier.layernorm.{kind}"]
        here[f"mlp_head.1.{kind}"] = there[f"classifier.dense.{kind}"]
        for block in range(DEPTH):
            stem, layer = f"v.blocks.{block}", f"{body}.layers.{block}"
            parts = [there[f"{layer}.attention.{part}_proj.{kind}"] for part in "qkv"]
            here[f"{stem}.attn.qkv.{kind}"] = torch.cat(parts)
            for theirs, ours in (
                ("layernorm_before", "norm1"),
                ("attention.o_proj", "attn.proj"),
                ("layernorm_after", "norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                here[f"{stem}.{ours}.{kind}"] = there[f"{layer}.{theirs}.{kind}"]
    checkpoint = import_model(write(tmp_path / "ast.pth", here), COMMANDS)
    # transformers has one epsilon; 1e-6 in place of the head's 1e-5 changes logits by less than the tolerance
    assert_equal(logits_of(checkpoint), answers(model, features_of(checkpoint)))


@pytest.mark.parametrize(
    ("grid", "frames", "stride"),
    [((12, 101), None, (10, 10)), ((8, 64), None, None), ((12, 50), 512, (10, 10)), ((8, 32), 512, None)],
    ids=str,
)
def test_the_stride_follows_from_the_positions(
    tmp_path: Path, grid: tuple[int, int], frames: int | None, stride: tuple[int, int] | None
) -> None:
    tensors = AST | random_tensors({"v.pos_embed": (1, 2 + math.prod(grid), WIDTH)})
    path = write(tmp_path / "ast.pth", tensors)
    spec = import_model(path, ImportOptions(labels=LABELS, task="multi", frames=frames)).spec
    assert (spec.base_stride, spec.base_grid) == (stride, grid)
    assert (spec.frontend.mean, spec.frontend.std) == (AUDIOSET_MEAN, AUDIOSET_STD)


def test_a_stride_of_its_own_for_each_axis_is_told(tmp_path: Path) -> None:
    tensors = AST | random_tensors({"v.pos_embed": (1, 2 + 12 * 8, WIDTH)})
    path = write(tmp_path / "ast.pth", tensors)
    with pytest.raises(UsageError, match=r"96 positions, and no strides make .* tell .* --frames, .* --stride"):
        import_model(path, COMMANDS)
    told = ImportOptions(labels=LABELS, task="single", frames=128, stride=PatchSize(10, 16), mean=-6.8, std=5.6)
    checkpoint = import_model(path, told)
    assert (checkpoint.spec.base_grid, checkpoint.spec.frontend.mean) == ((12, 8), -6.8)
    assert_equal(logits_of(checkpoint), by_the_authors(tensors, features_of(checkpoint), (10, 16)))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (ImportOptions(task="multi"), r"neither its labels nor its task; .*--labels FILE"),
        (ImportOptions(labels=LABELS), r"--task single or --task multi"),
        (ImportOptions(labels=LABELS[:2], task="multi", frames=128), "2 labels were given, .* has 3 classes"),
        (ImportOptions(labels=LABELS, task="multi", frames=128, mean=-4.0), "--mean and --std belong together"),
        (
            ImportOptions(labels=LABELS, task="multi"),
            "144 positions, and no strides .* of 128 mel bins x 1024",
        ),
        (ImportOptions(labels=LABELS, task="multi", frames=12), "144 positions, and no strides"),
    ],
    ids=["labels", "task", "count", "mean alone", "frames", "too few frames"],
)
def test_what_the_file_leaves_open_must_be_told(tmp_path: Path, told: ImportOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_model(write(tmp_path / "ast.pth", AST), told)


def without(name: str) -> Tensors:
    return {key: value for key, value in AST.items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("v.blocks.1.norm2.bias"), r"missing v\.blocks\.1\.norm2\.bias$"),
        (without("mlp_head.1.weight"), r"missing mlp_head\.1\.weight$"),
        (without("v.norm.bias"), "a last norm of 0 values"),
        (AST | {"v.blocks.0.ls1.gamma": torch.ones(WIDTH)}, r"unknown v\.blocks\.0\.ls1\.gamma$"),
        (
            AST | {"v.norm.bias": torch.ones(100)},
            "a last norm of 100 values, .* widths 192, 384, 768, 1024 can be imported",
        ),
        (AST | {"v.patch_embed.proj.weight": torch.ones(WIDTH, 256)}, r"a patch kernel of shape \(192, 256\)"),
        (AST | {"v.patch_embed.proj.weight": torch.ones(WIDTH, 1, 200, 200)}, "a patch kernel of shape"),
        (AST | {"v.patch_embed.proj.weight": torch.ones(WIDTH, 1, 0, 16)}, "a patch kernel of shape"),
        (AST | {"v.patch_embed.proj.bias": torch.tensor(1.0)}, "cannot be imported: zero-dimensional"),
        (AST | {"v.cls_token": torch.ones(1, 1, 100)}, "a patch kernel or tokens of another shape"),
        (AST | {"v.pos_embed": torch.ones(2, 146, WIDTH)}, r"positions of shape \(2, 146, 192\)"),
        (
            AST | {"v.blocks.0.mlp.fc1.weight": torch.ones(2 * WIDTH, WIDTH)},
            r"blocks\.0\.expand\.weight has shape \(384, 192\), the spec says \(768, 192\)",
        ),
        (AST | {"v.norm.weight": torch.full((WIDTH,), torch.nan)}, "norm.weight holds values that are not finite"),
        ({"layer.weight": torch.ones(3)}, "holds weights of no model that can be imported .*'layer.weight'"),
        ({}, "holds weights of no model that can be imported"),
        (AST | {"epoch": 3}, "holds something else than named weights; give a state_dict"),
    ],
    ids=[
        "missing",
        "no head",
        "no norm",
        "layer scale",
        "width",
        "kernel",
        "large kernel",
        "empty kernel",
        "scalar",
        "token",
        "positions",
        "mlp",
        "nan",
        "another",
        "empty",
        "number",
    ],
)
def test_weights_of_another_make_are_refused(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        import_model(write(tmp_path / "ast.pth", tensors), COMMANDS)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))], ids=["pth", "pickle"]
)
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, save: Callable[..., Any]) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "executed"
    save({**AST, "v.cls_token": Trap(marker)}, path)
    with pytest.raises(ModelError, match="damaged, or pickles more than weights, which is never loaded"):
        import_model(path, COMMANDS)
    assert not marker.exists()


MATRIX = torch.ones(3, WIDTH)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:.*quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (MATRIX.to_sparse, "torch.sparse_coo"),
        (MATRIX.to_sparse_csr, "torch.sparse_csr"),
        (lambda: torch.quantize_per_tensor(MATRIX, 0.1, 0, torch.qint8), "torch.qint8"),
        (lambda: MATRIX.to(torch.int8), "torch.int8"),
        (lambda: MATRIX.to(torch.complex64), "torch.complex64"),
        (lambda: MATRIX.to("meta"), "meta"),
    ],
    ids=["coo", "csr", "quantised", "integers", "complex", "meta"],
)
def test_weights_that_are_no_dense_floats_are_refused_by_name(
    tmp_path: Path, make: Callable[[], torch.Tensor], kind: str
) -> None:
    path = write(tmp_path / "ast.pth", AST | {"mlp_head.1.weight": make()})
    with pytest.raises(ModelError, match=f"holds mlp_head.1.weight as .*{kind}.*; only dense floats can"):
        import_model(path, TOLD)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999], ids=lambda kept: f"{kept:.1%}")
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "ast.pth", AST)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"ast\.pth is damaged"):
        import_model(path, COMMANDS)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_is_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / ("ast.safetensors" if seed % 4 == 0 else "ast.pth")
    head = (b"\x80\x02", b"PK\x03\x04", b"", b"(dp0\n")[seed % 4]
    path.write_bytes(head + rng.bytes(300))
    with pytest.raises(ModelError, match="is damaged"):
        import_model(path, COMMANDS)


def test_a_source_that_is_absent_or_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.pth cannot be read \(No such file"):
        import_model(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        import_model(tmp_path)


# ----- FlexiAST


def flexiast_tensors(prefix: int) -> Tensors:
    shapes = timm_shapes("v.", prefix, 8 * 64) | HEAD
    shapes |= {
        "patch_embed.proj.weight": (WIDTH, 1, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        "pos_embed.pos_embed": (1, prefix + 8 * 64, WIDTH),
    }
    return random_tensors(shapes)


def by_flexiast(tensors: Tensors, features: Float, size: int, prefix: int) -> torch.Tensor:
    """Its forward pass: PI-resize without antialias by the pseudo-inverse of whole patches, positions with."""
    kernel, positions = tensors["patch_embed.proj.weight"], tensors["pos_embed.pos_embed"]
    unit = torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    resize = functional.interpolate(unit, (size, size), mode="bilinear", antialias=False).flatten(1).T
    kernel = (kernel.flatten(1).double() @ torch.linalg.pinv(resize)).reshape(-1, 1, size, size).float()
    images = torch.from_numpy(features).transpose(1, 2)[:, None]
    tokens = functional.conv2d(images, kernel, tensors["patch_embed.proj.bias"], stride=size).flatten(2).transpose(1, 2)
    grid = positions[:, prefix:].reshape(1, 8, 64, WIDTH).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (128 // size, 1024 // size), mode="bilinear", antialias=True)
    there = torch.cat((tensors["v.cls_token"], *(tensors[name] for name in ("v.dist_token",)[: prefix - 1])), dim=1)
    tokens = torch.cat((there.expand(len(tokens), -1, -1), tokens), dim=1)
    tokens = tokens + torch.cat((positions[:, :prefix], grid.flatten(2).transpose(1, 2)), dim=1)
    return headed(tensors, encoded(tensors, tokens, "v.")[:, :prefix].mean(dim=1))


@pytest.mark.parametrize("prefix", [1, 2], ids=["ViT", "DeiT"])
def test_flexiast_answers_as_it_did_at_every_size_that_tiles_the_window(tmp_path: Path, prefix: int) -> None:
    tensors = flexiast_tensors(prefix)
    checkpoint = import_model(write(tmp_path / "flexiast.pth", tensors, "module."), TOLD)
    spec = checkpoint.spec
    assert spec.resize == ResizeSpec(kernel="linear", antialias=False)
    assert (spec.base_stride, spec.base_grid, spec.frontend.window_frames) == (None, (8, 64), 1024)
    features = features_of(checkpoint)
    for size in (16, 32, 64):
        with torch.inference_mode():
            expected = by_flexiast(tensors, features, size, prefix)
        assert_equal(logits_of(checkpoint, PatchSize(size, size)), expected)


def test_what_flexiast_left_of_ast_is_not_needed(tmp_path: Path) -> None:
    tensors = flexiast_tensors(1)
    bare = {name: value for name, value in tensors.items() if not name.startswith(("v.pos", "v.patch", "v.head"))}
    whole = import_model(write(tmp_path / "whole.pth", tensors), TOLD).weights
    rest = import_model(write(tmp_path / "bare.pth", bare), TOLD).weights
    assert all(np.array_equal(whole[name], rest[name]) for name in whole | rest)


def test_flexiast_has_no_stride_to_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "flexiast.pth", flexiast_tensors(1))
    with pytest.raises(UsageError, match=r"--stride cannot be used .* patches do not overlap; leave it out"):
        import_model(path, ImportOptions(labels=LABELS, task="multi", stride=PatchSize(10, 10)))
    with pytest.raises(UsageError, match="positions of shape"):
        import_model(path, ImportOptions(labels=LABELS, task="multi", frames=512))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": math.nan, "std": 1.0}, "--mean nan cannot be used; give a number"),
        ({"mean": 0.0, "std": 0.0}, "--std 0.0 cannot be used; give a number above 0"),
        ({"std": math.inf}, "--std inf"),
        ({"frames": 0}, "--frames 0"),
        ({"frames": 1_000_000}, "--frames 1000000 cannot be used; give 1 to 71,998"),
    ],
)
def test_values_that_no_model_has_are_not_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImportOptions(**values)
    assert ImportOptions(frames=71_998).frames == 71_998


@pytest.mark.parametrize(
    "told", [{"frames": 8}, {"frames": 60_000}, {"stride": PatchSize(17, 16)}, {"stride": PatchSize(8, 8)}], ids=str
)
def test_what_was_told_and_cannot_be_is_the_users_fault(tmp_path: Path, told: dict[str, Any]) -> None:
    """Of an AST; where nothing of it was told, the source is damaged."""
    path = write(tmp_path / "ast.pth", random_tensors(timm_shapes("v.", 2, 144) | HEAD))
    assert import_model(path, COMMANDS).spec.base_stride == PatchSize(10, 10)
    with pytest.raises(UsageError):
        import_model(path, replace(COMMANDS, **told))


def test_a_folder_whose_window_is_too_short_is_damaged(folder: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        edit(folder / name, max_length=4)
    with pytest.raises(ModelError, match="larger than one window"):
        import_model(folder)


# ----- vision transformers


def resized_by_ast(positions: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The authors' rule, written out: cut from the middle or interpolate, one axis after the other."""
    side = math.isqrt(positions.shape[1])
    grid = positions.reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
    if columns <= side:
        start = int(side / 2) - int(columns / 2)
        grid = grid[..., start : start + columns]
    else:
        grid = functional.interpolate(grid, (side, columns), mode="bilinear")
    if rows <= side:
        start = int(side / 2) - int(rows / 2)
        grid = grid[:, :, start : start + rows]
    else:
        grid = functional.interpolate(grid, (rows, columns), mode="bilinear")
    return grid.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("prefix", [1, 2], ids=["ViT", "DeiT"])
@pytest.mark.parametrize(
    ("side", "frames", "grid"), [(14, 512, (8, 32)), (14, 96, (8, 6)), (24, 1024, (8, 64)), (6, 160, (8, 10))]
)
def test_a_vision_transformer_hears_what_it_would_see(
    tmp_path: Path, prefix: int, side: int, frames: int, grid: tuple[int, int]
) -> None:
    tensors = random_tensors(timm_shapes("", prefix, side * side, channels=3))
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(tensors, path)
    checkpoint = import_model(path, ImportOptions(frames=frames))
    assert (checkpoint.spec.labels, checkpoint.spec.base_grid) == ((), grid)
    assert not {name for name in checkpoint.weights if name.startswith("head")}

    features = features_of(checkpoint)
    pictures = torch.from_numpy(features).transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
    proj = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    tokens = functional.conv2d(pictures, *proj, stride=16).flatten(2).transpose(1, 2)
    positions = tensors["pos_embed"]
    there = torch.cat((tensors["cls_token"], *(tensors[name] for name in ("dist_token",)[: prefix - 1])), dim=1)
    there = (there + positions[:, :prefix]).expand(len(tokens), -1, -1)
    tokens = torch.cat((there, tokens + resized_by_ast(positions[:, prefix:], *grid)), dim=1)
    expected = encoded(tensors, tokens, "")[:, :prefix].mean(dim=1)

    # with a head that hands on what it reads, the start answers with what its head would be trained on
    spec = checkpoint.spec.model_copy(update={"labels": tuple(map(str, range(WIDTH)))})
    head = {"head.weight": np.eye(WIDTH, dtype=np.float32), "head.bias": np.zeros(WIDTH, np.float32)}
    assert_equal(logits_of(Checkpoint(spec, checkpoint.weights | head)), expected)


def test_a_start_can_be_saved_and_read_for_training(tmp_path: Path) -> None:
    tensors = random_tensors(timm_shapes("", 1, 196, channels=3) | {"pre_logits.fc.weight": (WIDTH, WIDTH)})
    torch.save({"model": tensors}, tmp_path / "vit.pth")
    checkpoint = import_model(tmp_path / "vit.pth", ImportOptions(frames=98, stride=PatchSize(10, 10)))
    assert checkpoint.spec.base_grid == (12, 9)
    save_checkpoint(tmp_path / "start.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "start.safetensors", start=True).spec == checkpoint.spec


@pytest.mark.parametrize("told", [ImportOptions(labels=LABELS), ImportOptions(task="single")], ids=["labels", "task"])
def test_a_vision_transformer_knows_no_sounds(tmp_path: Path, told: ImportOptions) -> None:
    path = write(tmp_path / "vit.pth", random_tensors(timm_shapes("", 1, 196, channels=3)))
    with pytest.raises(UsageError, match="its classes are no sounds"):
        import_model(path, told)


def test_positions_of_no_square_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "vit.pth", random_tensors(timm_shapes("", 1, 195, channels=3)))
    with pytest.raises(ModelError, match="195 positions, which are not those of a square picture"):
        import_model(path)


# ----- labels


@pytest.mark.parametrize(
    "text",
    [
        "Child speech, kid speaking\nDog\n",
        "\ufeffChild speech, kid speaking\r\nDog\r\n\r\n",
        'index,mid,display_name\n0,/m/0ytgt,"Child speech, kid speaking"\n1,/m/0bt9lr,Dog\n',
    ],
    ids=["lines", "windows", "csv"],
)
def test_labels_are_lines_or_a_column(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels") == ("Child speech, kid speaking", "Dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one label, and each once"),
        (b"dog\ncat\ndog\n", "each once"),
        (b"dog\n\x1b[31mcat\n", "control characters"),
        (b"index,display_name\n0\n", "1 to 200 characters"),
        (b"\xff\xfe", "cannot be read as a list of labels"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(tmp_path / "labels")
    assert "\x1b" not in str(caught.value)


# ----- what follows


@pytest.mark.parametrize("stride", [(5, 6), (8, 8)], ids=str)
def test_an_imported_model_is_exported_at_its_own_and_other_sizes(tmp_path: Path, stride: tuple[int, int]) -> None:
    reference(tmp_path / "hf", frequency_stride=stride[0], time_stride=stride[1])
    checkpoint = import_model(tmp_path / "hf")
    patches = (PatchSize(8, 8), PatchSize(4, 4), PatchSize(16, 12), PatchSize(32, 50), PatchSize(1, 7))
    source = TorchClassifier(load_model(checkpoint))
    manifest = export_onnx(checkpoint, source, patches, tmp_path / "bundle")  # raises unless every engine agrees
    assert [variant.tokens for variant in manifest.variants] == [checkpoint.spec.tokens(patch) for patch in patches]
    answers = source.logits(synthetic_inputs(checkpoint.spec), PatchSize(8, 8))
    assert np.abs(answers[0] - answers[2]).max() > 0.01  # noise and a sweep


@pytest.mark.parametrize("patch", [PatchSize(4, 4), PatchSize(16, 16), PatchSize(12, 10)], ids=str)
def test_a_resized_overlapping_model_has_the_exporters_kernel_and_positions(
    pretrained: tuple[Path, Any], patch: PatchSize
) -> None:
    checkpoint = import_model(pretrained[0])
    embedding = PatchEmbedding(checkpoint.spec)
    with torch.no_grad():
        embedding.kernel.copy_(torch.from_numpy(checkpoint.weights["embedding.kernel"]))
        embedding.positions.copy_(torch.from_numpy(checkpoint.weights["embedding.positions"]))
        kernel, positions = (tensor.numpy() for tensor in embedding.resize(patch))
    matrices = patch_matrices(checkpoint.spec, patch)
    np.testing.assert_allclose(kernel, matrices.kernel(checkpoint.weights["embedding.kernel"]), atol=1e-5)
    expected = matrices.positions(checkpoint.weights["embedding.positions"])
    np.testing.assert_allclose(positions, expected, atol=1e-5)


def test_errors_of_importing_are_one_line(tmp_path: Path) -> None:
    for told in (ImportOptions(), COMMANDS):
        with pytest.raises(FlexiastError) as caught:
            import_model(write(tmp_path / "ast.pth", AST | {"x": torch.ones(1)}), told)
        assert "\n" not in str(caught.value)
