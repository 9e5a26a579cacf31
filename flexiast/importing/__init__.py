"""Weights that others trained, as checkpoints: AST of Hugging Face or of its authors, FlexiAST, vision transformers.

    folder    `ASTForAudioClassification`: config.json, preprocessor_config.json, model.safetensors
    AST       the authors' .pth (github.com/YuanGongND/ast): a timm transformer under ``v.`` and ``mlp_head``
    FlexiAST  the authors' .pth (github.com/JiuFengSC/FlexiAST_INTERSPEECH23): the same, kernel and positions on top
    ViT       timm's ViT or DeiT, .pth or .safetensors: no head for sounds, so only a start for training

A prefix token always meets the same position, so the two are added here, once. At the model's own patch and stride the
logits are those of the original.
"""

from __future__ import annotations

import csv
from pathlib import Path

from flexiast.checkpoint import Checkpoint
from flexiast.errors import ModelError, UsageError
from flexiast.importing.hugging_face import import_folder
from flexiast.importing.shape import ImportOptions
from flexiast.importing.timm import import_ast, import_vit
from flexiast.importing.weights import read_weights
from flexiast.spec import check_label

__all__ = ["ImportOptions", "import_model", "read_labels"]


def import_model(source: Path, given: ImportOptions = ImportOptions()) -> Checkpoint:
    """A checkpoint of a foreign model; a vision transformer gives one without labels, a start for training.

    Raises ModelError for a source that is damaged or of another kind, and UsageError for what must be told and was
    not, or was told and cannot be.
    """
    if source.is_dir():
        return import_folder(source, given)
    file = read_weights(source)
    if "pos_embed.pos_embed" in file.weights:
        return import_ast(file, given, flexible=True)
    if "v.pos_embed" in file.weights:
        return import_ast(file, given, flexible=False)
    if "pos_embed" in file.weights:
        return import_vit(file, given)
    raise ModelError(
        f"{source} holds weights of no model that can be imported (among them {min(file.weights, default='none')!r}); "
        "expected an AST or FlexiAST of its authors or a ViT of timm; of a Hugging Face model give the folder"
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, or the column ``display_name`` of a CSV, as AudioSet's; raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a list of labels: {error}") from error
    lines = [line for line in text.split("\n") if line.strip()]
    table = csv.DictReader(lines)
    if "display_name" in (table.fieldnames or ()):
        labels = tuple(row["display_name"] or "" for row in table)
    else:
        labels = tuple(line.strip(" \r") for line in lines)
    try:
        for label in labels:
            check_label(label)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if not labels or len(set(labels)) != len(labels):
        raise UsageError(f"{path} must name at least one label, and each once")
    return labels
