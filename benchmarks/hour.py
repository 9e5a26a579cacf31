"""What an hour of listening costs: CPU time and wake-ups of every process, as a user starts them.

python -m benchmarks.hour [--seconds 40] [--only NAME] [--stages]
python -m benchmarks.hour --data ../shared/data [--peers] [--yamnet yamnet.tflite] [--plot hour.png]

Runs itself under ../shared/rigs/virtual_mic.sh: a real PortAudio over a virtual microphone at 48 kHz, in a quiet room.
Each program starts with a clean environment. Between two moments, both after its start-up, all its processes are
counted: CPU time from their clocks, wake-ups from the kernel's count of voluntary context switches.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from benchmarks import rooms, stages
from benchmarks.measure import heading

RIGS = Path(__file__).parents[2] / "shared" / "rigs"
CONTROL_S = "double wait = 0.02;"
"""The virtual device looks for commands 50 times a second, which would be counted; a sound card does no such thing."""
RATE_HZ = 48_000
ROOM_S = 30
STEP_MS = 500.0
WINDOW_S = 5.0
SETTLED_S = 20.0
"""Seconds after the first window when everything is warm, and the background known"""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SCREEN, PAGE, VIEWER = "screen", "page", "viewer"
"""Not words of the command: its picture in a terminal, the page on a free port, and a browser that looks at it"""
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "no engine (`--gate 0`)": ("sounds", "--pin", "48", "--gate", "0"),
    "**`listen sounds`**": ("sounds",),
    "every window": ("sounds", "--every-window"),
    "every window, pinned 48": ("sounds", "--every-window", "--pin", "48"),
    "every window, pinned 16": ("sounds", "--every-window", "--pin", "16"),
    "`listen commands`": ("commands",),
    "two microphones": ("sounds", "--device", "mic2"),
    "four microphones": ("sounds", "--device", "mic2", "--device", "mic3", "--device", "mic4"),
    "the screen": ("sounds", SCREEN),
    "a page that nobody looks at": ("sounds", PAGE),
    "a page that one looks at": ("sounds", PAGE, VIEWER),
    "`--to sqlite`": ("sounds", "--to", "sqlite"),
    "`--to jsonl`": ("sounds", "--to", "jsonl:events.jsonl"),
    "`--to clips`": ("sounds", "--to", "clips:clips"),
}
"""What is added to `flexiast listen --device mic`"""


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
    parser.add_argument("--data", type=Path, help="folder of esc50/ and background/: events in three rooms, instead")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each room")
    parser.add_argument("--yamnet", type=Path, metavar="TFLITE", help="run YAMNet too, by ai-edge-litert")
    parser.add_argument("--peers", action="store_true", help="export the same network by torch and run it too")
    parser.add_argument("--plot", type=Path, help="F1 against CPU-seconds, as PNG")
    given = parser.parse_args()
    if given.data is not None:
        heading("An hour in three rooms, listening process")
        rooms.compare(given.data, given.minutes, given.yamnet, given.plot, peers=given.peers)
        return
    if "VMIC_DIR" not in os.environ:
        sys.exit(run_under_rig("benchmarks.hour", sys.argv[1:]))
    if given.stages:
        print_stages(given.seconds)
        return
    heading("An hour of listening, all processes, without their start-up")
    print("| program | start-up, CPU s | listener | capture | CPU, % of a core | CPU-s an hour | wake-ups a second |")
    print("|---" * 7 + "|")
    for name, words in PROGRAMS.items():
        if not given.only or given.only in name:
            print_cost(name, measure(words, given.seconds))


def run_under_rig(module: str, arguments: list[str]) -> int:
    """Run a benchmark in a quiet room: noise of −60 dBFS, as a microphone of a laptop has it."""
    noise = np.random.default_rng(0).normal(0, 1e-3, ROOM_S * RATE_HZ).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "room.wav"
        soundfile.write(wav, noise, RATE_HZ, subtype="PCM_16")
        rig = build_quiet_rig(Path(folder))
        microphones = [word for number in ("", "2", "3", "4") for word in ("-m", f"mic{number}={wav}")]
        command = [str(rig), *microphones, "--", sys.executable, "-m", module, *arguments]
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
        shown = ("--json",) if SCREEN not in words else ()
        given = [word for word in words if word not in {SCREEN, PAGE, VIEWER}]
        address = f"127.0.0.1:{find_free_port()}"
        given += ["--web", address] if PAGE in words else []
        program = [str(Path(sys.executable).with_name("flexiast")), "listen", *given, "--device", "mic", *shown]
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        environment |= {"XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
        reading, writing = pty.openpty() if not shown else os.pipe()
        with subprocess.Popen(program, stdout=writing, env=environment, cwd=home) as running:
            os.close(writing)
            os.read(reading, 1)  # its first record, after the first window, or its first picture, before it
            reader = threading.Thread(target=read_to_end, args=(reading,))
            reader.start()
            with view_page(address) if VIEWER in words else nullcontext():
                time.sleep(SETTLED_S)
                began_s, before = time.monotonic(), read_usage(running.pid)
                time.sleep(seconds)
                after, elapsed_s = read_usage(running.pid), time.monotonic() - began_s
            running.send_signal(signal.SIGTERM)
        reader.join()
        os.close(reading)
    shares: dict[str, float] = defaultdict(float)
    wakeups: dict[str, float] = defaultdict(float)
    for pid, usage in after.items():
        if pid in before:
            shares[usage.name] += (usage.cpu_s - before[pid].cpu_s) / elapsed_s
            wakeups[usage.name] += (usage.wakeups - before[pid].wakeups) / elapsed_s
    listened_s = SETTLED_S + WINDOW_S  # until the first count, with the first window
    startup_s = sum(usage.cpu_s for usage in before.values()) - sum(shares.values()) * listened_s
    return Cost(startup_s, shares, wakeups)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def view_page(address: str) -> Iterator[None]:
    """Take everything that a browser would, in a thread of this process, which is not counted."""
    from websockets.sync.client import connect

    with connect(f"ws://{address}/records", compression=None) as records:
        viewer = threading.Thread(target=lambda: [None for _ in records], daemon=True)
        viewer.start()
        yield


def read_to_end(reading: int) -> None:
    with suppress(OSError):  # a terminal ends with an error
        while os.read(reading, 65_536):
            pass


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
