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


def runtime_folders() -> list[Path]:
    """For what lasts as long as a process: where this one puts it, then where one of a system service may be."""
    own = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]  # by systemd, for a unit
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    first = Path(own) if own else Path(session) / "flexiast" if session else cache_folder()
    return list(dict.fromkeys((first, Path("/run/flexiast"))))


def _find(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "flexiast"
