"""Where the CPU time of `flexiast listen` goes, by stage. Started by `benchmarks.hour --stages`, under its rig."""

from __future__ import annotations

import functools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

REPORT = "FLEXIAST_BENCHMARK_STAGES"
"""Names the file that the listening process writes when it ends."""
WARM_UP_STEPS = 20
ROOT = "everything else"


class Stages:
    """CPU time of wrapped functions, each without what it calls of the others."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._started_s = self._began_s = time.process_time()
        self._open = [ROOT]

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch_to(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                self._open.pop()
                self._charge(stage)

        setattr(owner, name, timed)

    def _switch_to(self, stage: str) -> None:
        self._charge(self._open[-1])
        self._open.append(stage)

    def _charge(self, stage: str) -> None:
        now_s = time.process_time()
        self.cpu_s[stage] += now_s - self._began_s
        self._began_s = now_s

    def count_step(self) -> None:
        """Forget the first steps, which import and warm up."""
        self.steps += 1
        if self.steps == WARM_UP_STEPS:
            self.cpu_s.clear()

    def write(self, path: Path) -> None:
        steps = self.steps - WARM_UP_STEPS
        path.write_text(json.dumps({stage: 1000 * cpu_s / steps for stage, cpu_s in self.cpu_s.items()}))


def listen() -> None:
    """`flexiast` with these stages counted."""
    import typer

    from flexiast_cli.app import app
    from flexiast_cli.commands.listen import output
    from flexiast_runtime.audio import device_stream, mixing, ring, signal, source
    from flexiast_runtime.detection import detector, framer, gate, listener, smoothing
    from flexiast_runtime.inference import engine

    stages = Stages()
    for owner, name, stage in (
        (device_stream.DeviceStream, "_take", "take blocks"),
        (mixing.Mixer, "mix", "mix"),
        (signal.Monitored, "_measure", "signal health"),
        (signal.Monitored, "_numbers", "signal health"),
        (source, "_resample", "resample"),
        (ring.Ring, "write", "ring"),
        (ring.Ring, "take", "ring"),
        (gate.Gate, "update", "gate"),
        (framer.Framer, "_compute", "features"),
        (framer.Framer, "_cut", "features"),
        (engine.Engines, "scores", "engine"),
        (smoothing.Smoother, "push", "smoothing, events"),
        (detector.Detector, "push", "smoothing, events"),
        (listener.StreamClassifier, "_status", "status"),
        (output, "json_line", "print"),
        (typer, "echo", "print"),
    ):
        if hasattr(owner, name):
            stages.wrap(owner, name, stage)
    status = listener.StreamClassifier._status

    def count_status(*args: Any) -> Any:
        stages.count_step()
        return status(*args)

    cast(Any, listener.StreamClassifier)._status = count_status
    try:
        app()
    finally:
        stages.write(Path(os.environ[REPORT]))


if __name__ == "__main__":
    listen()
