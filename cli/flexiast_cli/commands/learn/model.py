"""The model that learns, as the weights to begin with, and as the bundle that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flexiast.arrays import Float
from flexiast.calibration import Calibration
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.errors import ModelError, UsageError
from flexiast.evaluation.evaluate import Windows
from flexiast.evaluation.mixing import choose_clips
from flexiast.frontend import Frontend
from flexiast.manifest import Precision, Variant
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize, Spec
from flexiast_cli.commands.learn.sources import Original, Sources
from flexiast_cli.commands.learn.verdicts import Lesson, Lessons
from flexiast_cli.terminal.console import log, track
from flexiast_export.calibrate import Fit, fit_temperatures, publish
from flexiast_export.false_alarms import apply_budgets, keep_budget
from flexiast_export.restore import restore_checkpoint
from flexiast_export.to_onnx import export_onnx
from flexiast_export.verify import VerificationData
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any, find_licence

COMPARED_CLIPS = 16
"""Of the verdicts' sounds, on which the engines are compared with the network"""
CALIBRATION_CLIPS = 256
"""By which int8-static chooses its ranges"""
MIXED_CLIPS = 200
"""That are mixed into the background, to see what a budget costs"""


@dataclass(frozen=True)
class Origin:
    """What learns."""

    name: str
    """As given"""
    checkpoint: Checkpoint
    bundle: Bundle | None
    """None where a checkpoint was given"""

    @property
    def patches(self) -> tuple[PatchSize, ...]:
        return self.checkpoint.spec.trained_patches if self.bundle is None else self.bundle.manifest.patches

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return ("fp32",) if self.bundle is None else self.bundle.manifest.precisions

    @property
    def per_hour(self) -> float | None:
        """The budget of false alarms that it was calibrated for."""
        calibration = None if self.bundle is None else self.bundle.read_calibration()
        return None if calibration is None else calibration.false_alarms_per_hour


def open_origin(model: str) -> Origin:
    """Raises ModelError for what cannot learn."""
    path = find_any(model)
    if path.is_dir():
        bundle = Bundle.open(path)
        origin = Origin(model, restore_checkpoint(bundle), bundle)
    else:
        checkpoint = load_checkpoint(path)
        licence = find_licence(checkpoint.info.get("licence"), path)
        origin = Origin(model, replace(checkpoint, info=checkpoint.info | {"licence": licence}), None)
    if origin.checkpoint.spec.network.kind == "convolutional":
        raise ModelError("a convnet is a teacher, and nothing listens with it; give a bundle or a transformer")
    return origin


def export_models(origin: Origin, learnt: Checkpoint, lessons: Lessons, folder: Path) -> tuple[Bundle, Bundle]:
    """The bundles of the old model and the new one, the new one in a folder with the old one's settings of scores."""
    every = (*lessons.taught, *lessons.held_out)
    old = origin.bundle or _export(origin, origin.checkpoint, every, folder / "old")
    new = _export(origin, learnt, every, folder / "exported")
    if origin.bundle is None:
        return old, new
    settings = {(one.patch_size, one.precision): one for one in old.manifest.variants}

    def carry(variant: Variant) -> Variant:
        own = settings[variant.patch_size, variant.precision]
        return variant.model_copy(update={"temperature": own.temperature, "thresholds": own.thresholds})

    carried = folder / "carried"
    manifest = publish(new, map(carry, new.manifest.variants), old.manifest.thresholds, carried)
    return old, Bundle(carried, manifest)


def calibrate(bundle: Bundle, sources: Sources, lessons: Lessons, folder: Path) -> Bundle:
    """The bundle with temperatures by the original data where it had some, and thresholds by the budget, in a folder.

    Where no thresholds keep the budget better, its own stay, which is said.
    """
    manifest = bundle.manifest
    variants, thresholds = manifest.variants, manifest.thresholds
    calibration: Calibration | None = None
    if sources.original is not None and any(one.temperature != 1 for one in variants):
        variants = tuple(fit.variant for fit in _fit_temperatures(bundle, sources.original))
    if sources.per_hour is not None:
        clips = _choose_mixed(sources.original, lessons, manifest.spec)
        try:
            budgets = keep_budget(
                bundle, variants, sources.hours, sources.per_hour, clips, lambda items: track(list(items), "Detecting")
            )
        except UsageError as error:  # what can be used was checked before: none of the thresholds is better
            log(f"the thresholds stay: {error}")
        else:
            variants = tuple(apply_budgets(bundle, variants, budgets.sizes))
            thresholds, calibration = {}, budgets.calibration
    if variants == manifest.variants and calibration is None:
        return bundle
    return Bundle(folder, publish(bundle, variants, thresholds, folder, calibration=calibration))


def _export(origin: Origin, checkpoint: Checkpoint, lessons: Sequence[Lesson], folder: Path) -> Bundle:
    spec = checkpoint.spec
    step = max(1, len(lessons) // COMPARED_CLIPS)
    sounds = VerificationData(spec, [one.waveform for one in lessons[::step][:COMPARED_CLIPS]])
    windows = None
    if "int8-static" in origin.precisions:
        windows = np.stack([Frontend(spec.frontend).window(one.waveform) for one in lessons[:CALIBRATION_CLIPS]])
    manifest = export_onnx(
        checkpoint,
        TorchClassifier(load_model(checkpoint)),
        origin.patches,
        folder,
        precisions=origin.precisions,
        sounds=sounds,
        calibration=windows,
        progress=lambda variants: track(list(variants), "Verifying"),
    )
    return Bundle(folder, manifest)


def _fit_temperatures(bundle: Bundle, original: Original) -> Sequence[Fit]:
    spec = bundle.manifest.spec
    targets = original.validation_targets[: len(original.validation_waveforms)]
    windows = Windows(original.validation_waveforms, Frontend(spec.frontend))
    by_class = np.pad(targets, ((0, 0), (0, spec.classes - len(spec.labels))))
    return fit_temperatures(bundle, windows, by_class, lambda variants: track(list(variants), "Fitting"))


def _choose_mixed(original: Original | None, lessons: Lessons, spec: Spec) -> list[tuple[str, Float]]:
    """Labels and clips of one label each: of the original validation set, else the sounds that verdicts name."""
    if original is None:
        every = (*lessons.taught, *lessons.held_out)
        named = [(one.label, one.waveform[one.sound]) for one in every if one.label is not None]
    else:
        targets = original.validation_targets[: len(original.validation_waveforms)]
        single = np.flatnonzero(targets.sum(axis=1) == 1).tolist()
        named = [(spec.labels[int(targets[place].argmax())], original.validation_waveforms[place]) for place in single]
    return [named[number] for number in choose_clips([label for label, _ in named], MIXED_CLIPS, 0)]
