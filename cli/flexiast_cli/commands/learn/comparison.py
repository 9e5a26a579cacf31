"""The old model and the new one, on verdicts that were held out and on the original validation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.evaluation.evaluate import PatchResult, average_precision, check_targets, classify, summarize
from flexiast.evaluation.per_label import confusion_matrix, label_results
from flexiast.networks import Embedder, load_model
from flexiast.spec import PatchSize, Spec, Value
from flexiast.training.adaptation import classify_embeddings
from flexiast_cli.commands.learn.sources import Original
from flexiast_cli.commands.learn.verdicts import Lesson
from flexiast_cli.terminal.console import track
from flexiast_export.calibrate import peak_scores
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules

MOST_LOST = 0.02
"""Of the sounds that the old model finds, which the new one may miss"""
CHANCE_SOUNDS = 0.5
"""By which means over patch sizes differ by chance, where few are held out"""
MOST_DROP = 0.01
"""Of the metric on the original validation set"""

Pair = tuple[float, float]
"""Before and after"""


class LabelChange(Value):
    """What became of one label, as the mean of all patch sizes; None where nothing shows it."""

    label: str
    sounds: int
    """Held out, in which this label sounds"""
    found: Pair | None
    """Share of them that is reported"""
    false_events: Pair
    """Of this label, in all that was held out"""
    validation: Pair | None
    """Recall on the original validation set, or average precision where clips have several labels"""


@dataclass(frozen=True)
class Answers:
    """What one bundle makes of sounds."""

    peaks: Float
    """Highest score that each reaches [sizes, sounds, labels]"""
    thresholds: Float
    """[sizes, labels]"""

    @property
    def reported(self) -> NDArray[np.bool_]:
        return self.peaks >= self.thresholds[:, None]


@dataclass(frozen=True)
class Validation:
    """What one model makes of the original validation set."""

    results: tuple[PatchResult, ...]
    by_label: tuple[float | None, ...]
    """Recall or average precision of each label, the mean of all sizes"""

    @property
    def metric(self) -> float:
        return float(np.mean([one.metric for one in self.results]))

    @property
    def merit(self) -> float:
        return float(np.mean([one.merit for one in self.results]))


@dataclass(frozen=True)
class Comparison:
    """Old and new."""

    spec: Spec
    patches: tuple[PatchSize, ...]
    best_patch: PatchSize
    held_out: tuple[Lesson, ...]
    answers: tuple[Answers, Answers]
    validation: tuple[Validation, Validation] | None
    found: Pair
    """Sounds of labels that are reported, the mean of all sizes"""
    false_events: Pair
    changes: tuple[LabelChange, ...]
    refusal: str
    """Why the new model is worse; empty where it is not"""

    @property
    def best_place(self) -> int:
        """Of the size that was measured best, among all."""
        return self.patches.index(self.best_patch)

    @property
    def sounds(self) -> int:
        """Held out, in which a label sounds."""
        return sum(one.label is not None for one in self.held_out)


def collect_answers(bundle: Bundle, lessons: Sequence[Lesson]) -> Answers:
    """What a bundle reports of verdicts' sounds, each heard by itself."""
    manifest, precision = bundle.manifest, bundle.manifest.precision()
    variants = [one for one in manifest.variants if one.precision == precision]
    waveforms = [one.waveform for one in lessons]
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    thresholds = np.stack([rules.thresholds(manifest.spec.labels, one.patch_size) for one in variants])
    return Answers(peak_scores(bundle, variants, waveforms, lambda each: track(list(each), "Comparing")), thresholds)


class Validator:
    """Measures heads on the original validation set, all on the same network, which hears the clips once."""

    def __init__(self, start: Checkpoint, original: Original, patches: Sequence[PatchSize]) -> None:
        """Raises DataError for clips that the model cannot be right about."""
        self._clips, self._targets = original.validation, original.validation_targets
        check_targets(start.spec, self._targets)
        embedder = Embedder(load_model(start))
        self._embeddings = {
            patch: classify(embedder, self._clips, patch) for patch in track(list(patches), "Validating")
        }

    def measure(self, checkpoint: Checkpoint) -> Validation:
        """``checkpoint`` differs from the start in its head alone."""
        spec, targets = checkpoint.spec, self._targets
        known = targets.any(axis=1)
        results, shares = [], []
        for patch, embeddings in self._embeddings.items():
            logits = self._clips.clip_mean(classify_embeddings(checkpoint, embeddings))
            results.append(summarize(spec, patch, logits, targets))
            shares.append(_measure_labels(logits[known], targets[known], spec))
        columns = zip(*shares, strict=True)
        by_label = tuple(None if column[0] is None else float(np.mean(column)) for column in columns)
        return Validation(tuple(results), by_label)


