"""Event detection on streams with known events: precision, recall and F1 at each patch size, calibrated and not.

python -m benchmarks.events --data ../shared/data [--model sounds] [--minutes 4] [--seed 0]

Clips of the validation side only. Half of them (other recordings, other speakers) calibrates, the other half sounds in
the streams, each clip cut to what can be heard of it, over pink noise. No audio is written.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import heading
from flexiast.data.clips import Clip, Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows
from flexiast.evaluation.operating_points import MIN_POSITIVES, Aim, operating_points
from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize
from flexiast_export.calibrate import fit_temperatures, peak_scores
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.governor.types import Observation
from flexiast_runtime.inference.engine import Engine, Engines
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]

ONSET_S = 0.5
"""How far the beginning of an event may be off; it must also overlap."""
SNRS_DB = (40, 20, 10)
SHARE = 0.2
"""Of a stream's time in which something sounds"""
NOISE_RMS = 0.001
"""That of a quiet room, 60 dB below full scale"""
AUDIBLE_DB = 40
"""What is further below a clip's loudest moment does not belong to its event."""
SWITCH_EVERY_S = 3.0
CALIBRATING = 400
"""Clips at most"""


class Task(NamedTuple):
    """Which clips a model was validated on, and what halves of them share nothing."""

    metadata: str
    val_fold: str | None
    source: Callable[[Clip], str]


TASKS = {
    "sounds": Task("esc50/metadata.csv", "4", lambda clip: clip.path.name.split("-")[1]),  # fold-recording-take-class
    "commands-ar": Task("commands/metadata.csv", None, lambda clip: clip.path.name.split("_")[0]),  # speaker
}


class Sound(NamedTuple):
    """What sounds, or was found to, in samples."""

    label: str
    start: int
    end: int


class Stream(NamedTuple):
    samples: Float
    truth: tuple[Sound, ...]


# ----- scoring


@dataclass(frozen=True)
class Counts:
    """Events found that are there, found in all, there in all."""

    hits: int = 0
    found: int = 0
    there: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.found + other.found, self.there + other.there)

    @property
    def precision(self) -> float:
        return self.hits / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.hits / self.there

    @property
    def f1(self) -> float:
        return 2 * self.hits / (self.found + self.there)


def count(found: Sequence[Sound], truth: Sequence[Sound], onset: float) -> Counts:
    """Event-based counts: each true event is hit once at most, by an event of its label that overlaps it and begins
    within ``onset`` samples of it; as many are paired as can be.
    """
    return Counts(sum(1 for _ in pairs(found, truth, onset)), len(found), len(truth))


def pairs(found: Sequence[Sound], truth: Sequence[Sound], onset: float) -> Iterator[tuple[int, int]]:
    """The largest matching of found and true events, by augmenting paths (Kuhn)."""
    fits = [[index for index, there in enumerate(truth) if fit(one, there, onset)] for one in found]
    partner: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for there in fits[one]:
            if there not in tried:
                tried.add(there)
                if there not in partner or place(partner[there], tried):
                    partner[there] = one
                    return True
        return False

    for one in range(len(found)):
        place(one, set())
    yield from ((one, there) for there, one in partner.items())


def fit(found: Sound, there: Sound, onset: float) -> bool:
    overlap = min(found.end, there.end) > max(found.start, there.start)
    return found.label == there.label and overlap and abs(found.start - there.start) <= onset


# ----- streams


def halves(dataset: Dataset, source: Callable[[Clip], str]) -> tuple[Dataset, Dataset]:
    """The clips by turns of their source within a label: no source is in both."""
    turn: defaultdict[str, dict[str, int]] = defaultdict(dict)
    sides: tuple[list[Clip], list[Clip]] = ([], [])
    for clip in sorted(dataset.clips, key=lambda clip: clip.path):
        seen = turn[clip.labels[0]]
        sides[seen.setdefault(source(clip), len(seen)) % 2].append(clip)
    first, second = (replace(dataset, clips=tuple(side)) for side in sides)
    return first, second


def audible(waveform: Float, rate_hz: int) -> Float:
    """From the first to the last 10 ms that are within ``AUDIBLE_DB`` of the loudest."""
    size = rate_hz // 100
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    power = (frames.astype(np.float64) ** 2).mean(axis=1)
    heard = np.flatnonzero(power > power.max() * 10 ** (-AUDIBLE_DB / 10))
    return waveform[heard[0] * size : (heard[-1] + 1) * size]


