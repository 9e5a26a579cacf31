"""Small files of the kernel: what cannot be read is absent, never zero."""

from __future__ import annotations

import math
from pathlib import Path

SYSFS = Path("/sys")


def text(path: Path) -> str:
    """The file's content without its line end; empty where it cannot be read."""
    try:
        # A device tree's strings end with a zero byte.
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except OSError:
        return ""


def number(path: Path, *, negative: bool = False) -> float | None:
    """The number in a file, or None where there is none, or one below 0 that makes no sense there."""
    try:
        value = float(text(path))
    except ValueError:
        return None
    return value if math.isfinite(value) and (negative or value >= 0) else None


def folders(path: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, in the order of names; nothing where it does not exist."""
    return sorted(path.glob(pattern)) if path.is_dir() else []
