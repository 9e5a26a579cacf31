"""False alarms of a bundle's engines in hours of background, as in listening; every size is scored in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from flexiast.data.background import Stretch, Stretches
from flexiast.errors import DataError, UsageError
from flexiast.evaluation.budget import LOWEST_SCORE, Trace, most_events, thresholds_for, upper_bound
from flexiast.evaluation.evaluate import classify
from flexiast.frontend import Frontend
from flexiast.manifest import Variant
from flexiast.spec import Patch, PatchSize, Value
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.gate import Gate
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.inference.engine import label_scores
from flexiast_runtime.inference.ort import load_engines


@dataclass(frozen=True)
class Background:
    """Scores of hours of background at every size."""

    hours: float
    traces: dict[PatchSize, list[Trace]]
    """Of each label"""

    def events(self, patch: PatchSize, thresholds: Sequence[float]) -> list[int]:
        """Of each label, at these thresholds: what the detector reports where no other rule is given."""
        pairs = zip(self.traces[patch], thresholds, strict=True)
        return [len(trace.peaks(threshold, EventRules.release)) for trace, threshold in pairs]


class SizeBudget(Value):
    """Thresholds of one patch size, and what they give on hours that they were not chosen on."""

    patch_size: Patch
    thresholds: dict[str, float]
    hours: float
    before: int
    """False alarms of all labels together, with the bundle's own thresholds"""
    after: int
    at_most_per_hour: float
    """Upper bound of the rate, with 90 % confidence."""
    kept: bool
    """Whether that is within the budget"""


def keep_budget(
    bundle: Bundle,
    variants: Sequence[Variant],
    sources: Sequence[Stretches],
    per_hour: float,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[SizeBudget]:
    """Thresholds of each size for a budget of false alarms: chosen on one half of the background, held to the other.

    ``variants`` may have other temperatures than the bundle's; "before" is with the bundle's. Raises DataError for a
    background that cannot be halved, and UsageError where the thresholds would make false alarms more than they were,
    and more than the budget.
    """
    manifest = bundle.manifest
    default = manifest.precision()
    variants = [variant for variant in variants if variant.precision == default]
    chosen_on, held_back = halves(sources)
    if not len(chosen_on) or not len(held_back):
        raise DataError("the background is too short to be halved; give several recordings, or one of a minute or more")
    first, second = (score_background(bundle, variants, half, progress) for half in (chosen_on, held_back))
    own = [variant for variant in manifest.variants if variant.precision == default]
    baseline = second if own == variants else score_background(bundle, own, held_back, progress)
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    labels = manifest.spec.labels
    found = []
    for variant in variants:
        patch = variant.patch_size
        most = most_events(first.hours, per_hour) or 0
        thresholds = thresholds_for(first.traces[patch], most, EventRules.release)
        before = sum(baseline.events(patch, rules.thresholds(labels, patch).tolist()))
        after = sum(second.events(patch, thresholds))
        if after > max(before, per_hour * second.hours):
            raise UsageError(
                f"at {patch} these thresholds would give {after} false alarms in {second.hours:.2f} h, the bundle's "
                f"own give {before}; nothing was written: the two halves differ, give more background of each kind"
            )
        bound = upper_bound(after) / second.hours
        found.append(
            SizeBudget(
                patch_size=patch,
                thresholds=dict(zip(labels, thresholds, strict=True)),
                hours=second.hours,
                before=before,
                after=after,
                at_most_per_hour=bound,
                kept=bound <= per_hour,
            )
        )
    return found


def halves(sources: Iterable[Stretches]) -> tuple[Stretches, Stretches]:
    """Every other recording of each source, and the others; of a single one its first half, and its second."""
    first: list[Stretch] = []
    second: list[Stretch] = []
    for source in sources:
        recordings = [list(group) for _, group in groupby(source.stretches, key=lambda one: (one.path, one.part))]
        if len(recordings) == 1:
            (only,) = recordings
            recordings = [only[: len(only) // 2], only[len(only) // 2 :]]
        for number, recording in enumerate(recordings):
            (second if number % 2 else first).extend(recording)
    rate_hz = next(iter(sources)).sample_rate_hz
    return Stretches(tuple(first), rate_hz), Stretches(tuple(second), rate_hz)


def score_background(
    bundle: Bundle,
    variants: Sequence[Variant],
    stretches: Stretches,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Background:
    """Smoothed scores of each variant, all of the default precision, over recordings that are streams of their own."""
    spec = bundle.manifest.spec
    engines = load_engines(bundle, precision=bundle.manifest.precision())
    settings, frontend = DetectionSettings.from_frontend(spec.frontend), Frontend(spec.frontend)
    step = round(settings.step_s * spec.frontend.sample_rate_hz)
    found: dict[PatchSize, dict[int, tuple[list[int], list[np.float32]]]] = {
        variant.patch_size: defaultdict(lambda: ([], [])) for variant in variants
    }
    silence = frontend.window(np.zeros(spec.frontend.window_samples, np.float32))
    window_number = 0
    before: tuple[object, ...] | None = None
    smoothers: dict[PatchSize, Smoother] = {}
    framer, gate = Framer(frontend, step), Gate(settings.gate_dbfs)

    def answer(windows: Sequence[Window]) -> None:
        nonlocal window_number
        if not windows:
            return
        features = np.stack([silence if gate.silent(one.start, one.end) else one.features for one in windows])
        for variant in variants:
            logits = classify(engines, features, variant.patch_size) / np.float32(variant.temperature)
            for number, row in enumerate(label_scores(logits, spec), start=window_number):
                smoothed = smoothers[variant.patch_size].push(row)
                for label in map(int, np.flatnonzero(smoothed >= LOWEST_SCORE)):
                    numbers, scores = found[variant.patch_size][label]
                    numbers.append(number)
                    scores.append(smoothed[label])
        window_number += len(windows)

    for place in progress(range(len(stretches))):
        stretch = stretches.stretches[place]
        if before is None or (stretch.path, stretch.part, stretch.start) != before:
            answer(list(framer.flush()))
            framer, gate = Framer(frontend, step), Gate(settings.gate_dbfs)
            smoothers = {one.patch_size: Smoother(settings.smoothing_s, settings.step_s) for one in variants}
            window_number += 2  # no event goes on from one recording to the next
        waveform = stretches[place]
        gate_start = framer.end
        gate.update(gate_start, waveform)
        answer(list(framer.push(waveform)))
        before = (stretch.path, stretch.part, stretch.start + stretch.samples)
    answer(list(framer.flush()))
    return Background(
        stretches.hours,
        {
            patch: [
                Trace(np.array(by_label[label][0], np.int64), np.array(by_label[label][1], np.float32))
                for label in range(len(spec.labels))
            ]
            for patch, by_label in found.items()
        },
    )
