"""``flexiast listen``: a microphone, file or pipe classified live, the patch size chosen as it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flexiast_cli.options.common import (
    GATE,
    AllowOption,
    BackendOption,
    ConfirmOption,
    DenyOption,
    GateOption,
    LabelThresholdOption,
    MergeGapOption,
    MinDurationOption,
    PowerSourceOption,
    PrecisionOption,
    SmoothingOption,
    ThresholdOption,
    WebOption,
    WebUrlOption,
    event_settings,
    power_source_of,
)
from flexiast_cli.options.policy import (
    CascadeOption,
    MaxWattsOption,
    MinBatteryOption,
    MinMetricOption,
    PinOption,
    PolicyOption,
    PolicyOptions,
    RecordOption,
    UntilOption,
    build_controller,
    options_of,
    profile_of,
    record_trace,
)
from flexiast_cli.options.validators import known_sinks, named_sizes, positive
from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from flexiast_cli.terminal.interrupts import StopRequest
    from flexiast_cli.web.server import WebPage
    from flexiast_runtime.audio.capture import Capture
    from flexiast_runtime.detection.listener import StreamClassifier
    from flexiast_runtime.detection.records import Record

STATUS_EVERY_S = 1.0
"""Seconds of audio between two status records of a source in JSON."""


def listen(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A bundle, or the name of a shipped model.", show_default=False),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="An audio file, or raw mono 16-bit PCM at the model's rate: - for stdin, or a named pipe; may be "
            "repeated (default: the microphone).",
            show_default=False,
        ),
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play a file at the pace of a microphone.")] = False,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="Microphone by name, part of it or USB id, see `flexiast devices`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(
            "--channel",
            min=1,
            help="Hear one channel of the microphone or file.",
            show_default="two of a microphone, all of a file",
        ),
    ] = None,
    on_device_loss: Annotated[
        Literal["retry", "exit"],
        typer.Option("--on-device-loss", help="Look for a lost microphone until it is back, or exit."),
    ] = "retry",
    on_source_loss: Annotated[
        Literal["continue", "exit"] | None,
        typer.Option(
            "--on-source-loss",
            help="When one of several sources breaks: hear the others to their end, or exit.",
            show_default="continue; exit with --on-device-loss exit",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", callback=positive, help="Stop after so many seconds of audio."),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(
            "--latency",
            callback=positive,
            help="Deadline for one window in ms (default: one step, shared by the sources).",
        ),
    ] = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes", callback=named_sizes, help="Choose among these only; one size is kept whatever happens."
        ),
    ] = None,
    pin: PinOption = None,
    min_metric: MinMetricOption = None,
    policy: PolicyOption = None,
    cascade: CascadeOption = False,
    until: UntilOption = None,
    min_battery: MinBatteryOption = None,
    max_watts: MaxWattsOption = None,
    power_source: PowerSourceOption = None,
    record: RecordOption = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    threshold: ThresholdOption = None,
    label_threshold: LabelThresholdOption = None,
    allow: AllowOption = None,
    deny: DenyOption = None,
    min_duration: MinDurationOption = 0.0,
    confirm: ConfirmOption = 0.0,
    merge_gap: MergeGapOption = 0.0,
    smoothing: SmoothingOption = None,
    gate: GateOption = GATE,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="SINK",
            callback=known_sinks,
            help="Where events go besides the screen, e.g. sqlite, jsonl:FILE, mqtt://HOST, clips:FOLDER; may be "
            "repeated; see docs/how-to/sinks.md.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say each switch and its reason on stderr.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSONL records: event, switch, status, summary.")
    ] = False,
    web: WebOption = None,
    web_url: WebUrlOption = None,
) -> None:
    """Listen and report sounds as events.

    The patch size is the best that meets the deadline and that the battery allows; every switch has a reason. Ctrl-C
    ends the stream, finishes what was heard, and exits with 130.
    """
    from flexiast.errors import ExitCode
    from flexiast_cli.commands.listen.sinks import clip_folder, histories_for, open_sinks, tee_to_history, tee_to_sinks
    from flexiast_cli.commands.listen.stations import (
        machine_conditions,
        microphones,
        open_stations,
        recordings,
    )
    from flexiast_cli.terminal.console import say
    from flexiast_cli.terminal.full_disk import surviving_full_disk
    from flexiast_cli.terminal.interrupts import graceful_shutdown
    from flexiast_cli.web.server import WebPage, parse_address, public_urls, tee_to_web
    from flexiast_runtime.audio.capture import merge_captures, stop
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import DEFAULT, find_bundle
    from flexiast_runtime.detection.listener import process_streams
    from flexiast_runtime.inference.backends import load_engines
    from flexiast_runtime.sinks.parse import parse_sinks
    from flexiast_runtime.sinks.sink import RunContext
    from flexiast_runtime.systemd import ServiceManager

    names = inputs or []
    _check_sources(names, devices, channel, realtime=realtime)
    wishes = PolicyOptions(policy, pin, until, min_battery, max_watts, min_metric)
    sinks, supply = parse_sinks(to or ()), power_source_of(power_source)
    address, public = None if web is None else parse_address(web), public_urls(web, web_url)
    bundle = Bundle.open(find_bundle(model or DEFAULT))
    settings = event_settings(
        bundle.manifest,
        threshold=threshold,
        label_thresholds=label_threshold,
        allow=allow,
        deny=deny,
        min_duration=min_duration,
        confirm=confirm,
        merge_gap=merge_gap,
        smoothing=smoothing,
        gate=gate,
    )
    profile, precision = profile_of(bundle, backend), bundle.manifest.precision(precision)
    engines = load_engines(
        bundle, wishes.sizes(patch_sizes, bundle.manifest, precision, profile), precision, backend, say
    )
    frontend, live, manager = (
        engines.spec.frontend,
        not names or realtime,
        ServiceManager.from_environment(os.environ, say),
    )
    if names:
        sources = recordings(names, frontend.sample_rate_hz, channel=channel, realtime=realtime, manager=manager)
    else:
        sources = microphones(devices or [None], channel, on_device_loss, manager)
    share_s = settings.step_s / len(sources)  # one thread runs the engines for all of them
    machine = machine_conditions(min(latency / 1000, share_s) if latency else share_s, backend, supply)
    options = options_of(engines, profile, precision)
    chosen = build_controller(options, wishes.resolved(options, machine.latest, datetime.now()), machine.latest)
    stations = open_stations(
        sources,
        engines,
        chosen,
        settings,
        lambda _: machine.latest,
        cascade=cascade,
        live=live,
        duration_s=duration,
    )
    captures, listeners = [capture for capture, _ in stations], [listener for _, listener in stations]
    heard = tuple(source.name for source in sources)
    histories = histories_for(sinks, sources, frontend.sample_rate_hz, live=live)
    hearing = RunContext(engines.spec.labels, heard, histories, patch_sizes=tuple(map(str, engines.patches)))
    title = f"{model or DEFAULT} · {', '.join(heard)}"
    page = None if address is None else WebPage(*address, title, frontend, clips=clip_folder(sinks), public=public)
    show = _printer(
        as_json=as_json,
        explain=explain,
        several=len(heard) > 1,
        title=title,
        note="Ctrl-C ends" if page is None else f"{page.url} · Ctrl-C ends",
    )
    with (
        closing(engines),
        graceful_shutdown(partial(stop, captures), terminated=ExitCode.OK) as asked,
        open_sinks(sinks, hearing, lambda: live or asked.by is not None) as publish,
        record_trace(chosen, record, bundle, model or DEFAULT, settings.step_s, len(sources)),
        machine,
        surviving_full_disk(say),
    ):
        _announce(None if as_json else f"{model or DEFAULT} listens to {', '.join(heard)}; Ctrl-C ends", page)
        on_loss = on_source_loss or ("exit" if on_device_loss == "exit" else "continue")
        stream = tee_to_history(merge_captures(captures, on_loss if len(sources) > 1 else "exit"), heard, histories)
        records = tee_to_sinks(
            process_streams(((listeners[place], chunk) for place, chunk in stream), listeners), publish
        )
        records = manager.notify_each(records) if manager else records
        _show(records if page is None else tee_to_web(records, page), show, captures, asked, live=live)
        _say_unspared(listeners)


def _announce(listening: str | None, page: WebPage | None) -> None:
    """Say on stderr that it begins, once nothing can refuse any more."""
    from flexiast_cli.terminal.console import say, stderr

    if listening is not None:
        stderr().print(listening, style="dim", markup=False)
    if page is not None:
        say(f"the page is at {page.url}")


def _show(
    records: Iterator[Record],
    show: Callable[[Iterator[Record]], None],
    captures: Sequence[Capture],
    asked: StopRequest,
    *,
    live: bool,
) -> None:
    """Print as fast as stdout is read; when its reader goes, the sinks still get the end of what was heard."""
    from flexiast_cli.terminal.interrupts import until_reader_stalls
    from flexiast_runtime.audio.capture import stop

    try:
        show(until_reader_stalls(records, asked, live=live))
    except BrokenPipeError:
        stop(captures)
        for _ in records:
            pass
        raise


def _say_unspared(listeners: Sequence[StreamClassifier]) -> None:
    """Why a cascade was of no use, once for all sources."""
    from flexiast_cli.terminal.console import say

    if labels := dict.fromkeys(filter(None, (listener.busiest_label for listener in listeners))):
        say(
            f"--cascade saved nothing: all the time something may have been an event, mostly {', '.join(labels)}; "
            "raise its threshold, or leave it out with --deny"
        )


def _check_sources(names: list[str], devices: list[str] | None, channel: int | None, *, realtime: bool) -> None:
    """Raise UsageError for options that exclude each other."""
    from flexiast.errors import UsageError

    if names and devices:
        raise UsageError("--input and --device exclude each other; give one")
    if "-" in names and channel is not None:
        raise UsageError("--channel chooses one of several; stdin is mono")
    if realtime and (not names or "-" in names):
        raise UsageError("--realtime slows files to real time; give them with --input FILE")
    for option, given in (("--input", names), ("--device", devices or [])):
        if twice := [name for name in given if given.count(name) > 1]:
            raise UsageError(f"{option} {twice[0]} is given twice; each source is heard once")


def _printer(
    *, as_json: bool, explain: bool, several: bool, title: str, note: str
) -> Callable[[Iterator[Record]], None]:
    from flexiast_cli.terminal.console import shows_pictures

    if as_json:
        return lambda records: _print_jsonl(records, explain=explain, several=several)
    if shows_pictures():
        from flexiast_cli.terminal.screen import Screen

        return lambda records: Screen(title, note).show(records)
    from flexiast_cli.terminal.screen import print_lines

    return lambda records: print_lines(records, explain=explain, several=several)


def _print_jsonl(records: Iterator[Record], *, explain: bool, several: bool) -> None:
    from flexiast_cli.terminal.console import json_line
    from flexiast_cli.terminal.screen import print_switch
    from flexiast_runtime.detection.records import Status, Switch

    next_status_s: dict[str, float] = {}  # of each source, whose streams begin and break off apart
    for record in records:
        if isinstance(record, Status):
            if record.time_s < next_status_s.get(record.source, 0.0):
                continue
            next_status_s[record.source] = record.time_s + STATUS_EVERY_S
        typer.echo(json_line(record.document()))
        if explain and isinstance(record, Switch):
            print_switch(record, several=several)
