"""Folders of the user, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """For what a user would miss: profiles, the history of events."""
    return _find("XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path:
    """For what can be built again."""
    return _find("XDG_CACHE_HOME", ".cache")


def _find(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "flexiast"
