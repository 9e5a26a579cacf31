"""Reads the kernel's small files. What cannot be read is absent, never zero."""

from __future__ import annotations

import math
from pathlib import Path

SYSFS = Path("/sys")


def read_text(path: Path) -> str:
    """The file's content, stripped; empty if it cannot be read."""
    try:
        # Strings of a device tree end with a zero byte.
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except OSError:
        return ""


def read_number(path: Path, *, negative: bool = False) -> float | None:
    """The number in a file; None if there is none, or if it is negative and must not be."""
    try:
        value = float(read_text(path))
    except ValueError:
        return None
    return value if math.isfinite(value) and (negative or value >= 0) else None


def list_entries(path: Path, pattern: str = "*") -> list[Path]:
    """The matching entries of a folder, sorted by name; none if it does not exist."""
    return sorted(path.glob(pattern)) if path.is_dir() else []
