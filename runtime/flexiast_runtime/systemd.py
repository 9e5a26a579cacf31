"""Notifies systemd by the sd_notify protocol: ready, alive, status, stopping.

Only progress counts as alive. A thread of its own that pings the watchdog would hide a hung engine, so the ping is sent
where a record leaves the inference loop. While the microphone is away there are no records. Then, and only after the
loop itself has reported the loss, each attempt to reopen the microphone counts as progress.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from flexiast.log import Log, log_nothing
from flexiast_runtime.audio.source import Block, Source
from flexiast_runtime.detection.records import Record, SourceNotice, Status, Summary

STATUS_EVERY_S = 10.0
"""Seconds between two messages without a watchdog"""


@dataclass
class ServiceManager:
    """The other end of NOTIFY_SOCKET."""

    send: Callable[[str], None]
    every_s: float = STATUS_EVERY_S
    clock: Callable[[], float] = time.monotonic
    _ready: bool = False
    _watched: set[str] = field(default_factory=set)
    _away: set[str] = field(default_factory=set)
    _next_s: float = 0.0

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], log: Log = log_nothing) -> ServiceManager | None:
        """The manager that started this process and expects notifications, or None; ``log`` logs if it is unreachable.

        Its address is removed from the environment: child processes would otherwise send in the name of this one.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        return None if not address else cls(_sender(address, log), watchdog_s(environment) or STATUS_EVERY_S)

    def notify_each(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records, each of which shows that the loop makes progress."""
        try:
            for record in records:
                if isinstance(record, SourceNotice) and record.state == "lost":
                    self._away.add(record.source)
                elif isinstance(record, (SourceNotice, Status)):
                    self._away.discard(record.source)
                if not self._ready:  # the first record means an open microphone and engines that answered
                    self._ready = True
                    self.send("READY=1")
                self._alive(describe_status(record))
                yield record
        finally:
            self.send("STOPPING=1")

    def watch_source(self, source: Source) -> Source:
        """The source, whose empty blocks count as progress while it tries to reopen a lost device."""
        self._watched.add(source.name)
        return _Reported(source, self._nothing_came)

    def _nothing_came(self) -> None:
        if self._away >= self._watched:  # else others deliver, and the loop must show progress
            self._alive("")

    def _alive(self, status: str) -> None:
        """Ping at half the watchdog's time; nothing is sent in between."""
        if (now_s := self.clock()) >= self._next_s:
            self._next_s = now_s + self.every_s
            self.send("WATCHDOG=1" + (f"\nSTATUS={status}" if status else ""))


@dataclass(frozen=True)
class _Reported:
    source: Source
    nothing_came: Callable[[], None]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def rate_hz(self) -> int:
        return self.source.rate_hz

    def blocks(self) -> Iterator[Block]:
        for block in self.source.blocks():
            if not len(block.samples):
                self.nothing_came()
            yield block


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Half the time after which systemd takes this process for hung; None without a watchdog."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    for_us = environment.get("WATCHDOG_PID") in {None, str(os.getpid())}
    return int(microseconds) / 2e6 if microseconds.isdigit() and for_us else None


def describe_status(record: Record) -> str:
    """One line for `systemctl status`; empty for other records."""
    if isinstance(record, Status):
        label, score = record.top[0]
        latency = f"{1000 * record.latency_s:.0f} of {1000 * record.deadline_s:.0f} ms"
        return f"{record.patch}, {latency}, {record.dropped_s:.1f} s lost; {label} {score:.2f}"
    if isinstance(record, SourceNotice):
        return f"{record.source} {record.state}: {record.reason}"
    return f"{record.audio_s:.0f} s classified, {record.events} events" if isinstance(record, Summary) else ""


def _sender(address: str, log: Log) -> Callable[[str], None]:
    """Send datagrams to a path, or to a name in Linux's abstract namespace, written with an @ in front."""
    target = f"\0{address[1:]}" if address.startswith("@") else address
    failures: list[OSError] = []

    def send(text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
            endpoint.setblocking(False)  # a manager that is too busy to read must not stop the audio
            try:
                endpoint.sendto(text.replace("\0", "").encode(), target)
            except BlockingIOError:
                return  # the next message comes soon
            except OSError as error:  # nobody is there, or the address is none; the audio goes on
                if not failures:
                    failures.append(error)
                    log(f"NOTIFY_SOCKET={address} does not answer: {error}; flexiast runs on without it")

    return send
