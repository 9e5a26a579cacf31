"""The processor's name, for records of training runs and for profiles."""

from __future__ import annotations

import platform
from pathlib import Path


def read_processor_name(root: Path = Path("/")) -> str:
    """The processor's or board's model, or the architecture where Linux does not know it; ``root`` holds ``proc``."""
    try:
        lines = (root / "proc" / "cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    # x86 has "model name"; ARM boards have only "Model", the board's name.
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor() or platform.machine())
