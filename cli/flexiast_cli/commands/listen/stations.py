"""What `listen` hears and how: sources, each with its capture and listener, and the machine's conditions."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from flexiast_runtime.audio.capture import Capture
    from flexiast_runtime.audio.source import Source
    from flexiast_runtime.detection.listener import StreamClassifier
    from flexiast_runtime.detection.settings import DetectionSettings
    from flexiast_runtime.governor.live import Conditions
    from flexiast_runtime.hardware.battery import Battery
    from flexiast_runtime.hardware.poller import Poller
    from flexiast_runtime.hardware.power_source import ReportedOnce
    from flexiast_runtime.inference.engine import Engines
    from flexiast_runtime.systemd import ServiceManager


def microphones(
    devices: Sequence[str | None],
    channel: int | None,
    on_loss: Literal["retry", "exit"],
    manager: ServiceManager | None,
) -> list[Source]:
    """Microphones by name, None for the usual one; a service manager hears that a lost one is looked for.

    Of several, one that is not there is looked for too, unless a loss is to end it all. Raises UsageError where two
    names are of one, DeviceError where none can be had, or one that there is has no such channel.
    """
    from flexiast.errors import UsageError
    from flexiast_runtime.audio.microphone import Microphone
    from flexiast_runtime.audio.signal import Monitored

    may_come = len(devices) > 1 and on_loss == "retry"
    found = [Microphone(device, channel=channel, on_loss=on_loss, may_come=may_come) for device in devices]
    if all(one.is_absent for one in found):
        Microphone(devices[0])  # which says what there is
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        wanted = " and ".join(
            f"--device {device}" for device, name in zip(devices, names, strict=True) if name == twice
        )
        raise UsageError(f"{wanted} are the same microphone, {twice}; each is heard once")
    return [Monitored(manager.watch_source(one) if manager else one) for one in found]


def recordings(
    names: Sequence[str],
    rate_hz: int,
    *,
    channel: int | None,
    realtime: bool,
    manager: ServiceManager | None = None,
) -> list[Source]:
    """Files, at the pace of a microphone if so asked; - and pipes that have a name are raw PCM, watched like one."""
    return [_open_recording(name, rate_hz, channel, realtime=realtime, manager=manager) for name in names]


def _open_recording(
    name: str, rate_hz: int, channel: int | None, *, realtime: bool, manager: ServiceManager | None
) -> Source:
    """A file, at the pace of a microphone if so asked, or what a pipe brings."""
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.audio.signal import Monitored
    from flexiast_runtime.audio.source import PcmSource, RealTime, open_recording

    if name == "-":
        # Unbuffered and a handle of our own: a thread that waits in sys.stdin would abort the interpreter's exit.
        pipe = PcmSource(open(0, "rb", buffering=0, closefd=False), rate_hz)  # noqa: SIM115 (read to the end)
        return Monitored(manager.watch_source(pipe) if manager else pipe)
    source = open_recording(Path(name), rate_hz, channel=channel, say=say)
    if isinstance(source, PcmSource):
        return Monitored(manager.watch_source(source) if manager else source)
    return Monitored(RealTime(source)) if realtime else source


def open_stations(
    sources: list[Source],
    engines: Engines,
    chosen: Any,
    settings: DetectionSettings,
    conditions: Callable[[float], Conditions],
    *,
    cascade: bool,
    live: bool,
    duration_s: float | None,
) -> list[tuple[Capture, StreamClassifier]]:
    """Each source's capture and listener; the engines and what chooses among them are shared.

    Raises UsageError for a cascade of one size; one that cannot save anything is left off, which is said.
    """
    from flexiast.errors import UsageError
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.audio.capture import Capture
    from flexiast_runtime.audio.signal import Monitored
    from flexiast_runtime.detection.cascade import Cascade, is_ineffective
    from flexiast_runtime.detection.listener import StreamClassifier
    from flexiast_runtime.governor.live import FixedSize

    if cascade and isinstance(chosen, FixedSize):
        raise UsageError("--cascade listens with a cheap size and asks a better one; with one size there is no other")
    frontend, changed, stations = engines.spec.frontend, threading.Condition(), []
    run = secrets.token_hex(8)
    rate_hz, thresholds = frontend.sample_rate_hz, settings.rules.thresholds(engines.spec.labels)
    if cascade and is_ineffective(thresholds, engines.spec):
        say("--cascade is left off: with these thresholds anything heard may be an event; raise --threshold to use it")
        cascade = False
    for source in sources:
        capture = Capture(
            source, rate_hz, round(settings.step_s * rate_hz), live=live, duration_s=duration_s, changed=changed
        )
        listener = StreamClassifier(
            engines,
            chosen,
            settings,
            source=source.name,
            conditions=conditions,
            backlog=capture.ring.backlog if live else lambda: 0,
            signal=partial(getattr, source, "signal", None),
            unix_s=capture.unix_s if isinstance(source, Monitored) else lambda _: None,  # which a file is not
            run=run,
            cascade=Cascade(chosen.options[0].patch, thresholds, engines.spec, settings.step_s) if cascade else None,
        )
        stations.append((capture, listener))
    return stations


def machine_conditions(deadline_s: float, backend: Backend, source: ReportedOnce | None) -> Poller[Conditions]:
    """The deadline, and this machine's battery and heat, looked at every few seconds.

    A power source of the user's own stands for the battery that the system knows.
    """
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.governor.live import Conditions
    from flexiast_runtime.hardware.nvml import Gpu
    from flexiast_runtime.hardware.platform import read_current_battery, read_current_climate
    from flexiast_runtime.hardware.poller import Poller
    from flexiast_runtime.hardware.power_profiles import PowerProfiles

    gpu, profiles = None if backend is Backend.CPU else Gpu.open(), PowerProfiles()

    def battery() -> Battery | None:
        if source is None:
            return read_current_battery()
        supply = source.read()
        return None if supply is None else supply.battery

    def look() -> Conditions:
        climate = read_current_climate(gpu, profiles.saver)
        return Conditions(deadline_s, battery(), climate.thermal_headroom_c, climate.throttled, climate.power_saver)

    return Poller(look, unknown=Conditions(deadline_s), say=say)
