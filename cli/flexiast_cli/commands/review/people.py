"""Who reviews, and which labels they may mean."""

from __future__ import annotations

import difflib
import getpass
import os
from collections.abc import Callable, Collection
from pathlib import Path

from flexiast.errors import UsageError
from flexiast_cli.terminal.console import log
from flexiast_runtime.history.events import list_labels
from flexiast_runtime.history.verdicts import read_bundles


def name_user() -> str:
    """The user as the system names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def list_known_labels(database: Path) -> list[str]:
    """Those of every model that wrote a database, and those that it holds, sorted."""
    known = [label for bundle in read_bundles(database).values() for label in bundle.labels]
    return sorted({*known, *list_labels(database)})


def explain_unknown(label: str, known: Collection[str]) -> str:
    """That no model knows a label, and which it may be."""
    near = difflib.get_close_matches(label, known, n=3)
    return f"no model here knows {label!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def confirm_label(label: str, known: Collection[str], read_line: Callable[[], str]) -> str:
    """The label that is meant: one that some model here knows, or a new one that is typed twice; raises UsageError."""
    if label in known:
        return label
    log(f"{explain_unknown(label, known)}\nType it again to use it, or another one:")
    again = read_line()
    if again != label and again not in known:
        raise UsageError(f"{again!r} is neither a known label nor the one before; nothing was stored")
    return again
