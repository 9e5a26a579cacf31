"""The work of `flexiast listen`: open everything that may refuse, then classify until the sources end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flexiast.errors import ExitCode
from flexiast_cli.commands.listen.model import ModelId, ModelLoader, RunningModel
from flexiast_cli.commands.listen.options import OutputOptions, SourceOptions
from flexiast_cli.commands.listen.output import announce, choose_printer, print_records, report_ineffective_cascade
from flexiast_cli.commands.listen.sinks import (
    clip_folders,
    create_audio_keeper,
    find_database,
    histories_for,
    log_with_time,
    make_review_finder,
    open_sinks,
    tee_to_history,
    tee_to_keeper,
    tee_to_sinks,
)
from flexiast_cli.commands.listen.stations import (
    Station,
    check_sources,
    machine_conditions,
    open_sources,
    open_stations,
)
from flexiast_cli.commands.listen.swapping import ModelSwapper
from flexiast_cli.governor import load_candidates, prepare, record_trace
from flexiast_cli.options.common import EventOptions, bundle_event_settings, power_source_of
from flexiast_cli.options.policy import PolicyOptions
from flexiast_cli.options.validators import parse_address
from flexiast_cli.terminal.console import log
from flexiast_cli.terminal.full_disk import surviving_full_disk
from flexiast_cli.terminal.interrupts import StopRequest, graceful_shutdown, reload_on_hangup
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.capture import OnSourceLoss, merge_captures, stop
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import DEFAULT, find_bundle
from flexiast_runtime.control import ControlServer
from flexiast_runtime.detection.listener import process_streams
from flexiast_runtime.detection.place_noise import PlaceNoise
from flexiast_runtime.detection.records import Record
from flexiast_runtime.governor.live import Conditions
from flexiast_runtime.hardware.poller import Poller
from flexiast_runtime.sinks.audio_history import Audio
from flexiast_runtime.sinks.audio_keeper import AudioKeeper
from flexiast_runtime.sinks.parse import parse_sinks
from flexiast_runtime.sinks.sink import RunContext, Sink
from flexiast_runtime.systemd import ServiceManager

if TYPE_CHECKING:
    from flexiast.spec import FrontendSpec
    from flexiast_cli.web.server import WebPage


def run(
    model: str | None, sources: SourceOptions, sizes: PolicyOptions, events: EventOptions, output: OutputOptions
) -> None:
    """Raises UsageError for options that exclude each other, before anything is opened that costs time."""
    check_sources(sources)
    sinks = parse_sinks(output.to or ())
    supply = power_source_of(sizes.power_source)
    open_page = _choose_page(output)
    name = model or DEFAULT
    bundle = Bundle.open(find_bundle(name))
    settings = bundle_event_settings(bundle, events)
    candidates = load_candidates(bundle, sizes)
    frontend = candidates.engines.spec.frontend
    manager = ServiceManager.from_environment(os.environ, log)
    opened = open_sources(sources, WindowTiming(frontend.sample_rate_hz, frontend.window_s, settings.step_s), manager)
    share_s = settings.step_s / len(opened)  # one thread runs the engines for all of them
    deadline_s = min(sizes.latency / 1000, share_s) if sizes.latency else share_s
    machine = machine_conditions(deadline_s, sizes.backend, supply)
    controller = prepare(candidates, sizes, machine.latest)
    first = RunningModel(ModelId(name, bundle.sha256), settings, candidates, controller)
    place = PlaceNoise()
    stations = open_stations(
        opened,
        candidates.engines,
        controller,
        settings,
        lambda _: replace(machine.latest, snr_db=place.snr_db),
        cascade=sizes.cascade,
        live=sources.live,
        duration_s=sources.duration,
    )
    streams = [one.source for one in opened]
    histories = histories_for(sinks, streams, frontend.sample_rate_hz, live=sources.live)
    keeper = create_audio_keeper(output, sinks, streams, frontend.sample_rate_hz)
    swapper = ModelSwapper(first, stations, ModelLoader(sizes, events, lambda: machine.latest), log_with_time)
    page = None if open_page is None else _open_page(open_page, frontend, swapper, stations, sinks)
    session = _Session(
        name, sources, output, swapper, stations, sinks, histories, keeper, machine, place, manager, page
    )
    session.run(first, sizes)


def _choose_page(output: OutputOptions) -> Callable[..., WebPage] | None:
    """What opens the page; None without one. Raises UsageError for an address that cannot be."""
    if output.web is None and not output.web_url:
        return None

    from flexiast_cli.web.server import WebPage, public_urls  # asyncio: a twentieth of the start-up

    public = public_urls(output.web, output.web_url)
    return partial(WebPage, *parse_address(output.web or ""), public=public)


def _open_page(
    open_page: Callable[..., WebPage],
    frontend: FrontendSpec,
    swapper: ModelSwapper,
    stations: Sequence[Station],
    sinks: Sequence[Sink],
) -> WebPage:
    """The page, titled by the model that runs."""
    page = open_page(
        _name_run(swapper.running.id, stations),
        frontend,
        clips=next(iter(clip_folders(sinks)), None),
        database=find_database(sinks),
        models=swapper if any(station.is_live for station in stations) else None,
    )
    swapper.observers.append(lambda model: page.rename(_name_run(model, stations)))
    return page


def _name_run(model: ModelId, stations: Sequence[Station]) -> str:
    return f"{model.name} · {', '.join(station.name for station in stations)}"


@dataclass(frozen=True)
class _Session:
    """One run of `listen`, with everything open."""

    name: str
    options: SourceOptions
    output: OutputOptions
    swapper: ModelSwapper
    stations: Sequence[Station]
    sinks: Sequence[Sink]
    histories: Mapping[str, Audio]
    keeper: AudioKeeper | None
    machine: Poller[Conditions]
    place: PlaceNoise
    manager: ServiceManager | None
    page: WebPage | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(station.name for station in self.stations)

    def run(self, model: RunningModel, sizes: PolicyOptions) -> None:
        """Classify until the sources end or a signal comes; exits with LOST where a sink lost something."""
        bundle, engines, step_s = model.candidates.bundle, model.candidates.engines, model.settings.step_s
        live, captures = self.options.live, [station.capture for station in self.stations]
        context = RunContext(
            engines.spec.labels,
            self.names,
            self.histories,
            patch_sizes=tuple(map(str, engines.patches)),
            models=self.swapper.models,
            clip_folders=clip_folders(self.sinks),
            find_reviewed=make_review_finder(self.sinks),
        )
        with (
            self.swapper,
            graceful_shutdown(partial(stop, captures), terminated=ExitCode.OK) as request,
            open_sinks(self.sinks, context, lambda: live or request.by is not None) as publish,
            record_trace(model.controller, sizes.record, bundle, self.name, step_s, len(captures)),
            self.machine,
            self.keeper or nullcontext(),
            surviving_full_disk(log),
            self._accept_swaps(),
        ):
            heading = f"{self.name} listens to {', '.join(self.names)}; Ctrl-C ends"
            announce(None if self.output.as_json else heading, self.page)
            self._print(tee_to_sinks(self._classify(), publish), request)
            report_ineffective_cascade([station.classifier for station in self.stations])

    @contextmanager
    def _accept_swaps(self) -> Iterator[None]:
        """Let `flexiast swap` and SIGHUP swap the model of live sound; a recording ends before one could."""
        if not any(station.is_live for station in self.stations):
            yield
            return
        with ControlServer(self.swapper.answer, log), reload_on_hangup(self.swapper.reload):
            yield

    def _classify(self) -> Iterator[Record]:
        """The records of all sources in the order of their audio."""
        captures, classifiers = zip(*((station.capture, station.classifier) for station in self.stations), strict=True)
        on_loss: OnSourceLoss = "exit" if len(captures) == 1 or self.options.exits_on_source_loss else "continue"
        chunks = tee_to_history(merge_captures(captures, on_loss), self.names, self.histories)
        chunks = tee_to_keeper(chunks, self.stations, self.keeper)
        pairs = ((classifiers[index], chunk) for index, chunk in self.swapper.swap_between(chunks))
        return self.place.watch(process_streams(pairs, classifiers))

    def _print(self, records: Iterator[Record], request: StopRequest) -> None:
        records = self.manager.notify_each(records) if self.manager else records
        printer = choose_printer(
            as_json=self.output.as_json,
            explain=self.output.explain,
            several=len(self.stations) > 1,
            title=lambda: _name_run(self.swapper.running.id, self.stations),
            note="Ctrl-C ends" if self.page is None else f"{self.page.url} · Ctrl-C ends",
        )
        captures = [station.capture for station in self.stations]
        if self.page is not None:
            records = self.page.show_all(records)
        print_records(records, printer, captures, request, live=self.options.live)
