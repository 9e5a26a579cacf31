"""``flexiast listen``: a microphone, file or pipe classified live, the patch size chosen as it goes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexiast_cli.options import BackendOption, PrecisionOption, named_sizes
from flexiast_runtime.backends import Backend

if TYPE_CHECKING:
    from flexiast.spec import PatchSize
    from flexiast_runtime.capture import Capture
    from flexiast_runtime.engine import Engines
    from flexiast_runtime.governor import Policy
    from flexiast_runtime.listener import Conditions, Listener, Settings
    from flexiast_runtime.records import Record
    from flexiast_runtime.source import Source
    from flexiast_runtime.watchdog import ServiceManager

LOOK_EVERY_S = 5.0
"""Seconds between two looks at battery and heat."""
STATUS_EVERY_S = 1.0
"""Seconds of audio between two status records in JSON."""


def listen(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="An audio file, or - for raw mono 16-bit PCM at the model's rate on stdin; may be repeated "
            "(default: the microphone).",
            show_default=False,
        ),
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play a file at the pace of a microphone.")] = False,
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", help="Microphone by name or part of it; may be repeated.", show_default=False),
    ] = None,
    duration: Annotated[float | None, typer.Option("--duration", help="Stop after so many seconds of audio.")] = None,
    latency: Annotated[
        float | None,
        typer.Option("--latency", help="Deadline for one window in ms (default: one step, shared by the sources)."),
    ] = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes", callback=named_sizes, help="Choose among these only; one size is kept whatever happens."
        ),
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.01, max=1.0, help="Score at which an event begins.")
    ] = 0.5,
    explain: Annotated[bool, typer.Option("--explain", help="Say each switch and its reason on stderr.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSONL records: event, switch, status, summary.")
    ] = False,
) -> None:
    """Listen and report sounds as events.

    The patch size is the best that meets the deadline and that the battery allows; every switch has a reason. Ctrl-C
    ends the stream, finishes what was heard, and exits with 130.
    """
    from flexiast.errors import ExitCode, UsageError
    from flexiast.spec import parse_patches
    from flexiast_cli.console import positive, say, stderr
    from flexiast_cli.interrupts import ending_gently
    from flexiast_runtime.backends import load_engines
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.capture import merged
    from flexiast_runtime.listener import Settings, hear
    from flexiast_runtime.models import DEFAULT, find_bundle
    from flexiast_runtime.profiler import profile_key
    from flexiast_runtime.profiles import find
    from flexiast_runtime.watchdog import ServiceManager

    names = inputs or []
    if names and devices:
        raise UsageError("--input and --device exclude each other; give one")
    if realtime and (not names or "-" in names):
        raise UsageError("--realtime slows files to real time; give them with --input FILE")
    if names.count("-") > 1:
        raise UsageError("there is one stdin; give --input - once")
    positive(duration, "--duration")
    positive(latency, "--latency")
    wanted = None if patch_sizes is None else parse_patches(patch_sizes)
    bundle = Bundle.open(find_bundle(model or DEFAULT))
    engines = load_engines(bundle, wanted, precision, backend, say)
    profile = find(profile_key(bundle, backend))
    profiled_s = {} if profile is None else profile.latencies_s(bundle.manifest.precision(precision))
    frontend = engines.spec.frontend
    settings = Settings.of(frontend, threshold)
    live = not names or realtime
    manager = ServiceManager.of(os.environ)
    sources = _open(names, devices, frontend.sample_rate_hz, manager, realtime=realtime)
    share_s = settings.step_s / len(sources)  # one thread runs the engines for all of them
    conditions = machine_conditions(min(latency / 1000, share_s) if latency else share_s)
    stations = _stations(
        sources,
        engines,
        chooser(engines, conditions(0.0), profiled_s),
        settings,
        conditions,
        live=live,
        duration_s=duration,
    )
    captures, listeners = [capture for capture, _ in stations], [listener for _, listener in stations]
    heard = ", ".join(audio.name for audio in sources)
    if not as_json:
        stderr().print(f"{model or DEFAULT} listens to {heard}; Ctrl-C ends", style="dim", markup=False)
    show = _printer(as_json=as_json, explain=explain, title=f"{model or DEFAULT} · {heard}")

    def stop() -> None:
        for capture in captures:
            capture.stop()

    with ending_gently(stop, terminated=ExitCode.OK):
        records = hear(((listeners[place], chunk) for place, chunk in merged(captures)), listeners)
        show(manager.notifying(records) if manager else records)


def _stations(
    sources: list[Source],
    engines: Engines,
    chosen: Any,
    settings: Settings,
    conditions: Callable[[float], Conditions],
    *,
    live: bool,
    duration_s: float | None,
) -> list[tuple[Capture, Listener]]:
    """Each source's capture and listener; the engines and what chooses among them are shared."""
    from flexiast_runtime.capture import Capture
    from flexiast_runtime.listener import Listener

    rate_hz, changed = engines.spec.frontend.sample_rate_hz, threading.Condition()
    stations = []
    for source in sources:
        capture = Capture(
            source, rate_hz, round(settings.step_s * rate_hz), live=live, duration_s=duration_s, changed=changed
        )
        listener = Listener(
            engines,
            chosen,
            settings,
            source=source.name,
            conditions=conditions,
            backlog=capture.ring.backlog if live else lambda: 0,
            signal=partial(getattr, source, "signal", None),
            wall=time.time if live else None,
        )
        stations.append((capture, listener))
    return stations


