"""A cascade of sizes against a fixed size of 16: CPU time and event F1.

python -m benchmarks.cascade --data ../shared/data [--model commands] [--minutes 10] [--seed 1]

Streams of benchmarks.streams, but with events in a twentieth of the time. The real listener hears each stream with
one size, and with a cascade of the cheapest size and that one; CPU time is the listener's own, front end and all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import heading
from benchmarks.streams import TASKS, Stream, halves, make_streams, run
from flexiast.data.dataset import read_dataset
from flexiast.evaluation.events import ONSET_S, Counts, Sound, count_by_onset, count_by_overlap
from flexiast.spec import PatchSize
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.cascade import Cascade
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Summary
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.types import Option, Policy
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

SHARP = PatchSize(16, 16)
SHARE = 0.05
"""Of a stream's time in which something sounds"""
SNRS_DB = (40, 20, 10)
BLOCK = 512
"""Samples that arrive at once, as from a microphone"""


class Heard(NamedTuple):
    """One stream by one listener."""

    counts: Counts
    cpu_s: float
    windows: int
    runs: dict[PatchSize, int]


def hear(engines: Engines, cheap: PatchSize | None, sharp: PatchSize, stream: Stream, onset_s: float | None) -> Heard:
    """With the sharp size at every window, or where something changes and after a cheap one."""
    spec = engines.spec
    settings = DetectionSettings.from_frontend(spec.frontend)
    conditions = Conditions(10.0)  # nobody waits here
    thresholds = settings.rules.thresholds(spec.labels)
    listener = StreamClassifier(
        engines,
        FixedSize(sharp) if cheap in {None, sharp} else governed(cheap, sharp, conditions),
        settings,
        source="stream",
        conditions=lambda _: conditions,
        cascade=None if cheap is None else Cascade(cheap, thresholds, spec, settings.step_s),
    )
    chunks = (Chunk(at, stream.samples[at : at + BLOCK]) for at in range(0, len(stream.samples), BLOCK))
    found, summary = [], None
    for record in listener.run(chunks):
        if isinstance(record, Event):
            found.append(Sound(record.label, record.start_s, record.end_s))
        if isinstance(record, Summary):
            summary = record
    assert summary is not None
    runs = {use.patch: use.windows for use in summary.variants}
    truth = stream.truth
    counts = count_by_overlap(found, truth) if onset_s is None else count_by_onset(found, truth, onset_s)
    return Heard(counts, summary.cpu_s, summary.windows, runs)


def governed(cheap: PatchSize, sharp: PatchSize, conditions: Conditions) -> GovernedController:
    return GovernedController((Option(cheap, 0.001, 0.1), Option(sharp, 0.002, 0.2)), Policy(), conditions)


def row(name: str, heard: Sequence[Heard], base: Sequence[Heard], hours: float) -> None:
    total, cpu_s = sum((one.counts for one in heard), Counts()), sum(one.cpu_s for one in heard)
    windows = sum(one.windows for one in heard)
    runs = {patch: sum(one.runs.get(patch, 0) for one in heard) for patch in {p for one in heard for p in one.runs}}
    shares = ", ".join(f"{patch.short}: {runs[patch] / windows:.1%}" for patch in sorted(runs))
    each = " / ".join(f"{one.counts.f1:.2f}" for one in heard)
    print(
        f"| {name} | {total.precision:.2f} | {total.recall:.2f} | **{total.f1:.3f}** | {each} | {shares} | "
        f"{cpu_s / hours:.1f} | {cpu_s / sum(one.cpu_s for one in base):.2f} |"
    )


def experiment(name: str, data: Path, minutes: float, seed: int) -> None:
    task, engines = TASKS[name], load_engines(Bundle.open(find_bundle(name)), precision="fp32")
    rate_hz = engines.spec.frontend.sample_rate_hz
    sides = halves(read_dataset(data / task.metadata, task.val_fold).labelled.split("val"), task.source)
    streams = make_streams(sides[seed % 2], rate_hz, round(60 * minutes * rate_hz), seed, SNRS_DB, SHARE)
    hours = sum(len(stream.samples) for stream in streams) / rate_hz / 3600
    onset_s = ONSET_S if engines.spec.frontend.window_s < 2 else None  # a long window knows no onset
    events = sum(len(stream.truth) for stream in streams)
    heading(f"{name}: {events} events in {60 * hours:.0f} minutes, SNR {', '.join(map(str, SNRS_DB))} dB")
    print("\n| | precision | recall | F1 | by SNR | windows run | CPU s per hour | of 16 |")
    print("|---" * 8 + "|")
    base = [hear(engines, None, SHARP, stream, onset_s) for stream in streams]
    row("16", base, base, hours)
    cheap = max(engines.patches)
    row(cheap.short, [hear(engines, None, cheap, stream, onset_s) for stream in streams], base, hours)
    for first, title in ((SHARP, "16 where something changes"), (cheap, f"{cheap.short}, then 16")):
        row(title, [hear(engines, first, SHARP, stream, onset_s) for stream in streams], base, hours)


if __name__ == "__main__":
    seeds = "even: the half of the clips that the rules were tuned on"
    run(experiment, "python -m benchmarks.cascade", 10.0, 1, seeds)
