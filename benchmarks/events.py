"""Events in streams over real backgrounds at each patch size: as exported, and with what calibration makes of it.

python -m benchmarks.events --data ../shared/data --background HOURS [--model sounds] [--clips 200] [--seed 0]

`flexiast evaluate --mix --background` for several ways to choose thresholds, which run no engine twice. Clips of the
validation side only: half of them (other recordings, other speakers) calibrates, the other half sounds in the streams.
The last row switches to another size at random every 3 s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import heading
from benchmarks.streams import TASKS, halves
from flexiast.data.background import background_clips, stretches_of
from flexiast.data.clips import Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows
from flexiast.evaluation.mixing import QUIET, choose_clips, mix_streams
from flexiast.evaluation.operating_points import MIN_POSITIVES, Aim, operating_points
from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize
from flexiast_cli.commands.evaluate.stream_table import show_streams
from flexiast_cli.commands.evaluate.streams import split_recordings
from flexiast_export.calibrate import fit_temperatures, peak_scores
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.stream_evaluation import AnnotatedStream, StreamEvaluation, score_streams
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.governor.types import Observation
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]

SNRS_DB = (QUIET, 20.0, 10.0)
SWITCH_EVERY_S = 3.0
CALIBRATING = 400
"""Clips at most"""


@dataclass(frozen=True)
class Setup:
    """A way to make events of logits."""

    name: str
    manifest: Manifest
    rules: EventRules


@dataclass(frozen=True)
class Scored:
    """In the place of an engine whose logits are known."""

    variant: Variant

    def run(self, features: Float) -> Float:
        raise NotImplementedError


class Switching(FixedSize):
    """Another patch size every few seconds, at random."""

    def __init__(self, patches: Sequence[PatchSize], seed: int) -> None:
        self._patches, self._rng, self._next_s = patches, np.random.default_rng(seed), SWITCH_EVERY_S
        super().__init__(patches[0])

    def observe(self, seen: Observation) -> str | None:
        if seen.time_s < self._next_s:
            return None
        self._next_s += SWITCH_EVERY_S
        self.patch = self._patches[int(self._rng.integers(len(self._patches)))]
        return "at random"


def setups(bundle: Bundle, calibrating: Dataset) -> Iterator[Setup]:
    """As exported; with temperatures of clips; with thresholds of clips too, where there are enough of them."""
    manifest, frontend = bundle.manifest, bundle.manifest.spec.frontend
    exported = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    yield Setup("As exported", manifest, exported)
    clips, targets = clips_of(calibrating, manifest)
    by_class = np.pad(targets, ((0, 0), (0, manifest.spec.classes - len(manifest.spec.labels))))
    fits = fit_temperatures(bundle, Windows(clips, Frontend(frontend)), by_class)
    scaled = manifest.model_copy(update={"variants": tuple(fit.variant for fit in fits)})
    temperatures = ", ".join(f"{fit.variant.temperature:.2f}" for fit in fits)
    yield Setup(f"Temperatures of {len(clips)} clips ({temperatures})", scaled, EventRules())
    if targets.sum(axis=0).max() < MIN_POSITIVES:
        return
    peaks, durations_s = (
        peak_scores(bundle, [fit.variant for fit in fits], clips),
        [len(clip) / frontend.sample_rate_hz for clip in clips],
    )
    points = operating_points(peaks, targets, durations_s, manifest.spec.labels, aim := Aim(precision=0.9))
    thresholds = {point.label: point.threshold for point in points if point.threshold is not None}
    median = float(np.median(list(thresholds.values())))
    name = f"And thresholds of {len(thresholds)} labels (median {median:.2f}) for {aim}"
    yield Setup(name, scaled, EventRules(label_thresholds=thresholds))


def clips_of(dataset: Dataset, manifest: Manifest) -> tuple[list[Float], Float]:
    """Waveforms and targets of at most ``CALIBRATING`` clips, evenly spread."""
    every = max(1, len(dataset.clips) // CALIBRATING)
    fewer = replace(dataset, clips=tuple(sorted(dataset.clips, key=lambda clip: clip.path)[::every]))
    clips, waveforms, _ = load_waveforms(fewer, manifest.spec.frontend.sample_rate_hz)
    return list(waveforms), clips.targets(manifest.spec.labels)


def make_streams(
    bundle: Bundle, sounding: Dataset, background: Path, clips: int, seed: int
) -> Iterator[AnnotatedStream]:
    """The background alone, then clips in it and in a quiet room."""
    frontend = bundle.manifest.spec.frontend
    kinds = {}
    for folder in sorted(path for path in background.iterdir() if path.is_dir()):
        kinds[folder.name], _ = stretches_of(background_clips([folder]), frontend.sample_rate_hz)
        yield from split_recordings(folder.name, kinds[folder.name])
    chosen = choose_clips([clip.labels[0] for clip in sounding.clips], clips, seed)
    readable, waveforms, _ = load_waveforms(
        sounding.with_clips(sounding.clips[place] for place in chosen), frontend.sample_rate_hz
    )
    sounds = [(clip.labels[0], waveform) for clip, waveform in zip(readable.clips, waveforms, strict=True)]
    for snr_db in SNRS_DB:
        mixes = mix_streams(sounds, kinds, snr_db, rate_hz=frontend.sample_rate_hz, gap_s=frontend.window_s, seed=seed)
        yield from map(AnnotatedStream.from_mix, mixes)


def experiment(name: str, data: Path, background: Path, clips: int, seed: int) -> None:
    task = TASKS[name]
    bundle = Bundle.open(find_bundle(name))
    first = bundle.manifest.precision()
    variants = tuple(variant for variant in bundle.manifest.variants if variant.precision == first)
    encoders = {first: bundle.manifest.encoders[first]}
    bundle = Bundle(bundle.folder, bundle.manifest.model_copy(update={"variants": variants, "encoders": encoders}))
    labelled = read_dataset(data / task.metadata, task.val_fold).split("val").labelled
    calibrating, sounding = halves(labelled, task.source)
    engines, frontend = load_engines(bundle), bundle.manifest.spec.frontend
    settings = DetectionSettings.from_frontend(frontend)
    scored = list(score_streams(engines, settings, make_streams(bundle, sounding, background, clips, seed)))
    heading(f"{name}: {len(scored)} streams")
    for setup in setups(bundle, calibrating):
        known = Engines(setup.manifest, {patch: Scored(setup.manifest.variant(patch)) for patch in engines.patches})
        evaluation = StreamEvaluation(known, replace(settings, rules=setup.rules), scored)
        results = [evaluation.evaluate(patch) for patch in engines.patches]
        switching = Switching(engines.patches, seed)
        results.append(evaluation.evaluate_switching(switching, Conditions(settings.step_s), "switching"))
        show_streams(results, setup.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events")
    parser.add_argument("--data", type=Path, required=True, help="folder of esc50/, commands/ and english/")
    parser.add_argument("--background", type=Path, required=True, help="folder of folders of recordings, by kind")
    parser.add_argument("--model", choices=sorted(TASKS), action="append", help="default: all")
    parser.add_argument("--clips", type=int, default=200, help="that sound at each SNR")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started_s = time.process_time()
    for name in given.model or sorted(TASKS):
        experiment(name, given.data, given.background, given.clips, given.seed)
    print(f"\n{time.process_time() - started_s:.0f} s of CPU")


if __name__ == "__main__":
    main()
