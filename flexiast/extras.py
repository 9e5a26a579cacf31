"""Optional parts of flexiast, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Literal

from flexiast.errors import MissingExtraError


def require(module: str, extra: Literal["train", "export", "tensorboard", "service"]) -> ModuleType:
    """Import a module of an extra; raises MissingExtraError that says what to install."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs {error.name}, which is not installed; install it with: pip install 'flexiast[{extra}]'"
        ) from error
