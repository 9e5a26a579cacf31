"""An hour's recording with thousands of events, and a slow sink of each kind: nothing may be lost.

python -m benchmarks.slow_sinks [--minutes 60] [--delay-ms 100]

`flexiast listen` in a process of its own reads a synthesised recording. Each delivery of each sink takes some
milliseconds longer than it needs, so the recording is far ahead of all of them. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import getpass
import http.server
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measure import heading
from flexiast_runtime.sinks.outbox import CAPACITY

RATE_HZ = 16_000
SOUND_S, SLOT_S = 0.7, 4.5
"""A tone, then silence; each tone makes some events of one model or another."""
LISTEN = ("listen", "commands-ar", "--pin", "48", "--threshold", "0.05", "--json")

SLOWED = """
import sys, time
from flexiast_cli.main import run
from flexiast_runtime.sinks import clips, command, jsonl, mqtt, sqlite, webhook
from flexiast_runtime.sinks.outbox import Outbox

def slow(deliver):
    def later(self, record):
        time.sleep({delay_s})
        deliver(self, record)
    return later

for sink in (clips.Clips, command.Command, jsonl.JsonlFile, mqtt.Mqtt, sqlite.SqliteHistory, webhook.Webhook):
    sink.deliver = slow(sink.deliver)
Outbox.__init__.__kwdefaults__["capacity"] = {capacity}
run()
"""
"""`flexiast` whose sinks sleep before each delivery"""


def synthesise(path: Path, minutes: float) -> None:
    """Tones of seven pitches with silence between them."""
    random, t = np.random.default_rng(0), np.arange(round(SOUND_S * RATE_HZ)) / RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for number in range(round(60 * minutes / SLOT_S)):
            tone = 0.3 * np.sin(2 * np.pi * 300 * (1 + number % 7) * t) * np.hanning(len(t))
            file.write(tone + 0.02 * random.standard_normal(len(t)))
            file.write(np.zeros(round((SLOT_S - SOUND_S) * RATE_HZ)))


@contextmanager
def serve_webhook() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the ids that it gets."""
    ids: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            ids.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", ids
        server.shutdown()


@contextmanager
def run_broker(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a Mosquitto, and the ids of the events that a subscriber gets."""
    from paho.mqtt import client, enums

    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\nmax_queued_messages 0\n"
    )
    ids: list[str] = []

    def subscribe(subscriber: client.Client, *_: object) -> None:
        subscriber.subscribe("#", qos=1)

    broker = subprocess.Popen([str(program), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        subscriber = client.Client(enums.CallbackAPIVersion.VERSION2)
        subscriber.on_connect = subscribe
        subscriber.on_message = lambda _, __, message: ids.extend(_event_ids(bytes(message.payload)))
        subscriber.connect_async("127.0.0.1", port)
        subscriber.loop_start()
        while not subscriber.is_connected():
            time.sleep(0.1)
        yield f"mqtt://127.0.0.1:{port}", ids
        time.sleep(2.0)  # the last messages are on their way
        subscriber.disconnect()
        subscriber.loop_stop()
    finally:
        broker.terminate()
        broker.wait()


def _event_ids(payload: bytes) -> Iterator[str]:
    """The id in a message, if it is an event: others are states."""
    try:
        document = json.loads(payload)
    except ValueError:
        return
    if isinstance(document, dict) and "id" in document:
        yield document["id"]


def run(minutes: float, delay_s: float, folder: Path, capacity: int = CAPACITY) -> bool:
    """Listen and compare what each sink got with what was printed; True if nothing is missing.

    At most ``capacity`` records wait for one sink.
    """
    synthesise(folder / "hour.wav", minutes)
    with serve_webhook() as (hook, posted), run_broker(folder) as (broker, published):
        sinks = ("jsonl:events.jsonl", "sqlite:events.db", "clips:clips", "exec:tee -a commands.jsonl", hook, broker)
        options = [word for sink in sinks for word in ("--to", sink)]
        command = [
            sys.executable,
            "-c",
            SLOWED.format(delay_s=delay_s, capacity=capacity),
            *LISTEN,
            "--input",
            "hour.wav",
            *options,
        ]
        started_s = time.monotonic()
        finished = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
        took_s = time.monotonic() - started_s
    printed = [one["id"] for one in map(json.loads, finished.stdout.splitlines()) if one["type"] == "event"]
    found = {
        "jsonl": [one["id"] for one in _read_lines(folder / "events.jsonl") if one["type"] == "event"],
        "sqlite": _stored_ids(folder / "events.db"),
        "clips": [path.stem[-16:] for path in (folder / "clips").iterdir()],
        "exec": [one["id"] for one in _read_lines(folder / "commands.jsonl")],
        "webhook": posted,
        "mqtt": published,
    }
    print(f"{minutes:g} min of audio in {took_s:.0f} s, {len(printed):,} events, exit code {finished.returncode}")
    print("| sink | got | missing | twice |\n|---|---|---|---|")
    for name, ids in found.items():
        print(f"| {name} | {len(ids):,} | {len(set(printed) - set(ids)):,} | {len(ids) - len(set(ids)):,} |")
    print(finished.stderr)
    return finished.returncode == 0 and all(set(ids) == set(printed) for ids in found.values())


def _read_lines(path: Path) -> Iterator[dict[str, str]]:
    return map(json.loads, path.read_text().splitlines())


def _stored_ids(path: Path) -> list[str]:
    from flexiast_runtime.history.events import read_events

    return [one["id"] for one in read_events(path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--delay-ms", type=float, default=100.0)
    options = parser.parse_args()
    heading("Slow sinks of a recording")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if run(options.minutes, options.delay_ms / 1000, Path(folder)) else 1)


if __name__ == "__main__":
    main()
