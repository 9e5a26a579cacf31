"""Capture: CPU time, age of its blocks, time to detect a fault and to recover. `python -m benchmarks.capture`

Runs itself under `../shared/rigs/virtual_mic.sh`: a real PortAudio over a virtual ALSA device whose samples are their
own number, so that each block tells when it sounded. About two minutes. The device lives in the capture process. To be
quick at faults it looks for commands fifty times a second, as no sound card does; for the cost it does so once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import soundfile

from benchmarks.hour import RIGS, build_quiet_rig
from benchmarks.measure import heading
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.device_stream import DeviceStream
from flexiast_runtime.audio.devices import choose, input_devices
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import Block, Wait, read_blocks, wait_for

RATE_HZ, MODEL_HZ, STEP = 48_000, 16_000, 8_000
WINDOWS = WindowTiming(MODEL_HZ, 5.0, STEP / MODEL_HZ)
BLOCK_S = WINDOWS.choose_block_s(RATE_HZ)
COUNT = 2**16
"""Samples until their 16-bit numbers begin again: 1.4 s."""
AUDIO_S = 20
LIMIT = 0.004
"""Of a core, without an engine."""
COST, FAULT = "cost", "faults"
FAULTS = ("unplug", "error", "freeze", "unplug", "unplug", "error", "freeze", "unplug", "error", "freeze")
CYCLE_S, FAULT_S = 6.0, 1.5


def main() -> None:
    if "VMIC_DIR" not in os.environ:
        parts = [run_under_rig(part) for part in (COST, FAULT)]
        sys.exit(next(filter(None, parts), None))
    if sys.argv[1] == FAULT:
        print_ages(ages_s())
        print_faults()
        return
    heading(f"Capture at {RATE_HZ} Hz into a ring at {MODEL_HZ} Hz, no engine")
    costs = {device: cost(device) for device in ("mono", "stereo")}
    print(f"{'':8}{'parent':>9}{'child':>9}{'together':>10}   of a core, over {AUDIO_S} s of audio; limit {LIMIT:.1%}")
    for device, (parent, child) in costs.items():
        print(f"{device:8}{parent:9.2%}{child:9.2%}{parent + child:10.2%}")
    if any(sum(parts) > LIMIT for parts in costs.values()):
        sys.exit("over the limit")


def run_under_rig(part: str) -> int:
    """Returns the exit status."""
    numbers = np.arange(COUNT, dtype=np.uint16).view(np.int16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wavs = {"mono": folder / "mono.wav", "stereo": folder / "stereo.wav"}
        soundfile.write(wavs["mono"], numbers, RATE_HZ, subtype="PCM_16")
        soundfile.write(wavs["stereo"], np.stack([numbers, numbers], axis=1), RATE_HZ, subtype="PCM_16")
        plugged = [word for name, wav in wavs.items() for word in ("-m", f"{name}={wav}")]
        own = {"VMIC_QUIET": "1"}
        rig = RIGS / "virtual_mic.sh"
        if part == COST:
            rig = build_quiet_rig(folder)
            own["FAKEMIC_SO"] = f"{folder}/device/fakemic.so"
        command = [str(rig), *plugged, "--", sys.executable, "-m", "benchmarks.capture", part]
        return subprocess.run(command, check=False, env=os.environ | own).returncode


def cost(device: str) -> tuple[float, float]:
    """CPU time of this process and of the capture process, per second of audio, once both have started."""
    capture = Capture(Monitored(Microphone(device, windows=WINDOWS)), MODEL_HZ, STEP, live=True)
    chunks = (chunk for chunk in capture if len(chunk.samples))
    next(chunks)
    (child,) = psutil.Process().children()
    before = time.process_time(), cpu_s(child.pid)
    for chunk in chunks:
        if chunk.start > AUDIO_S * MODEL_HZ:
            break
    parent, children = time.process_time() - before[0], cpu_s(child.pid) - before[1]
    return parent / AUDIO_S, children / AUDIO_S


def cpu_s(pid: int) -> float:
    """Of another process, in nanoseconds' resolution: Linux makes a clock of each."""
    return time.clock_gettime((~pid << 3) | 2)


