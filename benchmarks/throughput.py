"""Throughput of `flexiast classify`: hours of audio per hour of one core, and where the time goes.

`python -m benchmarks.throughput [MODEL...]`
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measure import cpu_ms, heading
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, parse_patches
from flexiast_runtime.audio.source import FileSource, chunks
from flexiast_runtime.batch.runner import BLOCK_S
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle, list_shipped
from flexiast_runtime.detection.framer import Framer
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

PATCHES = parse_patches("8,16,32,48")
RATE_HZ = 48_000
SECONDS = 30
ROUNDS = 3


def main() -> None:
    heading(f"classify, {SECONDS} s of noise, mono 16-bit WAV at {RATE_HZ:,} Hz; CPU ms a minute of audio")
    print(f"{'':24}{'read+resample':>14}{'features':>10}{'engine':>10}{'rest':>8}{'all':>10}{'hours an hour':>15}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * RATE_HZ)
        soundfile.write(path, noise, RATE_HZ)
        for model in sys.argv[1:] or list_shipped():
            bundle = Bundle.open(find_bundle(model))
            for precision in bundle.manifest.encoders:
                for patch in (patch for patch in PATCHES if patch in bundle.manifest.patches):
                    report(f"{model} {patch} {precision}", load_engines(bundle, [patch], precision), patch, path)


def report(name: str, engines: Engines, patch: PatchSize, path: Path) -> None:
    """One line: each part by itself, and all of it as the command runs it."""
    rate_hz = engines.spec.frontend.sample_rate_hz
    settings = DetectionSettings.from_frontend(engines.spec.frontend)
    step = round(settings.step_s * rate_hz)
    heard = list(chunks(FileSource(path, BLOCK_S), rate_hz))
    features = [window.features for window in frame(engines, step, heard)]
    parts = {
        "read": lambda: drain(chunks(FileSource(path, BLOCK_S), rate_hz)),
        "features": lambda: drain(frame(engines, step, heard)),
        "engine": lambda: [engines.logits(window[None], patch) for window in features],
        "all": lambda: drain(listener(engines, patch, settings).run(chunks(FileSource(path, BLOCK_S), rate_hz))),
    }
    figures = {part: 60 / SECONDS * value for part, value in cpu_ms(parts, ROUNDS).items()}
    read, featured, engine, whole = figures.values()
    print(
        f"{name:24}{read:14.1f}{featured:10.1f}{engine:10.1f}{whole - read - featured - engine:8.1f}{whole:10.1f}"
        f"{60_000 / whole:15,.0f}"
    )


def frame(engines: Engines, step: int, heard: list) -> Iterable:  # type: ignore[type-arg]
    framer = Framer(Frontend(engines.spec.frontend), step)
    for chunk in heard:
        yield from framer.push(chunk.samples)
    yield from framer.flush()


def listener(engines: Engines, patch: PatchSize, settings: DetectionSettings) -> StreamClassifier:
    return StreamClassifier(
        engines, FixedSize(patch), settings, source="noise", conditions=lambda _: Conditions(settings.step_s)
    )


def drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


if __name__ == "__main__":
    main()
