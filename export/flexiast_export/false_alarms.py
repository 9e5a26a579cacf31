"""Thresholds for budgets of false alarms, chosen on one half of hours of background and held to the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.calibration import CalibratedBudget, CalibratedSize, Calibration
from flexiast.data.background import Stretch, Stretches
from flexiast.errors import DataError, UsageError
from flexiast.evaluation.budget import LOWEST_SCORE, Trace, most_events, thresholds_for, upper_bound
from flexiast.evaluation.event_curves import StreamScores, Timeline, lay_end_to_end
from flexiast.evaluation.events import Counts, Sound
from flexiast.evaluation.mixing import mix_streams
from flexiast.manifest import Variant
from flexiast.spec import Patch, Spec, Value
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.scoring import StreamLogits, compute_slots, score_stream, smooth
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines

BUDGETS_PER_HOUR = (1 / 24, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Whose thresholds are stored besides those asked for: from one false alarm a day to one in twelve minutes."""

SNRS_DB = (20.0, 10.0, 5.0)
"""Of the clips that are mixed into the background, to see what a budget costs."""

RECALL_TOLERANCE = 0.01
"""By so much the mean recall may fall where false alarms become no fewer: two clips of two hundred."""

SURE = 0.95
"""From this score on a label in the background is named: it may truly sound there."""

Progress = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Recording:
    """A stream of its own, scored at every size."""

    path: Path
    start_s: float
    """Where it begins in the file"""
    logits: StreamLogits
    events: tuple[Sound, ...] = ()
    snr_db: float = math.inf


class Suspect(Value):
    """A label of which the model is sure, in a background that should not hold it."""

    label: str
    path: str
    start_s: float
    score: float


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
    is_proven: bool
    """Whether that is within the budget"""
    recall_before: dict[str, float]
    """By decibels of the clips above the background; empty without clips"""
    recall_after: dict[str, float]
    refusal: str = ""
    """Why this size keeps the bundle's own thresholds, which would be better; empty where it has new ones"""


@dataclass(frozen=True)
class Budgets:
    """What was asked for, and what is stored for other budgets."""

    sizes: tuple[SizeBudget, ...]
    calibration: Calibration
    suspects: tuple[Suspect, ...]


class _Half:
    """Recordings of one half of the background, or mixes with it, as one bundle detects them."""

    def __init__(self, engines: Engines, settings: DetectionSettings, recordings: Sequence[Recording]) -> None:
        self.spec, self.settings, self.recordings = engines.spec, settings, recordings
        self.hours = sum(one.logits.samples for one in recordings) / self.spec.frontend.sample_rate_hz / 3600

    def compute_scores(self, variant: Variant) -> list[Float]:
        """Smoothed scores of each recording [windows, labels]."""
        return [
            smooth(
                one.logits.scores(variant.patch_size, self.spec, variant.temperature), one.logits.silent, self.settings
            )
            for one in self.recordings
        ]

    def trace(self, variant: Variant) -> list[Trace]:
        """Of each label; no event goes on from one recording to the next."""
        windows: list[list[NDArray[Any]]] = [[] for _ in self.spec.labels]
        values: list[list[NDArray[Any]]] = [[] for _ in self.spec.labels]
        first = 0
        for scores in self.compute_scores(variant):
            for label in range(len(self.spec.labels)):
                places = np.flatnonzero(scores[:, label] >= LOWEST_SCORE)
                windows[label].append(first + places)
                values[label].append(scores[places, label])
            first += len(scores) + 2
        return [
            Trace(
                np.concatenate([np.empty(0, np.int64), *windows[label]]),
                np.concatenate([np.empty(0, np.float32), *values[label]]),
            )
            for label in range(len(self.spec.labels))
        ]

    def lay(self, variant: Variant) -> dict[float, Timeline]:
        """One time line for each signal-to-noise ratio."""
        rate_hz = self.spec.frontend.sample_rate_hz
        streams: dict[float, list[StreamScores]] = {}
        for one, scores in zip(self.recordings, self.compute_scores(variant), strict=True):
            edges_s = compute_slots(one.logits, self.spec, self.settings) / rate_hz
            streams.setdefault(one.snr_db, []).append(StreamScores(edges_s, scores, one.events))
        return {snr_db: lay_end_to_end(own, self.spec.labels) for snr_db, own in streams.items()}


def count_events(traces: Sequence[Trace], thresholds: Sequence[float]) -> int:
    """What the detector reports at these thresholds where no other rule is given, all labels together."""
    return sum(len(trace.peaks(at, EventRules.release)) for trace, at in zip(traces, thresholds, strict=True))


