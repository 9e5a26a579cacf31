"""CPU time of `flexiast --help`, the whole process. `python -m benchmarks.startup`"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import heading

LIMIT_S = 0.3


def main() -> None:
    command = [str(Path(sys.executable).with_name("flexiast")), "--help"]
    times = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    heading("flexiast --help")
    print(f"median {statistics.median(times):.3f} s, lowest {min(times):.3f} s; limit {LIMIT_S} s")
    if statistics.median(times) > LIMIT_S:
        sys.exit(f"over the limit of {LIMIT_S} s")


if __name__ == "__main__":
    main()
