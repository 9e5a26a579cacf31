"""Who reviews, and which labels he may mean."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from flexiast_runtime.history.events import list_labels
from flexiast_runtime.history.verdicts import read_bundles


def name_user() -> str:
    """The user as the system names him."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def list_known_labels(database: Path) -> list[str]:
    """Those of every model that wrote a database, and those that it holds, sorted."""
    known = [label for bundle in read_bundles(database).values() for label in bundle.labels]
    return sorted({*known, *list_labels(database)})