def measure_recall(timelines: Mapping[float, Timeline], thresholds: Sequence[float]) -> dict[str, float]:
    """Share of the events that is found at each signal-to-noise ratio, with a threshold of each label."""
    found = {}
    for snr_db, timeline in timelines.items():
        counts = sum((timeline.count(label, at, EventRules.release) for label, at in enumerate(thresholds)), Counts())
        if counts.recall is not None:
            found[f"{snr_db:g}"] = counts.recall
    return found


def keep_budget(
    bundle: Bundle,
    variants: Sequence[Variant],
    sources: Sequence[Stretches],
    per_hour: float,
    clips: Sequence[tuple[str, Float]] = (),
    progress: Progress = iter,
) -> Budgets:
    """Thresholds of each size for a budget of false alarms: chosen on one half of the background, held to the other.

    ``variants`` may have other temperatures than the bundle's; "before" is with the bundle's. ``clips`` (label and
    waveform) are mixed into the other half, to measure what the budget costs. Raises DataError for a background that
    cannot be halved. A size keeps the bundle's own thresholds where new ones would make false alarms more than they
    were and more than the budget, or recall lower and false alarms no fewer. Raises UsageError where every size does.
    """
    first, second = halves(sources)
    if not len(first) or not len(second):
        raise DataError("the background is too short to be halved; give several recordings, or one of a minute or more")
    manifest = bundle.manifest
    default = manifest.precision()
    engines = load_engines(bundle, precision=default)
    settings = DetectionSettings.from_frontend(manifest.spec.frontend)
    chosen_on, held_back = (
        _Half(engines, settings, list(score_background(engines, settings, half, progress))) for half in (first, second)
    )
    mixed = _Half(engines, settings, list(_score_mixes(engines, settings, second, clips)))
    before = {one.patch_size: one for one in manifest.variants if one.precision == default}
    after = [one for one in variants if one.precision == default]
    rules = EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)
    budgets = sorted({*BUDGETS_PER_HOUR, per_hour})
    found = [
        _keep_at_size(before[one.patch_size], one, rules, budgets, per_hour, chosen_on, held_back, mixed)
        for one in after
    ]
    if all(size.refusal for size, _ in found):
        first_size = found[0][0]
        raise UsageError(
            "the bundle's own thresholds are better at every size, so nothing was written. At "
            f"{first_size.patch_size} {first_size.refusal}; give more background of each kind, or allow more false "
            "alarms"
        )
    points = tuple(
        CalibratedBudget(false_alarms_per_hour=budget, sizes=sizes)
        for budget in budgets
        if (sizes := {str(size.patch_size): own[budget] for size, own in found if budget in own})
    )
    calibration = Calibration(false_alarms_per_hour=per_hour, hours=held_back.hours, clips=len(clips), points=points)
    best = next(one for one in after if one.patch_size == manifest.best_patch)
    suspects = [one for half in (chosen_on, held_back) for one in _find_suspects(half, best)]
    return Budgets(tuple(size for size, _ in found), calibration, tuple(sorted(suspects, key=lambda one: -one.score)))


def apply_budgets(bundle: Bundle, variants: Sequence[Variant], sizes: Sequence[SizeBudget]) -> list[Variant]:
    """The variants with their sizes' thresholds; one that keeps its own keeps its temperature too."""
    by_size = {size.patch_size: size for size in sizes}
    found = []
    for variant in variants:
        size = by_size.get(variant.patch_size)
        base = bundle.manifest.variant(variant.patch_size, variant.precision) if size and size.refusal else variant
        found.append(base.model_copy(update={"thresholds": size.thresholds if size else None}))
    return found


def _keep_at_size(
    own: Variant,
    variant: Variant,
    rules: EventRules,
    budgets: Sequence[float],
    per_hour: float,
    chosen_on: _Half,
    held_back: _Half,
    mixed: _Half,
) -> tuple[SizeBudget, dict[float, CalibratedSize]]:
    """One size at the budget asked for, and at every budget that its thresholds do not make worse."""
    labels, patch = chosen_on.spec.labels, variant.patch_size
    own_thresholds = rules.thresholds(labels, patch).tolist()
    before = {half: count_events(half.trace(own), own_thresholds) for half in (chosen_on, held_back)}
    first, second, timelines = chosen_on.trace(variant), held_back.trace(variant), mixed.lay(variant)
    recall_before = measure_recall(mixed.lay(own), own_thresholds)
    stored: dict[float, CalibratedSize] = {}
    for budget in budgets:
        thresholds = thresholds_for(first, most_events(chosen_on.hours, budget) or 0, EventRules.release)
        after, recall = count_events(second, thresholds), measure_recall(timelines, thresholds)
        fewer = is_rarer(after, held_back.hours, sum(before.values()), chosen_on.hours + held_back.hours)
        refusal = _compare_false_alarms(before[held_back], after, held_back.hours, budget)
        refusal = refusal or _compare_recall(recall_before, recall, fewer=fewer)
        if not refusal:
            stored[budget] = CalibratedSize(
                thresholds=dict(zip(labels, thresholds, strict=True)),
                at_most_per_hour=upper_bound(after) / held_back.hours,
                recall_by_snr_db=recall,
            )
        if budget == per_hour:
            if refusal:
                thresholds, after, recall = own_thresholds, before[held_back], recall_before
            bound = upper_bound(after) / held_back.hours
            size = SizeBudget(
                patch_size=patch,
                thresholds=dict(zip(labels, thresholds, strict=True)),
                hours=held_back.hours,
                before=before[held_back],
                after=after,
                at_most_per_hour=bound,
                is_proven=bound <= per_hour,
                recall_before=recall_before,
                recall_after=recall,
                refusal=refusal,
            )
    return size, stored


