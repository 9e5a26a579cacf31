"""A sound and all that belongs to it, step by step to the events, by which anyone can test a runtime of his own."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from flexiast.arrays import Float
from flexiast.errors import VerificationError
from flexiast.frontend import Frontend
from flexiast.manifest import Variant
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.detector import Detection, Detector
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.gate import Gate
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.governor.live import Conditions, FixedSize
from flexiast_runtime.inference.engine import Engines, label_scores
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import FRONTEND_TOLERANCE_NAT, verify_bundle

SCHEMA_VERSION = "1.0"
DOCUMENT = "conformance.json"
SOUND = "sound.wav"
SCORE_TOLERANCE = 1e-4
"""Largest difference of a score in float32, whose sums have another order elsewhere; found are 1e-6"""
COARSE_SCORE_TOLERANCE = 0.02
"""Of coarser precisions, which round what differs in its last digit to another level"""
MARGIN = 1e-3
"""No smoothed score lies nearer to a threshold, so that a runtime within the tolerance has the same events."""
PEAK_LEVEL = 0.5


@dataclass(frozen=True)
class Answers:
    """What one patch size makes of the sound; rows are windows."""

    logits: Float
    scores: Float
    smoothed: Float


def build_conformance(bundle: Bundle, patches: Sequence[PatchSize], precision: str | None = None) -> dict[str, bytes]:
    """The files of a conformance folder, by name.

    Raises UsageError for a size or precision that the bundle lacks, and VerificationError where the bundle is not what
    was exported or the runtime does not give the events that are about to be written.
    """
    verify_bundle(bundle)
    spec, engines = bundle.manifest.spec, load_engines(bundle, patches, precision)
    samples, settings = synthesize(spec.frontend), DetectionSettings.from_frontend(spec.frontend)
    windows, silent = _cut(samples, spec.frontend, settings)
    files = {SOUND: _pack_wav(samples, spec.frontend.sample_rate_hz)}
    files["features.npy"] = _pack_npy(Frontend(spec.frontend)(samples))
    answers = {patch: _answer(engines, patch, windows, silent, settings) for patch in patches}
    for patch, answer in answers.items():
        for name, values in asdict(answer).items():
            files[f"{name}-{patch}.npy"] = _pack_npy(values)
    thresholds = dict(bundle.manifest.thresholds)
    rules = {
        "default": EventRules(label_thresholds=thresholds, size_thresholds=bundle.manifest.size_thresholds),
        "strict": _choose_strict_rules(spec, settings, windows, len(samples), answers),
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "source_sha256": bundle.manifest.source_sha256,
        "precision": bundle.manifest.precision(precision),
        "labels": spec.labels,
        "sample_rate_hz": spec.frontend.sample_rate_hz,
        "step_samples": round(settings.step_s * spec.frontend.sample_rate_hz),
        "smoothing_s": settings.smoothing_s,
        "gate_dbfs": settings.gate_dbfs,
        "windows": [
            {"start": window.start, "end": window.end, "first": window.first, "silent": quiet}
            for window, quiet in zip(windows, silent, strict=True)
        ],
        "tolerances": {
            "features": FRONTEND_TOLERANCE_NAT / (2 * spec.frontend.std),
            "logits": {str(patch): _tolerance(engines[patch].variant) for patch in patches},
            "scores": SCORE_TOLERANCE if bundle.manifest.precision(precision) == "fp32" else COARSE_SCORE_TOLERANCE,
        },
        "rules": [
            _describe_rules(name, each)
            | {
                "events": {
                    str(patch): _find_events(
                        engines, patch, samples, windows, answers[patch], replace(settings, rules=each)
                    )
                    for patch in patches
                }
            }
            for name, each in rules.items()
        ],
    }
    return files | {DOCUMENT: json.dumps(document, indent=1, ensure_ascii=False).encode()}


def synthesize(spec: FrontendSpec) -> Float:
    """Bursts of noise, rising and steady tones, clicks, and a silence longer than a window, to the last of 16 bits.

    The same on every machine; about three windows and a half, at least six seconds, and some frames more than whole
    steps, so that the last window must be padded.
    """
    rate, window = spec.sample_rate_hz, spec.window_samples
    count = max(6 * rate, round(3.4 * window)) + 3 * spec.hop_samples + 77
    time, rng, sound = np.arange(count) / rate, np.random.default_rng(0), np.zeros(count)
    quiet = slice(round(0.45 * count), round(0.45 * count) + round(1.25 * window))
    for number, start in enumerate(np.linspace(0, 0.9 * count, 12).astype(int)):
        part = slice(start, start + rate // 3)
        length, seconds = len(sound[part]), time[: len(sound[part])]
        hz = min(300 * 1.35**number, 0.4 * rate)
        kinds = (
            rng.normal(scale=0.3, size=length),
            np.sin(2 * np.pi * (hz + 900 * seconds) * seconds),
            np.sign(np.sin(2 * np.pi * hz / 4 * seconds)) * np.exp(-12 * seconds),
            (np.arange(length) % (rate // 40) == 0).astype(float),
        )
        sound[part] += PEAK_LEVEL * kinds[number % len(kinds)] * np.hanning(length)
    sound += 1e-3 * rng.standard_normal(count)
    sound[quiet] = 0
    samples: Float = (np.rint(np.clip(sound, -1, 1) * 32767) / 32768).astype(np.float32)
    return samples


def _cut(samples: Float, spec: FrontendSpec, settings: DetectionSettings) -> tuple[list[Window], list[bool]]:
    framer, gate = Framer(Frontend(spec), round(settings.step_s * spec.sample_rate_hz)), Gate(settings.gate_dbfs)
    windows, silent = [], []
    gate.update(0, samples)
    for window in (*framer.push(samples), *framer.flush()):
        windows.append(window)
        silent.append(gate.silent(window.start, window.end))
    return windows, silent


def _answer(
    engines: Engines, patch: PatchSize, windows: Sequence[Window], silent: Sequence[bool], settings: DetectionSettings
) -> Answers:
    """Window by window, as the runtime does it: a batch would share the ranges of int8."""
    smoother, temperature = Smoother(settings.smoothing_s, settings.step_s), engines[patch].variant.temperature
    logits = np.concatenate([engines.logits(window.features[None], patch) for window in windows])
    scores = label_scores(logits / np.float32(temperature), engines.spec)
    smoothed = []
    for row, quiet in enumerate(silent):
        if quiet:
            smoother.reset()
            scores[row] = 0
        smoothed.append(smoother.push(scores[row]))
    return Answers(logits, scores, np.stack(smoothed))


def _choose_strict_rules(
    spec: Spec, settings: DetectionSettings, windows: Sequence[Window], end: int, answers: Mapping[PatchSize, Answers]
) -> EventRules:
    """Every rule at work, each size at a threshold of its own that gives many events and that no score comes near."""
    step = settings.step_s

    def rules(thresholds: Mapping[PatchSize, float]) -> EventRules:
        own = {patch: dict.fromkeys(spec.labels, threshold) for patch, threshold in thresholds.items()}
        return EventRules(size_thresholds=own, confirm_s=step, merge_s=2 * step, min_duration_s=2 * step)

    def choose(patch: PatchSize, answer: Answers) -> float:
        every = answer.smoothed.ravel()
        candidates = [round(float(share * every.max()), 4) for share in np.linspace(0.1, 0.9, 81)]
        distances = {
            one: float(min(np.abs(every - one).min(), np.abs(every - EventRules.release * one).min()))
            for one in candidates
        }
        counts = {
            one: len(_detect(spec, replace(settings, rules=rules({patch: one})), windows, end, patch, answer))
            for one in candidates
            if distances[one] >= MARGIN
        }
        return max(counts, key=lambda one: counts[one]) if counts else max(distances, key=lambda one: distances[one])

    return rules({patch: choose(patch, answer) for patch, answer in answers.items()})


def _detect(
    spec: Spec, settings: DetectionSettings, windows: Sequence[Window], end: int, patch: PatchSize, answer: Answers
) -> list[Detection]:
    """The events of smoothed scores, in a sound that ends at sample ``end``."""
    rate, step = spec.frontend.sample_rate_hz, round(settings.step_s * spec.frontend.sample_rate_hz)
    delay = round(Smoother(settings.smoothing_s, settings.step_s).delay_steps * step)
    detector = Detector(settings.rules, spec.labels, rate, spec.frontend.window_samples, step, delay)
    rows = zip(windows, answer.smoothed, strict=True)
    found = [detection for window, scores in rows for detection in detector.push(window, scores, patch)]
    return [*found, *detector.flush(end)]


def _describe_rules(name: str, rules: EventRules) -> dict[str, Any]:
    return {
        "name": name,
        "threshold": rules.threshold,
        "label_thresholds": dict(rules.label_thresholds),
        "size_thresholds": {str(patch): dict(own) for patch, own in rules.size_thresholds.items()},
        "release": rules.release,
        "confirm_s": rules.confirm_s,
        "merge_s": rules.merge_s,
        "min_duration_s": rules.min_duration_s,
    }


def _find_events(
    engines: Engines,
    patch: PatchSize,
    samples: Float,
    windows: Sequence[Window],
    answer: Answers,
    settings: DetectionSettings,
) -> list[dict[str, Any]]:
    """The events of these smoothed scores; VerificationError unless the whole runtime finds them in the sound too."""
    spec, found = engines.spec, _detect(engines.spec, settings, windows, len(samples), patch, answer)
    classifier = StreamClassifier(
        engines, FixedSize(patch), settings, source=SOUND, conditions=lambda time_s: Conditions(1.0)
    )
    records = [record for record in classifier.run([Chunk(0, samples)]) if isinstance(record, Event)]
    expected = [(event.label, event.start_sample, event.end_sample) for event in records]
    if [(spec.labels[each.class_index], each.start, each.end) for each in found] != expected:
        raise VerificationError(f"the runtime finds other events at {patch} than its parts do; report this")
    return [
        {
            "label": spec.labels[each.class_index],
            "start_sample": each.start,
            "end_sample": each.end,
            "score": round(each.score, 6),
        }
        for each in found
    ]


def _tolerance(variant: Variant) -> float:
    return variant.parity.tolerance


def _pack_npy(values: Float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype("<f4"), allow_pickle=False)
    return buffer.getvalue()


def _pack_wav(samples: Float, rate_hz: int) -> bytes:
    """Mono, 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.rint(samples * 32768).astype("<i2").tobytes())
    return buffer.getvalue()
