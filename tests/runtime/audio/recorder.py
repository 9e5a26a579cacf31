"""A program for the rig: hears a microphone, prints a JSON line for each block, saves the audio.

Its argument is a JSON object: options of `Microphone`; `frames` to hear, if wanted not before the state `after`;
the `output` file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from flexiast.errors import DeviceError
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.source import read_blocks
from flexiast_runtime.audio.timeline import uptime_s


def log(**line: object) -> None:
    print(json.dumps(line), flush=True)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread
    return [int(child) for task in tasks for child in task.read_text().split()]


def main() -> None:
    options = json.loads(sys.argv[1])
    wanted, after, output = (options.pop(name, None) for name in ("frames", "after", "output"))
    pieces, starts, end, left = [], [], 0, None if after or wanted is None else wanted
    try:
        microphone = Microphone(**options)
        log(pid=os.getpid(), name=microphone.name, rate_hz=microphone.rate_hz)
        blocks = read_blocks(microphone)
        for block in blocks:
            state, reason = block.notice or (None, None)
            log(at=uptime_s(), frames=len(block.samples), lost=block.lost, state=state, reason=reason)
            starts.append(end + block.lost)
            pieces.append(block.samples)
            end = starts[-1] + len(block.samples)
            left = wanted if after and state == after else left
            left = left if left is None else left - len(block.samples)
            if left is not None and left <= 0:
                break
        begun = time.monotonic()
        blocks.close()
        log(closed_s=time.monotonic() - begun, children=children(os.getpid()))
    except DeviceError as error:
        log(error=type(error).__name__, reason=str(error))
    if output:
        heard = [number for number, piece in enumerate(pieces) if len(piece)]
        samples = np.concatenate([pieces[number] for number in heard])
        np.savez(output, samples=samples, starts=[starts[n] for n in heard], lengths=[len(pieces[n]) for n in heard])


if __name__ == "__main__":
    main()
