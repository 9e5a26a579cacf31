"""Memory of one variant, measured in a process of its own: ``python -m flexiast_runtime.profiling.footprint BUNDLE …``.

In the process that profiles, other variants are loaded too, and freed memory may stay with the allocator.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from flexiast_runtime.hardware.sysfs import text


class Footprint(NamedTuple):
    """In megabytes; None where the system does not say."""

    private_mb: float | None
    """What no other process shares"""
    peak_mb: float | None


def footprint(bundle: Path, patch: str, precision: str, backend: str, threads: int) -> Footprint:
    """Load and run one variant in a new process; nothing is known if that fails."""
    command = [sys.executable, "-m", __name__, str(bundle), patch, precision, backend, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Footprint(*json.loads(done.stdout)) if done.returncode == 0 else Footprint(None, None)


def private_mb() -> float | None:
    """Memory of this process that no other shares; None where the kernel does not say."""
    lines = text(Path("/proc/self/smaps_rollup")).splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(kilobytes) * 1024 / 1e6 if kilobytes else None


def peak_mb() -> float | None:
    """The most of this process that was resident; None on Windows, whose Python has no ``resource``."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes in which ru_maxrss counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(bundle: str, patch: str, precision: str, backend: str, threads: str) -> None:
    """Print both figures as JSON."""
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.backends import Backend, load_engines

    opened = Bundle.open(Path(bundle))
    size = PatchSize.parse(patch)
    engines = load_engines(opened, [size], precision, Backend(backend), lambda _: None, int(threads))
    engines.logits(opened.arrays(opened.manifest.golden)["features"][:1], size)
    print(json.dumps((private_mb(), peak_mb())))


if __name__ == "__main__":
    main(*sys.argv[1:])
