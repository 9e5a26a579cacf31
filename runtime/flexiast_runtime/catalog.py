"""Finds a model by its path or name: a checkpoint, a bundle, or a shipped model."""

from __future__ import annotations

import re
from pathlib import Path

from flexiast.errors import ModelError
from flexiast.manifest import MANIFEST

DEFAULT = "sounds"
CHECKPOINT = "checkpoint.safetensors"
"""File name of the best checkpoint of `flexiast train`"""
MODEL_CARD = "MODEL_CARD.md"
"""File name of the description beside a shipped checkpoint and its bundle"""
_SHIPPED = Path(__file__).parent / "models"


def list_shipped() -> tuple[str, ...]:
    """Names of the models that are part of this installation."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob(f"*/{MODEL_CARD}")))


def name_bundle(folder: Path) -> str:
    """What a user calls the bundle of a folder: a shipped one by its name, another by its path."""
    return folder.parent.name if folder.parent.parent == _SHIPPED else str(folder)


def find_licence(stated: str | None, model: Path) -> str | None:
    """Of the weights of a checkpoint or bundle: as it states itself, else as the card beside it names it.

    None where neither does.
    """
    if stated:
        return stated
    card = model.resolve().parent / MODEL_CARD
    text = card.read_text("utf-8") if card.is_file() else ""
    found = re.search(r"\*\*Licence of these weights:\*\* *([^\n]+(?:\n +[^\n]+)*)", text)
    return None if found is None else " ".join(found[1].split())


def find_bundle(model: str) -> Path:
    """The bundle folder of a path or a shipped name; raises ModelError."""
    path = _find(model, "bundle")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(
                f"{model} is a file and no model; give a bundle folder or a shipped model ({', '.join(list_shipped())})"
            )
        raise ModelError(
            f"{model} is a file; this needs a bundle folder: make one with `flexiast export {model} -o BUNDLE`"
        )
    return path


def find_checkpoint(model: str) -> Path:
    """The checkpoint file of a path or a shipped name; raises ModelError."""
    path = _find(model, CHECKPOINT)
    if path.is_dir() and (path / CHECKPOINT).is_file():
        return path / CHECKPOINT  # a run folder of `flexiast train`
    if path.is_dir():
        raise ModelError(
            f"{model} is a folder; this needs a checkpoint, the .safetensors file written by `flexiast train`"
        )
    return path


def find_any(model: str) -> Path:
    """The bundle folder or checkpoint file of a model; for shipped names, the bundle."""
    path = _find(model, "bundle")
    if path.is_dir() and not (path / MANIFEST).is_file():
        return find_checkpoint(model)
    return path


def _find(model: str, part: str) -> Path:
    path = Path(model)
    if model in list_shipped() and not _is_model(path):  # a folder of recordings may be called sounds too
        return _SHIPPED / model / part
    if path.exists():
        return path
    raise ModelError(
        f"{model!r} is neither a file or folder nor a shipped model ({', '.join(list_shipped()) or 'none'})"
    )


def looks_like_model(argument: str) -> bool:
    """Whether it is a shipped name, a bundle, a run folder or a checkpoint, possibly damaged: anything but audio."""
    path = Path(argument)
    return (
        argument in list_shipped()
        or path.suffix == ".safetensors"
        or any(path.glob("*.onnx"))
        or (path.is_dir() and _is_model(path))
    )


def _is_model(path: Path) -> bool:
    return path.is_file() or (path / MANIFEST).is_file() or (path / CHECKPOINT).is_file()
