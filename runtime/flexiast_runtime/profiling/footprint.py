"""Measures a variant's memory in a process of its own: ``python -m flexiast_runtime.profiling.footprint BUNDLE …``.

The profiling process has other variants loaded, and its allocator may hold freed memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from flexiast.log import log_nothing
from flexiast_runtime.hardware.sysfs import read_text


class Footprint(NamedTuple):
    """In megabytes; None if the system does not report it."""

    private_mb: float | None
    """Memory that no other process shares"""
    peak_mb: float | None


def measure_footprint(bundle: Path, patch: str, precision: str, backend: str, threads: int) -> Footprint:
    """Load and run one variant in a new process. Both figures are None if that fails."""
    command = [sys.executable, "-m", __name__, str(bundle), patch, precision, backend, str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return Footprint(*json.loads(result.stdout)) if result.returncode == 0 else Footprint(None, None)


def private_mb() -> float | None:
    """Unshared memory of this process; None if the kernel does not report it."""
    lines = read_text(Path("/proc/self/smaps_rollup")).splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(kilobytes) * 1024 / 1e6 if kilobytes else None


def peak_mb() -> float | None:
    """Highest resident memory of this process; None on Windows, whose Python has no ``resource``."""
    if sys.platform == "win32":
        return None
    # Linux's ru_maxrss begins with that of the process which started this one, and survives exec.
    lines = read_text(Path("/proc/self/status")).splitlines()
    high = next((line for line in lines if line.startswith("VmHWM:")), None)
    if high is not None:
        return int(high.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(bundle: str, patch: str, precision: str, backend: str, threads: str) -> None:
    """Print both figures as JSON."""
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.backends import Backend, load_engines

    opened = Bundle.open(Path(bundle))
    size = PatchSize.parse(patch)
    engines = load_engines(opened, [size], precision, Backend(backend), log_nothing, int(threads))
    engines.logits(opened.arrays(opened.manifest.golden)["features"][:1], size)
    print(json.dumps((private_mb(), peak_mb())))


if __name__ == "__main__":
    main(*sys.argv[1:])
