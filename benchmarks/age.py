"""Age of a result when it reaches a sink: from sound to record, over the whole real path.

python -m benchmarks.age --data ../shared/data [--seconds 150]

A real `flexiast listen` hears spoken words from a virtual microphone (../shared/rigs) and posts each event to a webhook
here. The device plays from its first sample at a known time, so when each sample sounded is known too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import soxr

from benchmarks.ears import RIG
from benchmarks.measure import heading
from benchmarks.spoken import find_start_s, spoken
from benchmarks.streams import Stream
from flexiast.spec import FrontendSpec, parse_patches
from flexiast_cli.app import app
from flexiast_runtime.audio import microphone as mic
from flexiast_runtime.audio.device_stream import DeviceStream
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.inference.ort import load_engines

MODEL, PATCH, WORDS, DEVICE_HZ = "commands-ar", "24", 16, 48_000
ALLOWED_S = 0.150
"""Beyond one step and the engine's latency, at the 99th percentile"""
STARTED = "FLEXIAST_BENCHMARK_STARTED"
"""Names the file that the listening process writes when its device starts."""

Received = list[tuple[dict[str, Any], float]]
"""Documents, and the Unix time at which each was here."""


def main() -> None:
    if STARTED in os.environ:
        cast(Any, mic).DeviceStream = Noted
        app()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.age")
    parser.add_argument("--data", type=Path, required=True, help="folder of commands/")
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    engines = load_engines(Bundle.open(find_bundle(MODEL)), parse_patches(PATCH))
    stream, frontend = spoken(given.data, engines, WORDS), engines.spec.frontend
    heading(f"Age of results; {WORDS} words, again and again for {given.seconds:g} s; {MODEL} at {PATCH}")
    with tempfile.TemporaryDirectory() as folder:
        started_s, events, lines = listened(stream, frontend.sample_rate_hz, Path(folder), given.seconds)
    report(stream, frontend, started_s, events, lines)


class Noted(DeviceStream):
    """Writes down when its device starts: just after the capture process said so."""

    def _attach(self, rate_hz: int, channels: int, block_frames: int) -> None:
        Path(os.environ[STARTED]).write_text(str(time.time()))
        super()._attach(rate_hz, channels, block_frames)


class Webhook(HTTPServer):
    """Keeps what is posted, and when it came."""

    def __init__(self) -> None:
        self.got: Received = []
        super().__init__(("127.0.0.1", 0), _Posted)


class _Posted(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        now_s = time.time()
        self.server.got.append((json.loads(self.rfile.read(int(self.headers["Content-Length"]))), now_s))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def listened(stream: Stream, rate_hz: int, folder: Path, seconds: float) -> tuple[float, Received, Received]:
    """When the device started, the events at the webhook and the records on stdout."""
    wav, started = folder / "words.wav", folder / "started"
    samples = np.clip(soxr.resample(stream.samples, rate_hz, DEVICE_HZ), -1, 1)
    soundfile.write(wav, samples, DEVICE_HZ, subtype="PCM_16")
    with Webhook() as webhook:
        threading.Thread(target=webhook.serve_forever, daemon=True).start()
        program = [sys.executable, "-m", "benchmarks.age", "listen", MODEL, "--patch-sizes", PATCH, "--json"]
        program += ["--duration", str(seconds), "--to", f"http://127.0.0.1:{webhook.server_port}/"]
        own = {STARTED: str(started), "TMPDIR": str(folder), "VMIC_QUIET": "1"}
        own["OPENBLAS_NUM_THREADS"] = "1"  # as `flexiast_cli.main` has it, which this child does not begin with
        with subprocess.Popen(
            [RIG, "-m", f"mic={wav}", "--", *program, "--device", "mic"],
            stdout=subprocess.PIPE,
            env=os.environ | own | {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        ) as run:
            assert run.stdout is not None
            lines = [(json.loads(line), time.time()) for line in run.stdout]
        webhook.shutdown()
        if run.returncode or any(record["type"] == "source" for record, _ in lines):
            sys.exit(f"the run ended with {run.returncode}, or lost its microphone")
        return float(started.read_text()), webhook.got, lines


def report(stream: Stream, frontend: FrontendSpec, started_s: float, events: Received, lines: Received) -> None:
    rate_hz, settings = frontend.sample_rate_hz, DetectionSettings.from_frontend(frontend)
    played_s = started_s  # the words; the stream's time begins a little later
    started_s += find_start_s(frontend, DEVICE_HZ)
    summary = lines[-1][0]
    engine_s = summary["variants"][0]["latency_p50_ms"] / 1000
    events = [(event, at_s) for event, at_s in events if event["end_s"] < summary["audio_s"] - frontend.window_s]
    decided = decided_after(frontend, settings)
    newest = [at_s - started_s - (event["end_sample"] + decided) / rate_hz for event, at_s in events]
    status = [at_s - started_s - record["time_s"] for record, at_s in lines if record["type"] == "status"]
    began = [
        datetime.fromisoformat(event["started_at"]).timestamp() - started_s - event["start_s"] for event, _ in events
    ]
    print(f"step {1000 * settings.step_s:.0f} ms, engine {1000 * engine_s:.1f} ms (p50); ms:")
    print(f"{'':52}{'count':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'most':>8}")
    row("event at the webhook, from the newest sound it needs", newest)
    oldest = row("event at the webhook, from the oldest of that step", [age + settings.step_s for age in newest])
    row("event at the webhook, from the end of the word", list(since_words(stream, played_s, events, rate_hz)))
    row("status on stdout, from the newest sound in it", status)
    row("started_at, later than the sound", began)
    limit_s = settings.step_s + engine_s + ALLOWED_S
    print(f"limit of the second row at p99: {1000 * limit_s:.0f}")
    if oldest > limit_s:
        sys.exit("over the limit")


def decided_after(frontend: FrontendSpec, settings: DetectionSettings) -> int:
    """Samples from an event's end to that of the first window whose score was below: as `Detector` has it."""
    step = round(settings.step_s * frontend.sample_rate_hz)
    delay = round(Smoother(settings.smoothing_s, settings.step_s).delay_steps * step)
    return frontend.window_samples - max(0, (frontend.window_samples - step) // 2 - delay)


def since_words(stream: Stream, started_s: float, events: Received, rate_hz: int) -> Iterator[float]:
    """Seconds from the end of each word to the record of the event that overlaps it."""
    turn_s = len(stream.samples) / rate_hz
    for event, at_s in events:
        turns, middle_s = divmod((event["start_s"] + event["end_s"]) / 2, turn_s)
        word = min(stream.truth, key=lambda sound: abs((sound.start_s + sound.end_s) / 2 - middle_s))
        if word.label == event["label"]:
            yield at_s - started_s - (turns * turn_s + word.end_s)


def row(name: str, values_s: Sequence[float]) -> float:
    """Print one row; its 99th percentile."""
    ranks = np.percentile(values_s, (50, 95, 99, 100), method="inverted_cdf")
    print(f"{name:52}{len(values_s):6}" + "".join(f"{1000 * value:8.1f}" for value in ranks))
    return float(ranks[2])


if __name__ == "__main__":
    main()
