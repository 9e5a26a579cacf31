"""The sources of `listen`, each with its capture and classifier, and the machine's conditions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from flexiast.errors import UsageError
from flexiast.spec import Spec
from flexiast_cli.commands.listen.options import SourceOptions
from flexiast_cli.governor import Controller
from flexiast_cli.terminal.console import log
from flexiast_runtime.audio.alignment import WindowTiming
from flexiast_runtime.audio.capture import Capture
from flexiast_runtime.audio.channels import Channel, open_channels, split_channels
from flexiast_runtime.audio.microphone import Microphone
from flexiast_runtime.audio.signal import Monitored
from flexiast_runtime.audio.source import PcmSource, RealTime, Source
from flexiast_runtime.detection.cascade import Cascade
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.nvml import Gpu
from flexiast_runtime.hardware.platform import read_current_battery, read_current_climate
from flexiast_runtime.hardware.poller import Poller
from flexiast_runtime.hardware.power_profiles import PowerProfiles
from flexiast_runtime.hardware.power_source import ReportedOnce
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.systemd import ServiceManager


class Station(NamedTuple):
    """One source with what reads and classifies it."""

    name: str
    capture: Capture
    classifier: StreamClassifier
    is_live: bool
    """Whether its sound cannot be had again: a microphone, a pipe, or a file at the pace of one"""


def check_sources(options: SourceOptions) -> None:
    """Raise UsageError for options that exclude each other."""
    names, devices = options.inputs or [], options.devices or []
    if names and devices:
        raise UsageError("--input and --device exclude each other; give one")
    if "-" in names and options.channel is not None:
        raise UsageError("--channel chooses one of several; stdin is mono")
    if options.realtime and (not names or "-" in names):
        raise UsageError("--realtime slows files to real time; give them with --input FILE")
    for option, given in (("--input", names), ("--device", devices)):
        if twice := [name for name in given if given.count(name) > 1]:
            raise UsageError(f"{option} {twice[0]} is given twice; give each source once")


class Input(NamedTuple):
    """A source, and the only channel that it is of, if it is of one."""

    source: Source
    channel: int | None


def open_sources(options: SourceOptions, windows: WindowTiming, manager: ServiceManager | None) -> list[Input]:
    """Files and pipes if any are named, else microphones; raises what these raise."""
    if not options.inputs:
        return microphones(options.devices or [None], options.channel, options.on_device_loss, windows, manager)
    return [
        each
        for name in options.inputs
        for each in _open_recording(name, windows.rate_hz, options.channel, realtime=options.realtime, manager=manager)
    ]


def microphones(
    devices: Sequence[str | None],
    channel: Channel | None,
    on_loss: Literal["retry", "exit"],
    windows: WindowTiming,
    manager: ServiceManager | None,
) -> list[Input]:
    """Microphones by name, None for the default one; a service manager is notified while a lost one is polled for.

    With several, an absent one is polled for too, unless a loss ends the run. Raises UsageError where two names mean
    one microphone, DeviceError where all are absent or one has no such channel.
    """
    may_come = len(devices) > 1 and on_loss == "retry"
    found = [
        Microphone(device, windows=windows, channel=channel, on_loss=on_loss, may_come=may_come) for device in devices
    ]
    if all(one.is_absent for one in found):
        Microphone(devices[0])  # raises DeviceError that lists the microphones of this machine
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        same = " and ".join(f"--device {device}" for device, name in zip(devices, names, strict=True) if name == twice)
        raise UsageError(f"{same} are the same microphone, {twice}; give it once")
    inputs = [each for one in found for each in _inputs(one, separate=channel == "each")]
    return [Input(Monitored(_watch(source, manager)), number) for source, number in inputs]


def _inputs(microphone: Microphone, *, separate: bool) -> list[Input]:
    channels = microphone.channels
    if channels is None:
        return [Input(microphone, None)]
    if not separate or len(channels) == 1:
        return [Input(microphone, channels[0])]
    return [Input(*each) for each in zip(split_channels(microphone, len(channels)), channels, strict=True)]


def _watch(source: Source, manager: ServiceManager | None) -> Source:
    return source if manager is None else manager.watch_source(source)


def _open_recording(
    name: str, rate_hz: int, channel: Channel | None, *, realtime: bool, manager: ServiceManager | None
) -> list[Input]:
    """A file, at the pace of a microphone if asked; stdin (-) and named pipes are raw PCM, monitored like one."""
    if name == "-":
        # Unbuffered and a handle of our own: a thread that waits in sys.stdin would abort the interpreter's exit.
        pipe = PcmSource(open(0, "rb", buffering=0, closefd=False), rate_hz)  # noqa: SIM115 (read to the end)
        return [Input(Monitored(_watch(pipe, manager)), None)]
    inputs = []
    for source in open_channels(Path(name), rate_hz, channel=channel, log=log):
        if isinstance(source, PcmSource):
            opened: Source = Monitored(_watch(source, manager))
        else:
            opened = Monitored(RealTime(source)) if realtime else source
        inputs.append(Input(opened, source.channel))
    return inputs


def open_stations(
    inputs: Sequence[Input],
    engines: Engines,
    controller: Controller,
    settings: DetectionSettings,
    conditions: Callable[[float], Conditions],
    *,
    cascade: bool,
    live: bool,
    duration_s: float | None,
) -> list[Station]:
    """Each source's capture and classifier; all share the engines and the controller."""
    run, frontend, stations = secrets.token_hex(8), engines.spec.frontend, []
    for source, channel in inputs:
        capture = Capture(
            source,
            frontend.sample_rate_hz,
            round(settings.step_s * frontend.sample_rate_hz),
            live=live,
            window_samples=frontend.window_samples,
            duration_s=duration_s,
        )
        classifier = StreamClassifier(
            engines,
            controller,
            settings,
            source=source.name,
            conditions=conditions,
            backlog=capture.backlog,
            signal=partial(getattr, source, "signal", None),
            unix_s=capture.unix_s if isinstance(source, Monitored) else lambda _: None,  # files have no wall clock
            run=run,
            channel=channel,
            cascade=create_cascade(controller, settings, engines.spec) if cascade else None,
        )
        stations.append(Station(source.name, capture, classifier, isinstance(source, Monitored)))
    return stations


def create_cascade(controller: Controller, settings: DetectionSettings, spec: Spec) -> Cascade:
    """A stream's cascade, whose cheap pass is that of the cheapest size that the controller may choose."""
    cheapest = controller.patch if isinstance(controller, FixedSize) else controller.options[0].patch
    return Cascade(cheapest, settings.rules.thresholds(spec.labels), spec, settings.step_s)


def machine_conditions(deadline_s: float, backend: Backend, source: ReportedOnce | None) -> Poller[Conditions]:
    """The deadline with this machine's battery and heat, polled every few seconds.

    A power source of the user's own replaces the battery that the system knows.
    """
    gpu, profiles = None if backend is Backend.CPU else Gpu.open(), PowerProfiles()

    def read_battery() -> Battery | None:
        if source is None:
            return read_current_battery()
        supply = source.read()
        return None if supply is None else supply.battery

    def poll() -> Conditions:
        climate = read_current_climate(gpu, profiles.saver)
        return Conditions(
            deadline_s, read_battery(), climate.thermal_headroom_c, climate.throttled, climate.power_saver
        )

    return Poller(poll, unknown=Conditions(deadline_s), log=log)