def pink(samples: int, rng: np.random.Generator) -> Float:
    """Noise of equal power in each octave, at ``NOISE_RMS``."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, samples)
    return (noise * NOISE_RMS / np.sqrt((noise**2).mean())).astype(np.float32)


def mix(
    sounds: Iterable[tuple[str, Float]], samples: int, snr_db: float, rng: np.random.Generator, share: float = SHARE
) -> Stream:
    """Sounds one after another at an SNR, with gaps such that they take a share of the time."""
    mixed, truth, place = pink(samples, rng), [], 0
    for label, sound in sounds:
        start = place + round(rng.exponential(len(sound) * (1 - share) / share))
        place = start + len(sound)
        if place > samples:
            break
        mixed[start:place] += louder(sound, snr_db)
        truth.append(Sound(label, start, place))
    return Stream(np.clip(mixed, -1, 1), tuple(truth))


# ----- listening


class Remembered:
    """An engine that runs once for each window, however often a stream is heard."""

    def __init__(self, engine: Engine, variant: Variant, known: dict[bytes, Float]) -> None:
        self.variant, self._engine, self._known = variant, engine, known

    def run(self, features: Float) -> Float:
        key = features[0, ::25].tobytes()  # noise: no two windows share these frames
        if key not in self._known:
            self._known[key] = self._engine.run(features)
        return self._known[key]


class Switching(FixedSize):
    """Another patch size every few seconds, at random."""

    def __init__(self, patches: Sequence[PatchSize], seed: int) -> None:
        self._patches, self._rng, self._next_s = patches, np.random.default_rng(seed), SWITCH_EVERY_S
        super().__init__(patches[0])

    def observe(self, seen: Observation) -> str | None:
        if seen.time_s < self._next_s:
            return None
        self._next_s += SWITCH_EVERY_S
        self.patch = self._patches[self._rng.integers(len(self._patches))]
        return "at random"


def listen(engines: Engines, chooser: FixedSize, rules: EventRules, stream: Stream) -> list[Sound]:
    settings = DetectionSettings.from_frontend(engines.spec.frontend, rules)
    listener = StreamClassifier(
        engines,
        chooser,
        settings,
        source="stream",
        conditions=lambda _: Conditions(settings.step_s),
    )
    records = listener.run(
        Chunk(start, stream.samples[start : start + 16_000]) for start in range(0, len(stream.samples), 16_000)
    )
    return [Sound(e.label, e.start_sample, e.end_sample) for e in records if isinstance(e, Event)]


# ----- the experiment


@dataclass(frozen=True)
class Setup:
    """A way to make events of logits."""

    name: str
    manifest: Manifest
    rules: EventRules


def setups(bundle: Bundle, calibrating: Dataset, seed: int) -> Iterator[Setup]:
    """As exported; calibrated on clips as they are, and on the same clips in the noise of the streams."""
    yield Setup("As exported", bundle.manifest, EventRules())
    clean, targets = clips_of(calibrating, bundle.manifest)
    rng = np.random.default_rng(seed)
    noisy = [in_noise(clip, float(rng.choice(SNRS_DB)), rng) for clip in clean]
    for kind, waveforms in (("clean clips", clean), ("clips in noise", noisy)):
        yield from calibrated(bundle, kind, waveforms, targets)


def calibrated(bundle: Bundle, kind: str, waveforms: Sequence[Float], targets: Float) -> Iterator[Setup]:
    """With temperatures; where there are clips enough, also with thresholds."""
    manifest, frontend = bundle.manifest, bundle.manifest.spec.frontend
    fits = fit_temperatures(bundle, Windows(waveforms, Frontend(frontend)), targets)
    scaled = manifest.model_copy(update={"variants": tuple(fit.variant for fit in fits)})
    temperatures = ", ".join(f"{fit.variant.temperature:.2f}" for fit in fits)
    yield Setup(f"Temperatures of {len(waveforms)} {kind} ({temperatures})", scaled, EventRules())
    if targets.sum(axis=0).max() < MIN_POSITIVES:
        return
    peaks, durations_s = peak_scores(bundle, fits, waveforms), [len(w) / frontend.sample_rate_hz for w in waveforms]
    for aim in (Aim(precision=0.9), Aim(false_alarms_per_hour=1.0)):
        points = operating_points(peaks, targets, durations_s, manifest.spec.labels, aim)
        thresholds = {point.label: point.threshold for point in points if point.threshold is not None}
        median = float(np.median(list(thresholds.values())))
        name = f"And thresholds of {len(thresholds)} labels (median {median:.2f}) for {aim}"
        yield Setup(name, scaled, EventRules(label_thresholds=thresholds))


def clips_of(calibrating: Dataset, manifest: Manifest) -> tuple[list[Float], Float]:
    """Waveforms and targets of at most ``CALIBRATING`` clips, evenly spread."""
    every = max(1, len(calibrating.clips) // CALIBRATING)
    fewer = replace(calibrating, clips=tuple(sorted(calibrating.clips, key=lambda clip: clip.path)[::every]))
    clips, waveforms, _ = load_waveforms(fewer, manifest.spec.frontend.sample_rate_hz)
    return list(waveforms), clips.targets(manifest.spec.labels)


def in_noise(waveform: Float, snr_db: float, rng: np.random.Generator) -> Float:
    """A clip as it stands in a stream."""
    return np.clip(pink(len(waveform), rng) + louder(waveform, snr_db), -1, 1)


def louder(sound: Float, snr_db: float) -> Float:
    """At so many dB above the noise."""
    rms = np.sqrt((sound.astype(np.float64) ** 2).mean())
    return sound * np.float32(NOISE_RMS * 10 ** (snr_db / 20) / rms)


def experiment(name: str, data: Path, minutes: float, seed: int) -> None:
    task = TASKS[name]
    bundle = Bundle.open(find_bundle(name))
    first = bundle.manifest.precision()
    variants = tuple(variant for variant in bundle.manifest.variants if variant.precision == first)
    encoders = {first: bundle.manifest.encoders[first]}
    bundle = Bundle(bundle.folder, bundle.manifest.model_copy(update={"variants": variants, "encoders": encoders}))
    rate_hz = bundle.manifest.spec.frontend.sample_rate_hz
    calibrating, sounding = halves(read_dataset(data / task.metadata, task.val_fold).split("val"), task.source)
    streams = make_streams(sounding, rate_hz, round(60 * minutes * rate_hz), seed)
    engines = load_engines(bundle)
    remembered: dict[PatchSize, dict[bytes, Float]] = {patch: {} for patch in engines.patches}
    events, seconds = sum(len(stream.truth) for stream in streams), sum(len(s.samples) for s in streams) / rate_hz
    share = sum(sound.end - sound.start for stream in streams for sound in stream.truth) / rate_hz / seconds
    heading(
        f"{name}: {events} events in {seconds / 60:.0f} minutes, {share:.0%} of the time, SNR "
        + ", ".join(map(str, SNRS_DB))
        + " dB"
    )
    for setup in setups(bundle, calibrating, seed):
        table(setup, engines, remembered, streams, rate_hz, seed)


def make_streams(
    sounding: Dataset,
    rate_hz: int,
    samples: int,
    seed: int,
    snrs_db: Sequence[float] = SNRS_DB,
    share: float = SHARE,
) -> list[Stream]:
    """One for each SNR; each clip sounds once before any sounds again."""
    rng = np.random.default_rng(seed)
    clips, waveforms, _ = load_waveforms(sounding, rate_hz)

    def sounds() -> Iterator[tuple[str, Float]]:
        while True:
            for index in rng.permutation(len(waveforms)):
                yield clips.clips[index].labels[0], audible(waveforms[index], rate_hz)

    endless = sounds()
    return [mix(endless, samples, snr_db, rng, share) for snr_db in snrs_db]


def table(
    setup: Setup,
    engines: Engines,
    remembered: dict[PatchSize, dict[bytes, Float]],
    streams: Sequence[Stream],
    rate_hz: int,
    seed: int,
) -> None:
    """A row for each patch size, the last one switching among them."""
    scaled = Engines(
        setup.manifest,
        {
            patch: Remembered(engines[patch], setup.manifest.variant(patch), remembered[patch])
            for patch in engines.patches
        },
    )
    hours = sum(len(stream.samples) for stream in streams) / rate_hz / 3600
    columns = " | ".join(f"{snr_db} dB" for snr_db in SNRS_DB)
    print(f"\n{setup.name}:\n\n| patch | precision | recall | F1 | {columns} | F1, overlap alone | false/h |")
    print("|---" * (len(SNRS_DB) + 6) + "|")
    for patch in (*engines.patches, None):
        strict, loose = [], Counts()
        for number, stream in enumerate(streams):
            chooser = Switching(engines.patches, seed + number) if patch is None else FixedSize(patch)
            found = listen(scaled, chooser, setup.rules, stream)
            strict.append(count(found, stream.truth, ONSET_S * rate_hz))
            loose += count(found, stream.truth, np.inf)
        total = sum(strict, Counts())
        each = " | ".join(f"{counts.f1:.2f}" for counts in strict)
        print(
            f"| {'switching' if patch is None else patch.short} | {total.precision:.2f} | {total.recall:.2f} | "
            f"**{total.f1:.2f}** | {each} | {loose.f1:.2f} | {(loose.found - loose.hits) / hours:.0f} |"
        )


def run(
    experiment: Callable[[str, Path, float, int], None],
    prog: str,
    minutes: float,
    seed: int,
    seed_help: str | None = None,
) -> None:
    """An experiment on the streams of each model that the command line names."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--data", type=Path, required=True, help="folder of esc50/ and commands/")
    parser.add_argument("--model", choices=sorted(TASKS), action="append", help="default: all")
    parser.add_argument("--minutes", type=float, default=minutes, help="of each stream, one for each SNR")
    parser.add_argument("--seed", type=int, default=seed, help=seed_help)
    given = parser.parse_args()
    begun_s = time.process_time()
    for name in given.model or sorted(TASKS):
        experiment(name, given.data, given.minutes, given.seed)
    print(f"\n{time.process_time() - begun_s:.0f} s of CPU")


if __name__ == "__main__":
    run(experiment, "python -m benchmarks.events", 4.0, 0)
