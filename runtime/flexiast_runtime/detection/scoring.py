"""Scores streams at every size in one pass, and then detects events in them as often as thresholds change.

A `StreamClassifier` runs one engine a window and forgets the scores. Whoever compares sizes or thresholds over hours of
audio keeps them: the same windows, gate, smoothing and detector, so the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.evaluation.evaluate import classify
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.detection.detector import Detection, Detector
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.gate import Gate
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.inference.engine import Engines, label_scores

Float = NDArray[np.float32]
Int = NDArray[np.int64]

BATCH = 64
"""Windows classified together."""

NO_FEATURES = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class StreamLogits:
    """One unbroken stream's windows, and their logits at each size."""

    windows: tuple[Window, ...]
    """Without their features"""
    silent: NDArray[np.bool_]
    """Of each window whether no engine would run for it"""
    logits: Mapping[PatchSize, Float]
    """[windows, classes]"""
    samples: int

    def scores(self, patch: PatchSize, spec: Spec, temperature: float) -> Float:
        """[windows, labels], not yet smoothed; 0 where the stream is silent."""
        found = label_scores(self.logits[patch] / np.float32(temperature), spec)
        found[self.silent] = 0
        return found


def score_stream(
    engines: Engines, settings: DetectionSettings, blocks: Iterable[Float], patches: Sequence[PatchSize] | None = None
) -> StreamLogits:
    """Run the engines of some or all sizes on every window of a stream of mono blocks at the model's rate."""
    frontend = Frontend(engines.spec.frontend)
    framer, gate = (
        Framer(frontend, round(settings.step_s * engines.spec.frontend.sample_rate_hz)),
        Gate(settings.gate_dbfs),
    )
    patches = engines.patches if patches is None else patches
    windows: list[Window] = []
    silent: list[bool] = []
    found: dict[PatchSize, list[Float]] = {patch: [] for patch in patches}
    waiting: list[Window] = []

    def run() -> None:
        features = np.stack([window.features for window in waiting])
        for patch in patches:
            found[patch].append(classify(engines, features, patch))
        waiting.clear()

    for window in _cut(framer, gate, blocks):
        silent.append(gate.silent(window.start, window.end))
        windows.append(Window(window.start, window.end, NO_FEATURES, window.first, NO_FEATURES))
        waiting.append(window)
        if len(waiting) == BATCH:
            run()
    if waiting:
        run()
    empty = np.empty((0, engines.spec.classes), np.float32)
    logits = {patch: np.concatenate(parts or [empty]) for patch, parts in found.items()}
    return StreamLogits(tuple(windows), np.array(silent, bool), logits, framer.end)


def _cut(framer: Framer, gate: Gate, blocks: Iterable[Float]) -> Iterator[Window]:
    for block in blocks:
        gate.update(framer.end, block)
        yield from framer.push(block)
    yield from framer.flush()


def smooth(scores: Float, silent: NDArray[np.bool_], settings: DetectionSettings) -> Float:
    """[windows, labels] as the detector gets them."""
    smoother, smoothed = Smoother(settings.smoothing_s, settings.step_s), np.empty_like(scores)
    for number, row in enumerate(scores):
        if silent[number]:
            smoother.reset()
        smoothed[number] = smoother.push(row)
    return smoothed


def make_detector(spec: Spec, settings: DetectionSettings) -> Detector:
    """The detector of a stream with these settings; raises UsageError for unknown labels."""
    rate_hz = spec.frontend.sample_rate_hz
    step = round(settings.step_s * rate_hz)
    delay = round(Smoother(settings.smoothing_s, settings.step_s).delay_steps * step)
    return Detector(settings.rules, spec.labels, rate_hz, spec.frontend.window_samples, step, delay)


def detect(
    stream: StreamLogits, smoothed: Float, patches: Sequence[PatchSize], spec: Spec, settings: DetectionSettings
) -> list[Detection]:
    """The events of smoothed scores [windows, labels]; ``patches`` has the size of each window."""
    detector = make_detector(spec, settings)
    found = [
        detection
        for window, row, patch in zip(stream.windows, smoothed, patches, strict=True)
        for detection in detector.push(window, row, patch)
    ]
    return [*found, *detector.flush(stream.samples)]


def compute_slots(stream: StreamLogits, spec: Spec, settings: DetectionSettings) -> Int:
    """Edges of the parts of the stream that the windows' scores stand for, in samples [windows + 1]."""
    detector = make_detector(spec, settings)
    return np.array(
        [*(detector.slot_start(window.start, first=window.first) for window in stream.windows), stream.samples],
        np.int64,
    )


def follow(
    stream: StreamLogits, scores: Mapping[PatchSize, Float], choose: Callable[[float], PatchSize], rate_hz: int
) -> tuple[Float, list[PatchSize]]:
    """The scores [windows, labels] of a stream that changes sizes, and the size of each window.

    ``choose`` is called between windows with the seconds of audio so far.
    """
    chosen, time_s = [], 0.0
    for window in stream.windows:
        chosen.append(choose(time_s))
        time_s = window.end / rate_hz
    rows = [scores[patch][number] for number, patch in enumerate(chosen)]
    return np.array(rows, np.float32).reshape(len(rows), -1), chosen