def chooser(
    engines: Engines,
    conditions: Conditions,
    profiled_s: Mapping[PatchSize, float] | None = None,
    policy: Policy | None = None,
) -> Any:
    """The governor over a bundle's variants, or the only one there is."""
    from flexiast_runtime.governor import Policy, frontier
    from flexiast_runtime.listener import Governed, Pinned, options

    found = options(engines, profiled_s)  # which also warms every engine up
    if len(found) == 1:
        return Pinned(found[0].patch)
    return Governed(frontier(found), policy or Policy(), conditions)


def machine_conditions(deadline_s: float) -> Callable[[float], Conditions]:
    """The deadline, and this machine's battery and heat, looked at every few seconds."""
    from flexiast_runtime.listener import Conditions
    from flexiast_runtime.machine import read_climate
    from flexiast_runtime.power import read_battery

    def look() -> tuple[float, Conditions]:
        climate = read_climate()
        found = Conditions(deadline_s, read_battery(), climate.heat_room_k, climate.throttled, climate.power_saver)
        return time.monotonic(), found

    looked, found = look()

    def conditions(_: float) -> Conditions:
        nonlocal looked, found
        if time.monotonic() - looked >= LOOK_EVERY_S:
            looked, found = look()
        return found

    return conditions


def _open(
    inputs: list[str], devices: list[str] | None, rate_hz: int, manager: ServiceManager | None, *, realtime: bool
) -> list[Source]:
    """Files and pipes, or else microphones, whose being looked for a service manager hears of."""
    if not inputs:
        from flexiast_runtime.health import Watched
        from flexiast_runtime.mic import Microphone

        microphones: list[Source] = [Microphone(device) for device in devices] if devices else [Microphone()]
        return [Watched(manager.watching(one) if manager else one) for one in microphones]
    return [_recorded(name, rate_hz, realtime=realtime) for name in inputs]


def _recorded(name: str, rate_hz: int, *, realtime: bool) -> Source:
    """A file, at the pace of a microphone if so asked, or what stdin brings."""
    from flexiast_runtime.health import Watched
    from flexiast_runtime.source import FileSource, Paced, PcmSource

    if name == "-":
        # Unbuffered and a handle of our own: a thread that waits in sys.stdin would abort the interpreter's exit.
        return PcmSource(open(0, "rb", buffering=0, closefd=False), rate_hz)
    file = FileSource(Path(name))
    return Watched(Paced(file)) if realtime else file


def _printer(*, as_json: bool, explain: bool, title: str) -> Callable[[Iterator[Record]], None]:
    if as_json:
        return lambda records: _print_jsonl(records, explain=explain)
    if sys.stdout.isatty():
        from flexiast_cli.screen import Screen

        return lambda records: Screen(title).show(records)
    from flexiast_cli.screen import print_lines

    return lambda records: print_lines(records, explain=explain)


def _print_jsonl(records: Iterator[Record], *, explain: bool) -> None:
    import json

    from flexiast_cli.screen import print_switch
    from flexiast_runtime.records import Status, Switch

    next_status_s = 0.0
    for record in records:
        if isinstance(record, Status):
            if record.time_s < next_status_s:
                continue
            next_status_s = record.time_s + STATUS_EVERY_S
        sys.stdout.write(json.dumps(record.document(), ensure_ascii=False) + "\n")
        sys.stdout.flush()
        if explain and isinstance(record, Switch):
            print_switch(record)