def is_rarer(after: int, held_back_hours: float, before: int, hours: float) -> bool:
    """Whether false alarms come at a lower rate than with the bundle's own thresholds.

    Those were chosen on neither half, so all ``hours`` speak for them. Of the new ones only the half held back does:
    the other gives as few as they were raised to.
    """
    return after / held_back_hours < before / hours


def _compare_false_alarms(before: int, after: int, hours: float, per_hour: float) -> str:
    """Why these thresholds are worse than the bundle's own in the half held back; empty where they are not."""
    if after <= max(before, per_hour * hours):
        return ""
    return (
        f"new thresholds would give {after} false alarms in {hours:.2f} h, the bundle's own give {before}: the two "
        "halves of the background differ"
    )


def _compare_recall(before: Mapping[str, float], after: Mapping[str, float], *, fewer: bool) -> str:
    """Why thresholds that find less and save nothing are worse; empty where they are not."""
    if fewer or not before:
        return ""
    means = [sum(recall.values()) / len(recall) for recall in (before, after)]
    if means[1] >= means[0] - RECALL_TOLERANCE:
        return ""
    return (
        f"new thresholds would find {means[1]:.0%} of the clips in the background, the bundle's own {means[0]:.0%}, "
        "with no fewer false alarms"
    )


def halves(sources: Sequence[Stretches]) -> tuple[Stretches, Stretches]:
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
    rate_hz = sources[0].sample_rate_hz
    return Stretches(tuple(first), rate_hz), Stretches(tuple(second), rate_hz)


def score_background(
    engines: Engines, settings: DetectionSettings, stretches: Stretches, progress: Progress = iter
) -> Iterator[Recording]:
    """Score each unbroken recording as a stream of its own."""
    runs: list[list[int]] = []
    end: tuple[object, ...] | None = None
    for place, one in enumerate(stretches.stretches):
        if (one.path, one.part, one.start) != end:
            runs.append([])
        runs[-1].append(place)
        end = (one.path, one.part, one.start + one.samples)
    for number in progress(range(len(runs))):
        first = stretches.stretches[runs[number][0]]
        logits = score_stream(engines, settings, (stretches[place] for place in runs[number]))
        yield Recording(first.path, first.start / first.rate_hz, logits)


def _score_mixes(
    engines: Engines, settings: DetectionSettings, background: Stretches, clips: Sequence[tuple[str, Float]]
) -> Iterator[Recording]:
    """Score the clips in the background at each signal-to-noise ratio."""
    frontend = engines.spec.frontend
    for snr_db in SNRS_DB if clips else ():
        for mix in mix_streams(
            clips,
            {"background": background},
            snr_db,
            rate_hz=frontend.sample_rate_hz,
            gap_s=frontend.window_s,
            seed=0,
        ):
            yield Recording(Path(), 0.0, score_stream(engines, settings, [mix.waveform]), mix.events, snr_db)


def _find_suspects(half: _Half, variant: Variant) -> Iterator[Suspect]:
    """Where the model is sure of a label, the surest moment of each event."""
    for one, scores in zip(half.recordings, half.compute_scores(variant), strict=True):
        for window, label in _find_peaks(scores, half.spec):
            yield Suspect(
                label=half.spec.labels[label],
                path=str(one.path),
                start_s=round(one.start_s + one.logits.windows[window].start / half.spec.frontend.sample_rate_hz, 2),
                score=round(float(scores[window, label]), 4),
            )


def _find_peaks(scores: Float, spec: Spec) -> Iterator[tuple[int, int]]:
    for label in range(len(spec.labels)):
        places = np.flatnonzero(scores[:, label] >= SURE)
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else ():
            yield int(run[scores[run, label].argmax()]), label
