"""Scores that mean what they say: temperatures and thresholds fitted on labelled clips, in a bundle published anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexiast.arrays import Float
from flexiast.calibration import CALIBRATION, Calibration
from flexiast.errors import UsageError
from flexiast.evaluation.calibration import best_temperature, calibration_error, negative_log_likelihood
from flexiast.evaluation.evaluate import Windows, classify
from flexiast.frontend import Frontend
from flexiast.manifest import Manifest, Variant, read_manifest
from flexiast_export.publish import stage_bundle
from flexiast_export.writer import BundleWriter, Progress
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.framer import Framer
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.inference.engine import label_scores, scores
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import verify_bundle


@dataclass(frozen=True)
class Fit:
    """What one temperature does to one variant, on clips with labels."""

    variant: Variant
    """With the temperature fitted; with its own where there is none to fit"""
    fitted: bool
    nll: tuple[float, float]
    """Negative log-likelihood before and after, nat"""
    ece: tuple[float, float]
    """Expected calibration error before and after"""


def fit_temperatures(bundle: Bundle, clips: Windows, targets: Float, progress: Progress = iter) -> list[Fit]:
    """One temperature for each variant, by clips with targets [clips, classes]; logits are means per clip."""
    manifest = bundle.manifest
    engines = {precision: load_engines(bundle, precision=precision) for precision in manifest.precisions}
    return [
        _fit(
            variant,
            clips.clip_mean(classify(engines[variant.precision], clips, variant.patch_size)),
            targets,
            manifest,
        )
        for variant in progress(manifest.variants)
    ]


def _fit(variant: Variant, logits: Float, targets: Float, manifest: Manifest) -> Fit:
    task, found = manifest.spec.task, best_temperature(logits, targets, manifest.spec.task)
    after = variant.temperature if found is None else found
    temperatures = (variant.temperature, after)
    before_scores, after_scores = (scores(logits / np.float32(temperature), task) for temperature in temperatures)
    return Fit(
        variant.model_copy(update={"temperature": after}),
        found is not None,
        (
            negative_log_likelihood(logits, targets, task, variant.temperature),
            negative_log_likelihood(logits, targets, task, after),
        ),
        (calibration_error(before_scores, targets, task), calibration_error(after_scores, targets, task)),
    )


def peak_scores(
    bundle: Bundle, variants: Iterable[Variant], waveforms: Sequence[Float], progress: Progress = iter
) -> Float:
    """The highest score that each clip reaches in a stream [variants, clips, labels], in the default precision.

    An event is reported where it reaches the threshold. Each clip is heard between silence, by every window that meets
    it, and smoothed as `listen` does it.
    """
    spec, precision = bundle.manifest.spec, bundle.manifest.precision()
    engines = load_engines(bundle, precision=precision)
    frontend, settings = Frontend(spec.frontend), DetectionSettings.from_frontend(spec.frontend)
    step = round(settings.step_s * spec.frontend.sample_rate_hz)
    silence = np.zeros(spec.frontend.window_samples - step, np.float32)

    def peak(waveform: Float, variant: Variant) -> Float:
        framer, smoother = Framer(frontend, step), Smoother(settings.smoothing_s, settings.step_s)
        stream = framer.push(np.concatenate((silence, waveform, silence)))
        features = np.stack([window.features for window in (*stream, *framer.flush())])
        logits = classify(engines, features, variant.patch_size) / np.float32(variant.temperature)
        return np.max([smoother.push(row) for row in label_scores(logits, spec)], axis=0)

    chosen = [variant for variant in variants if variant.precision == precision]
    return np.stack([np.stack([peak(waveform, variant) for waveform in waveforms]) for variant in progress(chosen)])


def publish(
    bundle: Bundle,
    variants: Iterable[Variant],
    thresholds: Mapping[str, float],
    output: Path,
    *,
    calibration: Calibration | None = None,
    force: bool = False,
) -> Manifest:
    """The same engines to the byte under a manifest with these variants and thresholds; it may take its own place.

    ``calibration`` takes the place of an earlier one.

    Every file and engine is checked first. Raises UsageError for an existing output and VerificationError for a bundle
    that is not what was exported; then nothing is published.
    """
    old = bundle.manifest
    verify_bundle(bundle)
    draft = old.model_copy(update={"variants": tuple(variants), "thresholds": dict(thresholds)})
    with stage_bundle(output, force=force or output.absolute() == bundle.folder.absolute()) as folder:
        if read_manifest(bundle.folder) != old:
            raise UsageError(f"{bundle.folder} was replaced meanwhile; calibrate it again")
        writer = BundleWriter(folder, draft)
        writer.copy_files(bundle)
        writer.remove_file(CALIBRATION)
        if calibration is not None:
            writer.add_file(CALIBRATION, calibration.model_dump_json(indent=1).encode())
        return writer.finish()