class Timed(DeviceStream):
    """Knows when its device started: just after the capture process said so."""

    started_s = 0.0

    def _attach(self, rate_hz: int, channels: int, block_frames: int) -> None:
        self.started_s = time.monotonic()
        super()._attach(rate_hz, channels, block_frames)


def ages_s() -> list[float]:
    """Of each block, from the moment its last sample sounded to the moment the parent holds it."""
    found: list[float] = []
    with Timed(choose(input_devices(), "mono"), None, BLOCK_S) as stream:
        for delivery in stream.deliveries():
            now_s = time.monotonic()
            if isinstance(delivery, Wait):
                wait_for([delivery])
                continue
            for block in delivery.samples:
                sounded_s = stream.started_s + near(block[-1, 0], now_s - stream.started_s)
                found.append(now_s - sounded_s)
            if len(found) * BLOCK_S > AUDIO_S:
                return found
    raise AssertionError


def near(value: float, elapsed_s: float) -> float:
    """Seconds from the device's start to the end of a sample, known modulo COUNT, that sounded not long ago."""
    number = int(np.int16(round(value * 2**15)).view(np.uint16)) + 1
    return (number + COUNT * round((elapsed_s * RATE_HZ - number) / COUNT)) / RATE_HZ


def print_ages(found: list[float]) -> None:
    last = [1000 * quantile for quantile in np.percentile(found, (50, 99, 100))]
    print(f"\nAge of a block in the parent, ms, {len(found)} blocks of {1000 * BLOCK_S:.0f} ms at {RATE_HZ} Hz")
    print(f"{'':14}{'p50':>8}{'p99':>8}{'most':>8}")
    print(f"{'last sample':14}" + "".join(f"{value:8.1f}" for value in last))
    print(f"{'first sample':14}" + "".join(f"{value + 1000 * BLOCK_S:8.1f}" for value in last))


class Hearing:
    """A microphone with a count of what came and what was said to be lost."""

    def __init__(self, device: str) -> None:
        self._blocks = read_blocks(Microphone(device, windows=WINDOWS))
        self.frames = 0

    def until(self, wanted: Callable[[Block], bool]) -> float:
        """When the first block comes that is wanted."""
        for block in self._blocks:
            self.frames += block.lost + len(block.samples)
            if wanted(block):
                return time.monotonic()
        raise AssertionError

    def until_time(self, end_s: float) -> None:
        self.until(lambda _: time.monotonic() >= end_s)


def control(word: str) -> float:
    """Tell the rig; when."""
    path = Path(os.environ["VMIC_DIR"]) / "mono.ctl"
    path.with_suffix(".new").write_text(word)
    path.with_suffix(".new").replace(path)
    return time.monotonic()


def print_faults() -> None:
    hearing = Hearing("mono")
    begun_s = hearing.until(lambda block: len(block.samples) > 0)
    first = hearing.frames
    print(f"\n{len(FAULTS)} faults in {len(FAULTS) * CYCLE_S:.0f} s, each repaired after {FAULT_S} s; s")
    print(f"{'fault':10}{'noticed after':>15}{'back again after':>18}")
    for word in FAULTS:
        told_s = control(word)
        noticed_s = hearing.until(lambda block: block.notice is not None and block.notice.state == "lost") - told_s
        hearing.until_time(told_s + FAULT_S)
        repaired_s = control("ok")
        back_s = hearing.until(lambda block: block.notice is not None and block.notice.state == "found") - repaired_s
        print(f"{word:10}{noticed_s:15.2f}{back_s:18.2f}")
        hearing.until_time(told_s + CYCLE_S)
    ended_s = hearing.until(lambda block: len(block.samples) > 0)
    counted_s = (hearing.frames - first) / RATE_HZ
    print(f"counted {counted_s:.3f} s of audio and loss, by the clock {ended_s - begun_s:.3f} s")


if __name__ == "__main__":
    main()