def _measure_labels(logits: Float, targets: Float, spec: Spec) -> list[float | None]:
    if spec.task == "single":
        return [one.recall for one in label_results(confusion_matrix(logits, targets), spec.labels)]
    return [
        average_precision(logits[:, column], targets[:, column]) if targets[:, column].any() else None
        for column in range(len(spec.labels))
    ]


def compare(
    bundles: tuple[Bundle, Bundle], held_out: Sequence[Lesson], validation: tuple[Validation, Validation] | None
) -> Comparison:
    """Compare old and new; ``refusal`` of the result says whether the new one is worse."""
    spec = bundles[0].manifest.spec
    answers = collect_answers(bundles[0], held_out), collect_answers(bundles[1], held_out)
    truth, wrong = _mark_truth(held_out, spec), _mark_wrong(held_out, spec)
    found = [np.where(truth, one.reported, False).sum(axis=1).mean(axis=0) for one in answers]  # [labels]
    false_events = [np.where(wrong, one.reported, False).sum(axis=1).mean(axis=0) for one in answers]
    changes = tuple(
        LabelChange(
            label=label,
            sounds=(count := int(truth[:, column].sum())),
            found=(float(found[0][column] / count), float(found[1][column] / count)) if count else None,
            false_events=(float(false_events[0][column]), float(false_events[1][column])),
            validation=_pair_validation(validation, column),
        )
        for column, label in enumerate(spec.labels)
    )
    sums = [(float(each[0].sum()), float(each[1].sum())) for each in (found, false_events)]
    refusal = explain_worse(sums[0], sums[1], int(truth.sum()), validation)
    manifest = bundles[1].manifest
    return Comparison(
        spec,
        manifest.patches,
        manifest.best_patch,
        tuple(held_out),
        answers,
        validation,
        sums[0],
        sums[1],
        changes,
        refusal,
    )


def explain_worse(
    found: Pair, false_events: Pair, sounds: int, validation: tuple[Validation, Validation] | None
) -> str:
    """Why a model is worse than before, in words; empty where it is not."""
    mistakes = [sounds - found[number] + false_events[number] for number in (0, 1)]
    if mistakes[1] > mistakes[0] + CHANCE_SOUNDS:
        return (
            f"of the verdicts held out it gets {mistakes[1]:.1f} wrong, the old model {mistakes[0]:.1f} (sounds "
            "missed and false events, the mean of all patch sizes)"
        )
    if found[1] < found[0] - MOST_LOST * sounds - CHANCE_SOUNDS:
        return f"of {sounds} sounds held out it finds {found[1]:.1f}, the old model {found[0]:.1f}"
    if validation is not None and is_worse(*validation):
        old, new = validation
        return (
            f"on the original validation set it reaches {new.metric:.1%}, the old model {old.metric:.1%}, the mean of "
            f"all patch sizes{_describe_background(old, new)}; {MOST_DROP:.0%} less is allowed"
        )
    return ""


def is_worse(old: Validation, new: Validation) -> bool:
    """Whether a model lost more on the original validation set than it may."""
    return new.merit < old.merit - MOST_DROP


def _describe_background(old: Validation, new: Validation) -> str:
    specificities = [[one.specificity for one in each.results if one.specificity is not None] for each in (new, old)]
    if not all(specificities):
        return ""
    after, before = (float(np.mean(each)) for each in specificities)
    return f", and stays silent in {after:.1%} of its background, the old one in {before:.1%}"


def _mark_truth(lessons: Sequence[Lesson], spec: Spec) -> NDArray[np.bool_]:
    """[sounds, labels]: what should be reported."""
    return np.array([[label == one.label for label in spec.labels] for one in lessons], bool)


def _mark_wrong(lessons: Sequence[Lesson], spec: Spec) -> NDArray[np.bool_]:
    """[sounds, labels]: what is known to be false; all labels where none sounds, else what was said instead."""
    return np.array(
        [
            [one.label is None or label == one.correction.detected != one.label for label in spec.labels]
            for one in lessons
        ],
        bool,
    )


def _pair_validation(validation: tuple[Validation, Validation] | None, column: int) -> Pair | None:
    if validation is None:
        return None
    before, after = (one.by_label[column] for one in validation)
    return None if before is None or after is None else (before, after)
