"""``flexiast demo``: the whole runtime in 40 seconds, on a machine without microphone, sounds or battery."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast_cli.options.common import WebOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flexiast_runtime.detection.records import Record
    from flexiast_runtime.governor.live import Conditions

DWELL_S = 2.0
"""Short, so that 40 seconds show a step up."""

SQUEEZE_S = (8.0, 18.0)
"""When the deadline is tight."""
TIGHT = 0.9
"""The tight deadline over what a window took until then: not enough for that size, enough for a cheaper one."""
DRAIN_S = (22.0, 32.0)
"""When the battery goes from full to empty; then it is plugged in."""


def demo(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", help="An audio file, or mic for the microphone (default: a synthesised soundscape)."),
    ] = None,
    web: WebOption = None,
) -> None:
    """Stream a synthesised soundscape through the real pipeline, squeeze the deadline, drain a simulated battery."""
    from flexiast.errors import ExitCode
    from flexiast_cli.options.policy import build_controller
    from flexiast_cli.terminal.console import say
    from flexiast_cli.terminal.interrupts import graceful_shutdown, until_reader_stalls
    from flexiast_cli.web.server import WebPage, parse_address, tee_to_web
    from flexiast_runtime.audio.capture import Capture
    from flexiast_runtime.audio.signal import Monitored
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import DEFAULT, find_bundle
    from flexiast_runtime.detection.listener import StreamClassifier
    from flexiast_runtime.detection.rules import EventRules
    from flexiast_runtime.detection.settings import DetectionSettings
    from flexiast_runtime.governor.types import Policy
    from flexiast_runtime.inference.ort import load_engines
    from flexiast_runtime.profiling.options import measure_options

    name = model or DEFAULT
    engines = load_engines(Bundle.open(find_bundle(name)))
    frontend = engines.spec.frontend
    manifest = engines.manifest
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    settings = DetectionSettings.from_frontend(frontend, rules)
    with tempfile.TemporaryDirectory(prefix="flexiast-demo-") as folder:
        opened, what = _source(source, Path(folder))
        audio = Monitored(opened)
        conditions = _Scenario(Path(folder), settings.step_s)
        chosen = build_controller(
            measure_options(engines), Policy(dwell_s=DWELL_S, max_charge_per_min=math.inf), conditions(0.0)
        )
        capture = Capture(audio, frontend.sample_rate_hz, round(settings.step_s * frontend.sample_rate_hz), live=True)
        listener = StreamClassifier(
            engines,
            chosen,
            settings,
            source=what,
            conditions=conditions,
            backlog=capture.ring.backlog,
            signal=lambda: audio.signal,
        )
        with graceful_shutdown(capture.stop, terminated=ExitCode.OK) as asked:
            shown = conditions.watch(listener.run(capture))
            page = None if web is None else WebPage(*parse_address(web), f"demo · {name}", frontend)
            if page is not None:
                say(f"the page is at {page.url}")
                shown = tee_to_web(shown, page)
            _printer(f"flexiast demo · {name}")(until_reader_stalls(shown, asked, live=True))


class _Scenario:
    """Seconds of audio → deadline and battery; the battery is a folder like sysfs, read by the real reader."""

    def __init__(self, folder: Path, relaxed_s: float) -> None:
        self._root, self._relaxed_s = folder, relaxed_s
        self._latencies_s: list[float] = []
        self._supply = folder / "class" / "power_supply" / "BAT0"
        self._supply.mkdir(parents=True)
        (self._supply / "type").write_text("Battery\n")

    def __call__(self, time_s: float) -> Conditions:
        from flexiast_runtime.governor.live import Conditions
        from flexiast_runtime.hardware.battery import read_battery

        drained = min(max((time_s - DRAIN_S[0]) / (DRAIN_S[1] - DRAIN_S[0]), 0.0), 1.0)
        (self._supply / "capacity").write_text(f"{round(100 - 95 * drained)}\n")
        (self._supply / "status").write_text("Charging\n" if time_s > DRAIN_S[1] + 1 else "Discharging\n")
        squeezed = SQUEEZE_S[0] <= time_s < SQUEEZE_S[1] and self._latencies_s
        deadline_s = TIGHT * statistics.median(self._latencies_s) if squeezed else self._relaxed_s
        return Conditions(deadline_s, read_battery(self._root))

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records; what windows take on this machine before the squeeze decides how tight it is."""
        from flexiast_runtime.detection.records import Status

        for record in records:
            if isinstance(record, Status) and record.time_s < SQUEEZE_S[0]:
                self._latencies_s.append(record.latency_s)
            yield record


def _source(wanted: str | None, folder: Path) -> tuple[Any, str]:
    from flexiast_runtime.audio.source import FileSource, RealTime

    if wanted == "mic":
        from flexiast_runtime.audio.microphone import Microphone

        return Microphone(), "the microphone"
    if wanted is not None:
        return RealTime(FileSource(Path(wanted))), wanted

    import soundfile

    from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape

    path = folder / "synthesised soundscape.wav"
    soundfile.write(path, soundscape(), RATE_HZ, subtype="FLOAT")
    return RealTime(FileSource(path)), "synthesised soundscape, nothing recorded"


NOTE = (
    f"Simulated: deadline squeezed from {SQUEEZE_S[0]:g} to {SQUEEZE_S[1]:g} s, battery drained from {DRAIN_S[0]:g} to "
    f"{DRAIN_S[1]:g} s, then plugged in. Audio, engines, latencies and decisions are real."
)


def _printer(title: str) -> Callable[[Any], None]:
    from flexiast_cli.terminal.console import shows_pictures
    from flexiast_cli.terminal.screen import Screen

    if shows_pictures():
        return lambda records: Screen(title, NOTE).show(records)

    def lines(records: Any) -> None:
        from flexiast_cli.terminal.screen import print_lines

        typer.echo(f"{title}\n{NOTE}")
        print_lines(records, explain=True, several=False)

    return lines
