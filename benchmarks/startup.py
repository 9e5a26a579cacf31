"""CPU time of all processes until flexiast is ready. `python -m benchmarks.startup`

`flexiast --help`, and `flexiast listen` on a virtual microphone until its first record. That includes the capture
process, loading and timing the engines, and the first window, but not compiling the modules to bytecode.
"""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.hour import THREAD_VARIABLES, read_usage, run_under_rig
from benchmarks.measure import heading

PROGRAM = str(Path(sys.executable).with_name("flexiast"))
RUNS = 5
LISTENERS = (("sounds",), ("sounds", "--pin", "48"), ("commands",))
HELP_S, LISTEN_S = 0.3, 0.6


def main() -> None:
    if "VMIC_DIR" not in os.environ:
        sys.exit(run_under_rig("benchmarks.startup", sys.argv[1:]))
    heading("CPU time of all processes until ready, s")
    print("| command | median | lowest | limit | listener | capture |\n|---|---|---|---|---|---|")
    is_over = report("flexiast --help", lambda: {"listener": help_s()}, HELP_S)
    for words in LISTENERS:
        is_over |= report(f"flexiast listen {' '.join(words)}", partial(listen_s, words), LISTEN_S)
    if is_over:
        sys.exit("over the limit")


def report(name: str, run: Callable[[], dict[str, float]], limit_s: float) -> bool:
    """Print the CPU seconds of some runs; returns whether their median is over the limit."""
    runs = [run() for _ in range(RUNS)]
    totals = [sum(one.values()) for one in runs]
    parts = (statistics.median(one.get(part, 0.0) for one in runs) for part in ("listener", "capture"))
    shown = " | ".join(f"{value:.2f}" for value in (statistics.median(totals), min(totals), limit_s, *parts))
    print(f"| `{name}` | {shown} |", flush=True)
    return statistics.median(totals) > limit_s


def help_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([PROGRAM, "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def listen_s(words: tuple[str, ...]) -> dict[str, float]:
    """By process."""
    unset = (*THREAD_VARIABLES, "PYTHONDONTWRITEBYTECODE")  # a user's modules are compiled once
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with tempfile.TemporaryDirectory() as home:
        environment |= {"XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
        command = [PROGRAM, "listen", *words, "--device", "mic", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=home) as running:
            assert running.stdout is not None
            running.stdout.readline()
            usage = read_usage(running.pid)
            running.send_signal(signal.SIGTERM)
            running.stdout.read()
    return {one.name: one.cpu_s for one in usage.values()}


if __name__ == "__main__":
    main()
