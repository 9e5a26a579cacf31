"""Where flexiast keeps what it learns on a machine (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """``flexiast`` in the user's data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "flexiast"
