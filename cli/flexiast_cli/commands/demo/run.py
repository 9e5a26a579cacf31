"""The work of `flexiast demo`."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import soundfile
import typer

from flexiast.errors import ExitCode
from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape
from flexiast_cli.governor import Candidates, prepare
from flexiast_cli.options.policy import PolicyOptions
from flexiast_cli.options.validators import parse_address
from flexiast_cli.terminal.console import log, shows_pictures
from flexiast_cli.terminal.interrupts import graceful_shutdown, yield_until_reader_stalls
from flexiast_cli.terminal.screen import Screen, print_lines
from flexiast_cli.web.server import WebPage
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import FileSource, RealTime, Source
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import DEFAULT, find_bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Record, Status
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions
from flexiast_runtime.governor.types import Policy
from flexiast_runtime.hardware.battery import read_battery
from flexiast_runtime.inference.ort import load_engines

DWELL_S = 2.0
"""Short, so that 40 seconds show a step up."""

SQUEEZE_S = (8.0, 18.0)
"""When the deadline is tight."""
TIGHT = 0.9
"""The tight deadline over what a window took until then: not enough for that size, enough for a cheaper one."""
DRAIN_S = (22.0, 32.0)
"""When the battery goes from full to empty; then it is plugged in."""
NOTE = (
    f"Simulated: deadline squeezed from {SQUEEZE_S[0]:g} to {SQUEEZE_S[1]:g} s, battery drained from {DRAIN_S[0]:g} to "
    f"{DRAIN_S[1]:g} s, then plugged in. Audio, engines, latencies and decisions are real."
)


def run(model: str | None, source: str | None, web: str | None) -> None:
    """Play the source through the pipeline with a scripted deadline and battery; print what is detected."""
    name = model or DEFAULT
    bundle = Bundle.open(find_bundle(name))
    engines, manifest = load_engines(bundle), bundle.manifest
    frontend = engines.spec.frontend
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    settings = DetectionSettings.from_frontend(frontend, rules)
    # Measured now, whatever a profile says: the script squeezes the latencies of this very run.
    candidates = Candidates(bundle, engines, manifest.precision(None), profile=None)
    policy = Policy(dwell_s=DWELL_S, max_charge_per_min=math.inf, switches_per_h=math.inf)
    with tempfile.TemporaryDirectory(prefix="flexiast-demo-") as folder:
        windows = WindowTiming(frontend.sample_rate_hz, frontend.window_s, settings.step_s)
        opened, title = _open_source(source, Path(folder), windows)
        audio = Monitored(opened)
        conditions = _Scenario(Path(folder), settings.step_s)
        step, window = round(settings.step_s * frontend.sample_rate_hz), frontend.window_samples
        capture = Capture(audio, frontend.sample_rate_hz, step, live=True, window_samples=window)
        classifier = StreamClassifier(
            engines,
            prepare(candidates, PolicyOptions(), conditions(0.0), policy),
            settings,
            source=title,
            conditions=conditions,
            backlog=capture.backlog,
            signal=lambda: audio.signal,
        )
        with graceful_shutdown(capture.stop, terminated=ExitCode.OK) as request:
            records = conditions.watch(classifier.run(capture))
            page = None if web is None else WebPage(*parse_address(web), f"demo · {name}", frontend)
            if page is not None:
                log(f"the page is at {page.url}")
                records = page.show_all(records)
            _choose_printer(f"flexiast demo · {name}")(yield_until_reader_stalls(records, request, live=True))


class _Scenario:
    """Seconds of audio → deadline and battery; the battery is a folder like sysfs, read by the real reader."""

    def __init__(self, folder: Path, relaxed_s: float) -> None:
        self._root, self._relaxed_s = folder, relaxed_s
        self._latencies_s: list[float] = []
        self._supply = folder / "class" / "power_supply" / "BAT0"
        self._supply.mkdir(parents=True)
        (self._supply / "type").write_text("Battery\n")

    def __call__(self, time_s: float) -> Conditions:
        drained = min(max((time_s - DRAIN_S[0]) / (DRAIN_S[1] - DRAIN_S[0]), 0.0), 1.0)
        (self._supply / "capacity").write_text(f"{round(100 - 95 * drained)}\n")
        (self._supply / "status").write_text("Charging\n" if time_s > DRAIN_S[1] + 1 else "Discharging\n")
        squeezed = SQUEEZE_S[0] <= time_s < SQUEEZE_S[1] and self._latencies_s
        deadline_s = TIGHT * statistics.median(self._latencies_s) if squeezed else self._relaxed_s
        return Conditions(deadline_s, read_battery(self._root))

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records; what windows take on this machine before the squeeze decides how tight it is."""
        for record in records:
            if isinstance(record, Status) and record.time_s < SQUEEZE_S[0]:
                self._latencies_s.append(record.latency_s)
            yield record


def _open_source(name: str | None, folder: Path, windows: WindowTiming) -> tuple[Source, str]:
    """The microphone, a file or the soundscape, and what the screen calls it."""
    if name == "mic":
        return Microphone(windows=windows), "the microphone"
    if name is not None:
        return RealTime(FileSource(Path(name))), name
    path = folder / "synthesised soundscape.wav"
    soundfile.write(path, soundscape(), RATE_HZ, subtype="FLOAT")
    return RealTime(FileSource(path)), "synthesised soundscape, nothing recorded"


def _choose_printer(title: str) -> Callable[[Iterator[Record]], None]:
    if shows_pictures():
        return lambda records: Screen(lambda: title, NOTE).show(records)

    def print_all(records: Iterator[Record]) -> None:
        typer.echo(f"{title}\n{NOTE}")
        print_lines(records, explain=True, several=False)

    return print_all
