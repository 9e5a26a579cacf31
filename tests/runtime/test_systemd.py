"""What a service manager hears, through a real socket: life is told by progress alone."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.spec import PatchSize
from flexiast_runtime.audio.source import Block
from flexiast_runtime.detection.records import Record, SourceNotice, Status, Switch
from flexiast_runtime.systemd import ServiceManager, watchdog_s

STATUS = Status(
    "garden", 1.0, PatchSize(8, 8), (("dog", 0.9),), (), latency_s=0.01, deadline_s=0.5, backlog_s=0, dropped_s=0,
    skipped=0, battery=None,
)  # fmt: skip
SWITCH = Switch("garden", 1.0, PatchSize(8, 8), PatchSize(16, 16), "why")
LOST, FOUND = (SourceNotice("garden", 1.0, state, "why") for state in ("lost", "found"))
EMPTY, FULL = (Block(np.zeros((frames, 1), np.float32)) for frames in (0, 100))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Garden:
    """A source of blocks as they are told."""

    name, rate_hz = "garden", 16_000

    def __init__(self, *blocks: Block) -> None:
        self._blocks = blocks

    def blocks(self) -> Iterator[Block]:
        yield from self._blocks


@pytest.fixture(params=["path", "abstract"])
def heard(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """A service manager's socket in this process's environment; what it has received so far."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@flexiast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(0.01)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def received() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(manager.recv(4096).decode())
                except TimeoutError:
                    return messages

        yield received


def manager(clock: Callable[[], float]) -> ServiceManager:
    environment = dict(os.environ)
    found = ServiceManager.from_environment(environment)
    assert "NOTIFY_SOCKET" not in environment  # for programs that are started from here
    assert found is not None
    found.clock = clock
    return found


def test_ready_at_the_first_record_alive_at_half_the_time_stopping_at_the_end(heard: Callable[[], list[str]]) -> None:
    clock = Clock()
    records = manager(clock).notify_each(iter([STATUS, SWITCH, STATUS, STATUS]))
    assert heard() == []
    alive = "WATCHDOG=1\nSTATUS=8x8, 10 of 500 ms, 0.0 s lost; dog 0.90"
    assert next(records) is STATUS
    assert heard() == ["READY=1", alive]
    for now_s, expected in ((0.5, []), (0.9, []), (1.0, [alive])):
        clock.now_s = now_s
        next(records)
        assert heard() == expected
    assert list(records) == []
    assert heard() == ["STOPPING=1"]


def test_a_listener_that_is_ended_or_fails_says_that_it_stops(heard: Callable[[], list[str]]) -> None:
    def failing() -> Iterator[Record]:
        yield STATUS
        raise OSError("gone")

    records = manager(Clock()).notify_each(failing())
    next(records)
    with pytest.raises(OSError, match="gone"):
        next(records)
    assert heard()[-1] == "STOPPING=1"
    records = manager(Clock()).notify_each(iter([STATUS, STATUS]))
    next(records)
    records.close()
    assert heard()[-1] == "STOPPING=1"


def test_blocks_alone_never_mean_life(heard: Callable[[], list[str]]) -> None:
    """An engine hangs: audio still comes in, or even stops; the manager must notice."""
    clock = Clock()
    found = manager(clock)
    records = found.notify_each(iter([STATUS]))
    next(records)
    heard()
    for _ in found.watch_source(Garden(FULL, EMPTY, FULL, EMPTY)).blocks():
        clock.now_s += 10
    assert heard() == []


def test_a_lost_microphone_that_is_looked_for_is_life(heard: Callable[[], list[str]]) -> None:
    clock = Clock()
    found = manager(clock)
    records = found.notify_each(iter([STATUS, LOST, FOUND]))
    next(records)
    clock.now_s = 10.0
    next(records)
    assert heard()[-1] == "WATCHDOG=1\nSTATUS=garden lost: why"
    looking = found.watch_source(Garden(EMPTY, EMPTY, EMPTY, FULL)).blocks()
    for expected in ([], [], ["WATCHDOG=1"], []):
        next(looking)
        assert heard() == expected
        clock.now_s += 0.5
    next(records)
    heard()
    clock.now_s += 10
    list(found.watch_source(Garden(EMPTY)).blocks())
    assert heard() == []  # found again: now the loop has to show that it goes round


def test_one_of_two_that_is_lost_does_not_speak_for_the_other(heard: Callable[[], list[str]]) -> None:
    clock = Clock()
    found = manager(clock)
    for name in ("garden", "roof"):
        source = Garden(EMPTY)
        source.name = name
        found.watch_source(source)
    records = found.notify_each(iter([LOST, replace(LOST, source="roof")]))
    for expected in ([], ["WATCHDOG=1"]):
        next(records)
        heard()
        clock.now_s += 10
        list(found.watch_source(Garden(EMPTY)).blocks())
        assert heard() == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.integers(1, 5))
def test_pings_are_never_further_apart_than_asked_while_records_come(pauses_s: list[int], every_s: int) -> None:
    """At least one in each stretch in which a record came, never two within it."""
    clock, pings = Clock(), []
    sent = ServiceManager(lambda text: pings.append(clock.now_s) if "WATCHDOG" in text else None, every_s, clock)
    records, times = sent.notify_each(STATUS for _ in pauses_s), []
    for pause_s in pauses_s:
        clock.now_s += pause_s
        times.append(clock.now_s)
        next(records)
    assert all(later - earlier >= every_s for earlier, later in itertools.pairwise(pings))
    for time_s in times:
        assert any(time_s - every_s < ping_s <= time_s for ping_s in pings)
    records.close()


@pytest.mark.parametrize("address", ["absent", "@flexiast-test-nobody", "closed", "folder/" * 40, "."])
def test_a_manager_that_is_gone_is_said_once_and_listening_goes_on(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
        closed.bind("closed")
    notes: list[str] = []
    found = ServiceManager.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}, notes.append)
    assert found is not None
    found.clock = itertools.count().__next__
    assert list(found.notify_each(iter([STATUS, SWITCH, STATUS]))) == [STATUS, SWITCH, STATUS]
    assert len(notes) == 1
    assert f"NOTIFY_SOCKET={address} does not answer" in notes[0]


def test_without_a_manager_nobody_is_told() -> None:
    assert ServiceManager.from_environment({}) is None
    assert ServiceManager.from_environment({"NOTIFY_SOCKET": ""}) is None


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # it is another process that is watched
        ({}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_time_is_the_managers(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_s(environment) == seconds


def test_listen_tells_its_manager(
    heard: Callable[[], list[str]],
    write_audio: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in ("DATA", "CONFIG"):  # no profile of this machine, no settings
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path))
    sound = write_audio(tmp_path / "a.wav", np.random.default_rng(1).normal(0, 0.1, 16_000))
    command = [Path(sys.executable).with_name("flexiast"), "listen", "commands", "--input", sound, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    messages = heard()
    assert messages[0] == "READY=1"
    assert any("STATUS=" in message and "ms" in message for message in messages)
    assert messages[-1] == "STOPPING=1"
