"""The processor's name, for records of training runs and for profiles, and what it multiplies fast."""

from __future__ import annotations

import platform
from pathlib import Path

INT8_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}
"""Names of the instructions in Linux's list: x86 with and without AVX-512, ARM"""

BFLOAT16_DOT_PRODUCTS = {"avx512_bf16", "amx_bf16"}
"""As Linux lists them; ARM's are left out, on which nothing was measured."""


def read_processor_name(root: Path = Path("/")) -> str:
    """The processor's or board's model, or the architecture where Linux does not know it; ``root`` holds ``proc``."""
    lines = _read_cpuinfo(root)
    # x86 has "model name"; ARM boards have only "Model", the board's name.
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor() or platform.machine())


def has_int8_dot_product(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bytes faster than floats; False where Linux does not say so.

    Without these instructions int8 gains little on ARM, and on x86 its sums may saturate.
    """
    return bool(INT8_DOT_PRODUCTS & _read_instructions(root))


def has_bfloat16_dot_product(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 faster than float32; False where Linux does not say so."""
    return bool(BFLOAT16_DOT_PRODUCTS & _read_instructions(root))


def _read_instructions(root: Path) -> set[str]:
    """Names of the instructions of all cores."""
    # One line for each core: "flags" on x86, "Features" on ARM.
    lists = (line.partition(":")[2].split() for line in _read_cpuinfo(root) if line.startswith(("flags", "Features")))
    return {name for names in lists for name in names}


def _read_cpuinfo(root: Path) -> list[str]:
    try:
        return (root / "proc" / "cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
