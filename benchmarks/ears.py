"""Runs `flexiast listen` on a virtual microphone with every kind of sink, and injects faults."""

from __future__ import annotations

import errno
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flexiast_runtime.history.clips import NAME
from flexiast_runtime.history.events import read_events

RIG = Path(__file__).parents[2] / "shared" / "rigs" / "virtual_mic.sh"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
DISK = "1m"
STARTING_S, ENDING_S = 60.0, 20.0
"""After which a process that neither hears nor ends is called hung."""


@dataclass
class Heard:
    """What one run left behind."""

    records: list[dict[str, Any]]
    """JSON of stdout, as far as somebody read it"""
    sinks: dict[str, list[dict[str, Any]]]
    """Events in each sink; of clips the ids alone"""
    stderr: list[str]
    memory_mb: float
    exit_code: int | None
    """None: it did not end, and was killed"""
    ended_s: float
    """From the signal, or from the closing of its stdout"""


@dataclass
class Broker:
    """Mosquitto, which keeps over a restart what its subscriber has not seen, and that subscriber."""

    folder: Path
    got: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        lines = (f"listener {self.port} 127.0.0.1", "allow_anonymous true", f"user {getpass.getuser()}")
        kept = ("persistence true", f"persistence_location {self.folder}/")
        (self.folder / "mosquitto.conf").write_text("\n".join((*lines, *kept)) + "\n")
        self.start()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "benchmark", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("flexiast/event", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _, __, message: self.got.append(json.loads(message.payload))
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        if not self._subscribed.wait(STARTING_S):
            raise TimeoutError("the broker lets nobody subscribe")

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", config], stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + STARTING_S
        while time.monotonic() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the broker does not listen")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def close(self) -> None:
        time.sleep(0.5)  # what it has acknowledged is on its way here
        self._client.disconnect()
        self._client.loop_stop()
        self.stop()


class Ears:
    """One run; made, it hears."""

    def __init__(self, wav: Path, folder: Path, small_disk: bool) -> None:
        self._disk, self._small = folder / "disk", small_disk
        self._disk.mkdir(parents=True)
        if small_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", self._disk], check=True)
        self.broker = Broker(folder)
        self._errors = folder / "stderr"
        self._lines: list[bytes] = []
        self._reads = threading.Event()
        self._reads.set()
        out, into = os.pipe()
        self._into = os.open(f"/proc/self/fd/{into}", os.O_WRONLY | os.O_NONBLOCK)  # the same pipe, our own flags
        self._out = out
        to = (f"jsonl:{self._disk}/events.jsonl", f"sqlite:{self._disk}/history.db", f"clips:{self._disk}/clips")
        program = [sys.executable, "-m", "flexiast_cli.main", "listen", "commands-ar", "--patch-sizes", "24", "--json"]
        program += ["--device", "usbmic"]
        program += [word for sink in (*to, f"mqtt://127.0.0.1:{self.broker.port}") for word in ("--to", sink)]
        own = {"TMPDIR": str(folder), "VMIC_QUIET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._errors.open("wb") as errors:
            self._rig = subprocess.Popen(
                [RIG, "-m", f"usbmic={wav}", "--", *program],
                stdout=into,
                stderr=errors,
                cwd=folder,
                env=os.environ | own | {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            )
        os.close(into)
        self._vmic = folder
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._await_first_window()

    def _await_first_window(self) -> None:
        end_s = time.monotonic() + STARTING_S
        while not self._lines:
            if time.monotonic() > end_s or self._rig.poll() is not None:
                raise TimeoutError(f"nothing is heard: {self._errors.read_text()}")
            time.sleep(0.02)
        self.process = psutil.Process(self._rig.pid).children()[0]

    def _read(self) -> None:
        rest = b""
        with suppress(OSError):  # closed by `close_stdout`
            while content := os.read(self._out, 65_536):
                *lines, rest = (rest + content).split(b"\n")
                self._lines += [line for line in lines if line]
                self._reads.wait()

    def ctl(self, word: str) -> None:
        """unplug, error, freeze, ok"""
        (rig,) = self._vmic.glob("vmic.*")
        subprocess.run([RIG, "ctl", "usbmic", word], check=True, env=os.environ | {"VMIC_DIR": str(rig)})

    def fill_disk(self) -> None:
        with (self._disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1024))

    def free_disk(self) -> None:
        (self._disk / "filler").unlink()

    def fill_stdout(self) -> None:
        """Read no more, with the pipe full, so that the next line blocks."""
        self._reads.clear()
        for _ in range(5):
            time.sleep(0.2)  # what the reader had begun to read may still make room
            for size in (4096, 1):
                with suppress(BlockingIOError):
                    while True:
                        os.write(self._into, b"\n" * size)

    def read_stdout(self) -> None:
        self._reads.set()

    def close_stdout(self) -> Heard:
        """As `| head` does; the run ends by itself."""
        os.close(self._into)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._out)  # the last reader of the pipe goes, also while our thread waits in it
        os.close(null)
        return self._ended()

    def pause(self, seconds: float) -> None:
        """Stop it and its capture process, as suspend does."""
        family = [self.process, *self.process.children()]
        for one in family:
            one.suspend()
        time.sleep(seconds)
        for one in family:
            one.resume()

    def end(self, number: signal.Signals) -> Heard:
        self.process.send_signal(number)
        return self._ended(by_signal=True)

    def _ended(self, *, by_signal: bool = False) -> Heard:
        begun_s, memory_mb = time.monotonic(), _peak_mb(self.process.pid)
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._rig.wait(ENDING_S)
        ended_s = time.monotonic() - begun_s
        if code is None:
            self.process.kill()
            self._rig.wait()
        if by_signal:
            os.close(self._into)
            self._reads.set()
            self._reader.join(ENDING_S)
        self.broker.close()
        records = [json.loads(line) for line in self._lines]
        said = self._errors.read_text().replace(f"{self._disk}/", "").replace(f":{self.broker.port}", "").splitlines()
        try:
            return Heard(records, self._sinks(), said, memory_mb, code, ended_s)
        finally:
            self.release()

    def _sinks(self) -> dict[str, list[dict[str, Any]]]:
        lines = map(json.loads, (self._disk / "events.jsonl").read_text().splitlines())
        clips = [path.name for path in (self._disk / "clips").iterdir() if NAME.fullmatch(path.name)]
        return {
            "jsonl": [line for line in lines if line["type"] == "event"],
            "sqlite": list(read_events(self._disk / "history.db")),
            "clips": [{"id": name[-21:-5]} for name in clips],
            "mqtt": self.broker.got,
        }

    def release(self) -> None:
        if self._small:
            subprocess.run(["umount", self._disk], check=True)


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:  # it has ended already
        if error.errno not in {errno.ENOENT, errno.ESRCH}:
            raise
        return float("nan")
    return int(status.split("VmHWM:")[1].split()[0]) / 1000 if "VmHWM:" in status else float("nan")
