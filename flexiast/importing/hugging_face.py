"""A folder of Hugging Face: `ASTForAudioClassification`, its config and its feature extractor's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexiast.checkpoint import Checkpoint
from flexiast.errors import ModelError, UsageError
from flexiast.importing.shape import (
    ImportOptions,
    ast_frontend,
    base_stride_of,
    build_spec,
    checkpoint_of,
    fold_weights,
    valid,
)
from flexiast.importing.weights import Names, layers, pairs, read_weights
from flexiast.spec import MLP_RATIO, NetworkSpec, PatchSize, Spec, describe

M = TypeVar("M", bound=BaseModel)

TASKS: dict[str, Literal["single", "multi"]] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
}
FOLDER = "a folder written by `save_pretrained` of ASTForAudioClassification and of its feature extractor"


HF_BLOCK: Names = {
    "norm1": ("layernorm_before",),
    "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "projection": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "expand": ("intermediate.dense",),
    "contract": ("output.dense",),
}


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class _Config(_Document):
    """What of ``config.json`` decides the logits."""

    model_type: Literal["audio-spectrogram-transformer"]
    architectures: tuple[Literal["ASTForAudioClassification"]]
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: Literal["gelu"]
    layer_norm_eps: float
    qkv_bias: bool
    patch_size: Annotated[int, Field(ge=1)]
    frequency_stride: Annotated[int, Field(ge=1)]
    time_stride: Annotated[int, Field(ge=1)]
    max_length: int
    num_mel_bins: int
    id2label: dict[str, str]
    problem_type: Literal["single_label_classification", "multi_label_classification"] | None = None


class _Preprocessor(_Document):
    """What of ``preprocessor_config.json`` decides the features."""

    sampling_rate: Literal[16_000]
    num_mel_bins: int
    max_length: int
    do_normalize: bool
    mean: float
    std: float


def import_folder(folder: Path, given: ImportOptions) -> Checkpoint:
    config = _document(folder / "config.json", _Config)
    preprocessor = _document(folder / "preprocessor_config.json", _Preprocessor)
    given.refuse(folder, "the folder says it itself", "labels", "mean", "std", "frames", "stride")
    spec = _folder_spec(folder, config, preprocessor, given)
    body = "audio_spectrogram_transformer"
    names = layers(f"{body}.encoder.layer", HF_BLOCK, spec.network.depth) | pairs(
        {
            "embedding": (f"{body}.embeddings.patch_embeddings.projection",),
            "norm": (f"{body}.layernorm",),
            "head_norm": ("classifier.layernorm",),
            "head": ("classifier.dense",),
        }
    )
    names["cls"] = (f"{body}.embeddings.cls_token",)
    names["distillation"] = (f"{body}.embeddings.distillation_token",)
    names["positions"] = (f"{body}.embeddings.position_embeddings",)
    absent = {name for name in names if name.endswith("qkv.bias") and not config.qkv_bias}
    file = read_weights(folder / "model.safetensors")
    raw = file.rename_weights({name: parts for name, parts in names.items() if name not in absent})
    raw |= {name: np.zeros(3 * config.hidden_size, np.float32) for name in absent}
    return checkpoint_of(file, spec, fold_weights(file.path, raw, spec, given), "transformers")


def _folder_spec(folder: Path, config: _Config, preprocessor: _Preprocessor, given: ImportOptions) -> Spec:
    """What the two documents say together; raises ModelError where they cannot be followed."""
    where, count = folder / "config.json", len(config.id2label)
    if config.intermediate_size != MLP_RATIO * config.hidden_size:
        raise ModelError(
            f"{where} has intermediate_size {config.intermediate_size}; only {MLP_RATIO} times hidden_size, "
            f"{MLP_RATIO * config.hidden_size}, can be imported"
        )
    for name in ("max_length", "num_mel_bins"):
        if getattr(config, name) != getattr(preprocessor, name):
            raise ModelError(
                f"{where} has {name} {getattr(config, name)}, preprocessor_config.json {getattr(preprocessor, name)}; "
                "they must agree"
            )
    if config.id2label.keys() != {str(index) for index in range(count)}:
        raise ModelError(f"{where} has an id2label that does not number its {count} labels from 0 to {count - 1}")
    task = given.task or (config.problem_type and TASKS[config.problem_type])
    if task is None:
        raise UsageError(f"{where} has no problem_type; say with --task whether a clip has a single label or multi")
    # features are (log-mel − mean) / (2 · std): with 0 and ½ they stay as they are
    mean, std = (preprocessor.mean, preprocessor.std) if preprocessor.do_normalize else (0.0, 0.5)
    network = valid(
        where,
        NetworkSpec,
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        prefix_tokens=2,
        norm_epsilon=config.layer_norm_eps,
        head_norm=True,
    )
    patch = PatchSize(config.patch_size, config.patch_size)
    frontend = ast_frontend(where, config.max_length, config.num_mel_bins, mean, std)
    return build_spec(
        where,
        given,
        frontend=frontend,
        base_patch=patch,
        base_stride=base_stride_of(frontend, patch, PatchSize(config.frequency_stride, config.time_stride)),
        trained_patches=(patch,),
        network=network,
        task=task,
        labels=tuple(config.id2label[str(index)] for index in range(count)),
    )


def _document(path: Path, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); expected {FOLDER}") from error
    except ValidationError as error:
        raise ModelError(
            f"{path} is not of an AST that can be imported: {describe(error)}; expected {FOLDER}"
        ) from error
