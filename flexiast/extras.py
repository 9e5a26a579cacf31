"""Optional parts of flexiast, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Literal

from flexiast.errors import MissingExtraError


def require(
    module: str, extra: Literal["train", "teacher", "export", "parquet", "tensorboard", "service", "cluster"]
) -> ModuleType:
    """Import a module of an extra; raises MissingExtraError that says what to install or what does not load."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs {error.name}, which is not installed; install it with: pip install 'flexiast[{extra}]'"
        ) from error
    except (ImportError, OSError) as error:  # a compiled library that does not fit the ones beside it
        reason = str(error).strip().splitlines()[-1]
        raise MissingExtraError(
            f"{module} is installed but does not load ({reason}); it does not fit the packages beside it. "
            f"Install the ones that do with: pip install --force-reinstall 'flexiast[{extra}]'"
        ) from error
