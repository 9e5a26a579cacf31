"""What an hour of listening costs: CPU time and wake-ups of every process, as a user starts them.

python -m benchmarks.hour [--seconds 40] [--only NAME]

Runs itself under ../shared/rigs/virtual_mic.sh: a real PortAudio over a virtual microphone at 48 kHz, in a quiet room.
Each program starts with a clean environment. Between two moments, both after its start-up, all its processes are
counted: CPU time from their clocks, wake-ups from the kernel's count of voluntary context switches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from benchmarks import stages
from benchmarks.measure import heading

RIGS = Path(__file__).parents[2] / "shared" / "rigs"
CONTROL_S = "double wait = 0.02;"
"""The virtual device looks for commands 50 times a second, which would be counted; a sound card does no such thing."""
RATE_HZ = 48_000
ROOM_S = 30
STEP_MS = 500.0
SETTLED_S = 8.0
"""Seconds after the start when the first window has been classified and everything is warm"""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "sounds, governed": ("sounds",),
    "sounds, pinned 48": ("sounds", "--pin", "48"),
    "sounds, pinned 16": ("sounds", "--pin", "16"),
    "sounds, cascade": ("sounds", "--cascade"),
    "commands, governed": ("commands",),
    "sounds, engine off": ("sounds", "--pin", "48", "--gate", "0"),
}


class Usage(NamedTuple):
    """Of one process, so far."""

    name: str
    cpu_s: float
    wakeups: int


@dataclass(frozen=True)
class Cost:
    """Of all processes of a program."""

    startup_s: float
    """CPU seconds before it listens"""
    shares: dict[str, float]
    """Of a core, by process"""
    wakeups: dict[str, float]
    """A second, by process"""

    @property
    def share(self) -> float:
        return sum(self.shares.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hour")
    parser.add_argument("--seconds", type=float, default=40.0, help="that are measured of each program")
    parser.add_argument("--only", help="programs whose name holds this")
    parser.add_argument("--stages", action="store_true", help="where the time of the loop goes, instead")
    given = parser.parse_args()
    if "VMIC_DIR" not in os.environ:
        sys.exit(run_under_rig(sys.argv[1:]))
    if given.stages:
        print_stages(given.seconds)
        return
    heading("An hour of listening, all processes, without their start-up")
    print("| program | start-up, CPU s | listener | capture | CPU, % of a core | CPU-s an hour | wake-ups a second |")
    print("|---" * 7 + "|")
    for name, words in PROGRAMS.items():
        if not given.only or given.only in name:
            print_cost(name, measure(words, given.seconds))


def run_under_rig(arguments: list[str]) -> int:
    """A quiet room: noise of −60 dBFS, as a microphone of a laptop has it."""
    noise = np.random.default_rng(0).normal(0, 1e-3, ROOM_S * RATE_HZ).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "room.wav"
        soundfile.write(wav, noise, RATE_HZ, subtype="PCM_16")
        rig = build_quiet_rig(Path(folder))
        command = [rig, "-m", f"mic={wav}", "--", sys.executable, "-m", "benchmarks.hour", *arguments]
        own = {"VMIC_QUIET": "1", "FAKEMIC_SO": f"{folder}/device/fakemic.so"}
        return subprocess.run(command, check=False, env=os.environ | own).returncode


def build_quiet_rig(folder: Path) -> Path:
    """The rig with a device that looks for commands once a second."""
    shutil.copytree(RIGS / "alsa_fakemic", folder / "alsa_fakemic", ignore=shutil.ignore_patterns("*.so", ".*"))
    shutil.copy(RIGS / "virtual_mic.sh", folder)
    source = folder / "alsa_fakemic" / "fakemic.c"
    code = source.read_text()
    assert code.count(CONTROL_S) == 1
    source.write_text(code.replace(CONTROL_S, "double wait = 0.99;"))
    return folder / "virtual_mic.sh"


def measure(words: tuple[str, ...], seconds: float) -> Cost:
    """Start `flexiast listen` with these words, and count from SETTLED_S on for so many seconds."""
    with tempfile.TemporaryDirectory() as home:
        program = [str(Path(sys.executable).with_name("flexiast")), "listen", *words, "--device", "mic", "--json"]
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        environment |= {"XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
        with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as running:
            assert running.stdout is not None
            running.stdout.readline()  # its first record: the first window was classified
            time.sleep(SETTLED_S)
            began_s, before = time.monotonic(), read_usage(running.pid)
            time.sleep(seconds)
            after, elapsed_s = read_usage(running.pid), time.monotonic() - began_s
            running.send_signal(signal.SIGTERM)
            running.communicate()
    names = {pid: usage.name for pid, usage in after.items() if pid in before}
    shares = {name: (after[pid].cpu_s - before[pid].cpu_s) / elapsed_s for pid, name in names.items()}
    wakeups = {name: (after[pid].wakeups - before[pid].wakeups) / elapsed_s for pid, name in names.items()}
    listened_s = SETTLED_S + 5.0  # until the first count, with the first window
    startup_s = sum(usage.cpu_s for usage in before.values()) - sum(shares.values()) * listened_s
    return Cost(startup_s, shares, wakeups)


def read_usage(pid: int) -> dict[int, Usage]:
    """Of a process and its descendants."""
    return {each: Usage(name, cpu_s(each), count_wakeups(each)) for each, name in family(pid)}


def family(pid: int, name: str = "listener") -> Iterator[tuple[int, str]]:
    yield pid, name
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child), "capture")


def cpu_s(pid: int) -> float:
    """Of another process, in nanoseconds' resolution: Linux makes a clock of each."""
    return time.clock_gettime((~pid << 3) | 2)


def count_wakeups(pid: int) -> int:
    """Times that a thread of the process waited and was woken."""
    lines = [line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").open()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def print_cost(name: str, cost: Cost) -> None:
    share = cost.share
    parts = (cost.shares.get(part, 0.0) for part in ("listener", "capture"))
    print(
        f"| {name} | {cost.startup_s:.2f} | {' | '.join(f'{part:.2%}' for part in parts)} | {share:.2%} | "
        f"{3600 * share:.0f} | {sum(cost.wakeups.values()):.0f} "
        f"({', '.join(f'{part} {rate:.1f}' for part, rate in cost.wakeups.items())}) |",
        flush=True,
    )


def print_stages(seconds: float) -> None:
    """CPU time of the listener's stages in one step of `sounds`, at the real pace and so with cold caches."""
    heading("A step of half a second, listener, stage by stage")
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "stages.json"
        program = [
            sys.executable,
            "-m",
            "benchmarks.stages",
            "listen",
            "sounds",
            "--pin",
            "48",
            "--device",
            "mic",
            "--json",
        ]
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        own = {"XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home, stages.REPORT: str(report), "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(
            [*program, "--duration", str(seconds)], check=True, stdout=subprocess.DEVNULL, env=environment | own
        )
        found: dict[str, float] = json.loads(report.read_text())
    print("| stage | ms a step | % of a core |\n|---|---|---|")
    for stage, cpu_ms in sorted(found.items(), key=lambda item: -item[1]):
        print(f"| {stage} | {cpu_ms:.3f} | {cpu_ms / STEP_MS:.2%} |")
    total = sum(found.values())
    print(f"| together | {total:.3f} | {total / STEP_MS:.2%} |")


if __name__ == "__main__":
    main()
