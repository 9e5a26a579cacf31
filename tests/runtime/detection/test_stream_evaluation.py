"""Kept scores give the events that listening gives, at each size, while sizes change, and at any threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexiast.evaluation.event_curves import StreamScores, lay_end_to_end
from flexiast.evaluation.events import Sound
from flexiast.spec import PatchSize
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.scoring import compute_slots, detect, score_stream, smooth
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.stream_evaluation import (
    BUDGETS_PER_HOUR,
    AnnotatedStream,
    StreamEvaluation,
    score_streams,
)
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.types import Observation, Option, Policy
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

Float = NDArray[np.float32]

RATE = 16_000


class Alternating(FixedSize):
    """Another size after every third window."""

    def __init__(self, patches: tuple[PatchSize, ...]) -> None:
        super().__init__(patches[0])
        self._patches, self._seen = patches, 0

    def observe(self, observation: Observation) -> str | None:
        self._seen += 1
        self.patch = self._patches[self._seen // 3 % len(self._patches)]
        return None


@pytest.fixture(scope="module")
def engines(tiny_bundle: Path) -> Engines:
    return load_engines(Bundle.open(tiny_bundle))


@pytest.fixture(scope="module")
def waveform(make_tone: Callable[..., Float]) -> Float:
    """Tones, noise and digital silence."""
    rng = np.random.default_rng(3)
    parts = [rng.normal(0, 0.1, 9_000).astype(np.float32)]
    for hz in (300, 2_000, 700, 5_000, 1_200):
        parts += [make_tone(hz, 0.6), np.zeros(12_345, np.float32), rng.normal(0, 0.05, 7_000).astype(np.float32)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def settings(engines: Engines, waveform: Float) -> DetectionSettings:
    """Thresholds that scores cross again and again, others at one size."""
    plain = DetectionSettings.from_frontend(engines.spec.frontend)
    stream = score_stream(engines, plain, [waveform])
    patch = engines.patches[0]
    scores = stream.scores(patch, engines.spec, engines[patch].variant.temperature)[~stream.silent]
    middle = dict(zip(engines.spec.labels, np.median(scores, axis=0).tolist(), strict=True))
    higher = {label: min(1.0, 1.02 * value) for label, value in middle.items()}
    rules = EventRules(label_thresholds=middle, size_thresholds={engines.patches[1]: higher}, release=0.99)
    return DetectionSettings.from_frontend(engines.spec.frontend, rules)


def listen(engines: Engines, controller: FixedSize, settings: DetectionSettings, waveform: Float) -> list[Sound]:
    classifier = StreamClassifier(
        engines, controller, settings, source="", conditions=lambda _: Conditions(settings.step_s)
    )
    records = classifier.run(Chunk(start, waveform[start : start + 999]) for start in range(0, len(waveform), 999))
    return [Sound(one.label, one.start_s, one.end_s) for one in records if isinstance(one, Event)]


def test_kept_scores_give_the_events_of_listening(
    engines: Engines, settings: DetectionSettings, waveform: Float
) -> None:
    blocks = [waveform[start : start + 7_001] for start in range(0, len(waveform), 7_001)]
    stream = score_stream(engines, settings, blocks)
    assert stream.silent.any()
    for patch in engines.patches:
        temperature = engines[patch].variant.temperature
        smoothed = smooth(stream.scores(patch, engines.spec, temperature), stream.silent, settings)
        found = detect(stream, smoothed, [patch] * len(smoothed), engines.spec, settings)
        expected = listen(engines, FixedSize(patch), settings, waveform)
        assert expected
        labels = engines.spec.labels
        assert [Sound(labels[d.class_index], d.start / RATE, d.end / RATE) for d in found] == expected


def test_a_switching_controller_gives_the_counts_of_listening(
    engines: Engines, settings: DetectionSettings, waveform: Float
) -> None:
    expected = listen(engines, Alternating(engines.patches), settings, waveform)
    annotated = [AnnotatedStream("bed", [waveform], tuple(expected))]
    evaluation = StreamEvaluation(engines, settings, list(score_streams(engines, settings, annotated)))
    switching = evaluation.evaluate_switching(Alternating(engines.patches), Conditions(settings.step_s), "switching")
    assert (switching.precision, switching.recall, switching.onset_f1) == (1.0, 1.0, 1.0)
    assert switching.events == len(expected) > 3
    fixed = evaluation.evaluate(engines.patches[0])
    assert fixed.f1 is not None
    assert fixed.f1 < 1


def test_the_governor_keeps_the_best_size_that_its_deadline_allows(
    engines: Engines, settings: DetectionSettings, waveform: Float
) -> None:
    costly, cheap = engines.patches[0], engines.patches[-1]
    streams = list(score_streams(engines, settings, [AnnotatedStream("bed", [waveform])]))
    evaluation = StreamEvaluation(engines, settings, streams)
    for latency_s, kept in ((0.001, costly), (10.0, cheap)):
        options = (Option(cheap, 0.0005, 0.5), Option(costly, latency_s, 0.9))
        conditions = Conditions(settings.step_s)
        controller = GovernedController(options, Policy(), conditions)
        governed = evaluation.evaluate_switching(controller, conditions, "governed")
        assert governed.false_events == evaluation.evaluate(kept).false_events


def test_every_threshold_gives_the_events_of_the_detector(
    engines: Engines, settings: DetectionSettings, waveform: Float
) -> None:
    patch = engines.patches[0]
    streams = [score_stream(engines, settings, [part]) for part in (waveform, waveform[:30_000], waveform[::-1].copy())]
    smoothed = [
        smooth(one.scores(patch, engines.spec, engines[patch].variant.temperature), one.silent, settings)
        for one in streams
    ]
    seconds = [compute_slots(one, engines.spec, settings) / RATE for one in streams]
    timeline = lay_end_to_end(
        [StreamScores(edges, scores, ()) for edges, scores in zip(seconds, smoothed, strict=True)], engines.spec.labels
    )
    starts_s = np.cumsum([0.0, *(edges[-1] + 1 for edges in seconds)])
    for threshold in np.quantile(np.concatenate(smoothed), [0.3, 0.5, 0.7, 0.9]):
        for release in (0.6, 0.97, 1.0):
            rules = EventRules(float(threshold), release=release)
            own = DetectionSettings.from_frontend(engines.spec.frontend, rules)
            expected: list[list[tuple[float, float]]] = [[] for _ in engines.spec.labels]
            for stream, scores, start_s in zip(streams, smoothed, starts_s, strict=False):
                for one in detect(stream, scores, [patch] * len(scores), engines.spec, own):
                    expected[one.class_index].append((start_s + one.start / RATE, start_s + one.end / RATE))
            for label, pairs in enumerate(expected):
                found = timeline.detections(label, float(threshold), release)
                np.testing.assert_allclose(found, np.array(sorted(pairs)).reshape(-1, 2), atol=1e-9)


def test_a_budget_is_told_where_the_hours_can_show_it(
    engines: Engines, settings: DetectionSettings, waveform: Float
) -> None:
    """Each with the lowest threshold that keeps it, and the recall there."""
    bed = AnnotatedStream("bed", [waveform])
    mixed = AnnotatedStream("bed", [waveform], (Sound(engines.spec.labels[0], 1.0, 2.0),), (), 10.0)
    scored = list(score_streams(engines, settings, [bed, mixed]))
    scored = [scored[0]] * 600 + scored[1:]  # an hour and a half
    result = StreamEvaluation(engines, settings, scored).evaluate(engines.patches[0])
    hours = result.false_events[0].hours
    assert [point.false_per_hour for point in result.budgets] == [at for at in BUDGETS_PER_HOUR if at >= 1 / hours]
    for point in result.budgets:
        kept = [one for one in result.trade_off if one.false_per_hour <= point.false_per_hour]
        assert (point.threshold is None) == (not kept)
        if kept:
            assert point.threshold == min(one.threshold for one in kept)
            assert point.recall == point.recall_by_snr_db["10"] == pytest.approx(1 - kept[0].missed)
