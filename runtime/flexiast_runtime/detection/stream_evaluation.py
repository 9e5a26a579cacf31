"""How well events are detected in streams: at each patch size, at each threshold, and as the governor switches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flexiast.evaluation.budget import poisson_interval
from flexiast.evaluation.event_curves import (
    THRESHOLDS,
    Curve,
    StreamScores,
    Timeline,
    compute_psds,
    lay_end_to_end,
    sweep,
)
from flexiast.evaluation.events import Counts, Sound, count_by_onset, count_by_overlap
from flexiast.evaluation.mixing import QUIET, MixedStream
from flexiast.evaluation.per_label import wilson_interval
from flexiast.spec import PatchSize, Spec, Value
from flexiast_runtime.detection.scoring import StreamLogits, compute_slots, detect, follow, score_stream, smooth
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

BUDGETS_PER_HOUR = (0.1, 0.5, 1.0, 2.0, 5.0)
"""False events an hour at which recall is reported, with one threshold for all labels: those that the hours can show,
by one event at least."""

ALL_KINDS = "all"
"""In the place of a kind of background."""


@dataclass(frozen=True)
class AnnotatedStream:
    """Audio whose events are known; none in background."""

    kind: str
    blocks: Iterable[Float]
    """Mono, at the model's rate"""
    events: tuple[Sound, ...] = ()
    others: tuple[Sound, ...] = ()
    """Clips without a label in it"""
    snr_db: float | None = None
    """Where clips were mixed in"""

    @classmethod
    def from_mix(cls, mix: MixedStream) -> AnnotatedStream:
        return cls(mix.kind, [mix.waveform], mix.events, mix.others, mix.snr_db)


@dataclass(frozen=True)
class ScoredStream:
    """The same with the logits of its windows in place of the audio."""

    kind: str
    events: tuple[Sound, ...]
    others: tuple[Sound, ...]
    snr_db: float | None
    logits: StreamLogits


class Share(Value):
    """So many of so many, and the 95 % interval of the share."""

    count: int
    of: int
    share: float | None
    interval: tuple[float, float] | None

    @classmethod
    def from_counts(cls, count: int, of: int) -> Share:
        share = count / of if of else None
        return cls(count=count, of=of, share=share, interval=None if share is None else wilson_interval(share, of))


class Rate(Value):
    """False events in hours of one kind of background, and the 95 % interval of their rate."""

    kind: str
    hours: float
    false: int
    per_hour: float
    interval: tuple[float, float]


class BudgetPoint(Value):
    """What one threshold for all labels finds where it keeps a budget on the streams without clips."""

    false_per_hour: float
    threshold: float | None
    """None: none of those tried keeps it"""
    recall: float | None = None
    recall_by_snr_db: dict[str, float] = Field(default_factory=dict)


class DetPoint(Value):
    """One threshold for all labels."""

    threshold: float
    false_per_hour: float
    missed: float


class StreamResult(Value):
    """One patch size, or the governor's choice among them."""

    patch_size: str
    precision: float | None
    recall: float | None
    f1: float | None
    """These three by overlap"""
    onset_precision: float | None
    onset_recall: float | None
    onset_f1: float | None
    events: int
    recall_by_snr_db: dict[str, Share]
    others_reported: Share
    """Clips without a label that a detection overlaps"""
    false_events: tuple[Rate, ...]
    """In all streams that no clips were mixed into, and in each kind of them"""
    psds: float | None = None
    budgets: tuple[BudgetPoint, ...] = ()
    """Of one size; those of `BUDGETS_PER_HOUR` that the hours can tell"""
    trade_off: tuple[DetPoint, ...] = ()


def score_streams(
    engines: Engines, settings: DetectionSettings, streams: Iterable[AnnotatedStream]
) -> Iterator[ScoredStream]:
    """Run all engines over streams."""
    for one in streams:
        yield ScoredStream(one.kind, one.events, one.others, one.snr_db, score_stream(engines, settings, one.blocks))


class StreamEvaluation:
    """Scored streams, and what a bundle's thresholds or others make of them."""

    def __init__(self, engines: Engines, settings: DetectionSettings, streams: Sequence[ScoredStream]) -> None:
        self._engines, self._settings, self.streams = engines, settings, streams
        self._rate_hz = engines.spec.frontend.sample_rate_hz

    @property
    def _spec(self) -> Spec:
        return self._engines.spec

    def compute_scores(self, patch: PatchSize) -> list[Float]:
        """Of each stream [windows, labels]."""
        variant = self._engines[patch].variant
        return [
            smooth(one.logits.scores(patch, self._spec, variant.temperature), one.logits.silent, self._settings)
            for one in self.streams
        ]

    def evaluate(self, patch: PatchSize) -> StreamResult:
        """One size, with the settings' thresholds and with all others."""
        smoothed = self.compute_scores(patch)
        detections = [
            self._detect(one.logits, scores, [patch] * len(scores))
            for one, scores in zip(self.streams, smoothed, strict=True)
        ]
        release = self._settings.rules.release
        background = self._lay(smoothed, None)
        sweeps = {name: sweep(self._lay(smoothed, snr_db), release) for snr_db, name in self._snrs().items()}
        alone = sweep(background, release)
        counts = [sum(each, Counts()) for each in zip(*sweeps.values(), strict=True)] or alone
        hours = background.hours or sum(one.logits.samples for one in self.streams) / self._rate_hz / 3600
        false = [one.false / hours for one in (alone if background.hours else counts)]
        curve = Curve(THRESHOLDS, counts, false)
        return self._summarize(str(patch), detections).model_copy(
            update={
                "psds": compute_psds(self._lay(smoothed, *self._snrs()) if sweeps else background, release),
                "budgets": tuple(_budget_point(curve, sweeps, at) for at in BUDGETS_PER_HOUR if at * hours >= 1),
                "trade_off": _det_points(curve),
            }
        )

    def evaluate_switching(
        self, controller: GovernedController | FixedSize, conditions: Conditions, name: str
    ) -> StreamResult:
        """As a controller switches between windows; each engine takes as long as the governor's option of it says."""
        detections, elapsed_s = [], 0.0

        def choose(time_s: float) -> PatchSize:
            if elapsed_s + time_s > 0:  # it decides after each window
                seen = conditions.to_observation(elapsed_s + time_s)
                if isinstance(controller, GovernedController):
                    seen = replace(seen, latency_s=controller.options[controller.index].latency_s)
                controller.observe(seen)
            return controller.patch

        for one in self.streams:
            scores = {
                patch: one.logits.scores(patch, self._spec, self._engines[patch].variant.temperature)
                for patch in one.logits.logits
            }
            followed, chosen = follow(one.logits, scores, choose, self._rate_hz)
            detections.append(self._detect(one.logits, smooth(followed, one.logits.silent, self._settings), chosen))
            elapsed_s += one.logits.samples / self._rate_hz
        return self._summarize(name, detections)

    def _detect(self, stream: StreamLogits, smoothed: Float, patches: Sequence[PatchSize]) -> list[Sound]:
        labels = self._spec.labels
        return [
            Sound(labels[one.class_index], one.start / self._rate_hz, one.end / self._rate_hz)
            for one in detect(stream, smoothed, patches, self._spec, self._settings)
        ]

    @property
    def _mixes(self) -> bool:
        return any(one.snr_db is not None for one in self.streams)

    def _snrs(self) -> dict[float, str]:
        """SNRs of the mixes, the quietest background first, and their names."""
        found = {one.snr_db for one in self.streams if one.snr_db is not None}
        return {snr_db: "quiet" if snr_db == QUIET else f"{snr_db:g}" for snr_db in sorted(found, reverse=True)}

    def _lay(self, smoothed: Sequence[Float], *snrs_db: float | None) -> Timeline:
        """One time line of the streams of these SNRs; None stands for those that no clips were mixed into."""
        spec, settings = self._spec, self._settings
        streams = [
            StreamScores(compute_slots(one.logits, spec, settings) / self._rate_hz, scores, one.events)
            for one, scores in zip(self.streams, smoothed, strict=True)
            if one.snr_db in snrs_db
        ]
        return lay_end_to_end(streams, spec.labels)

    def _summarize(self, name: str, detections: Sequence[Sequence[Sound]]) -> StreamResult:
        pairs = list(zip(self.streams, detections, strict=True))
        counted = [(one, found) for one, found in pairs if one.snr_db is not None or not self._mixes]
        overlap = sum((count_by_overlap(found, one.events) for one, found in counted), Counts())
        onset = sum((count_by_onset(found, one.events) for one, found in counted), Counts())
        by_snr = {
            key: sum((count_by_overlap(found, one.events) for one, found in counted if one.snr_db == snr_db), Counts())
            for snr_db, key in self._snrs().items()
        }
        others = [_find_reported(one.others, found) for one, found in counted]
        return StreamResult(
            patch_size=name,
            precision=overlap.precision,
            recall=overlap.recall,
            f1=overlap.f1,
            onset_precision=onset.precision,
            onset_recall=onset.recall,
            onset_f1=onset.f1,
            events=overlap.events,
            recall_by_snr_db={key: Share.from_counts(counts.found, counts.events) for key, counts in by_snr.items()},
            others_reported=Share.from_counts(sum(map(sum, others)), sum(map(len, others))),
            false_events=_false_events([(one, found) for one, found in pairs if one.snr_db is None], self._rate_hz),
        )


def _find_reported(others: Sequence[Sound], detections: Sequence[Sound]) -> list[bool]:
    """Of each clip without a label whether any detection overlaps it."""
    return [any(one.start_s < other.end_s and other.start_s < one.end_s for one in detections) for other in others]


def _false_events(pairs: Sequence[tuple[ScoredStream, Sequence[Sound]]], rate_hz: int) -> tuple[Rate, ...]:
    """Of all kinds together, where there are several, and of each."""
    samples: Counter[str] = Counter()
    false: Counter[str] = Counter()
    for one, found in pairs:
        wrong = count_by_overlap(found, one.events).false
        for kind in {one.kind, ALL_KINDS}:
            samples[kind] += one.logits.samples
            false[kind] += wrong
    kinds = sorted(samples.keys() - {ALL_KINDS})
    rates = []
    for kind in [ALL_KINDS, *kinds] if len(kinds) != 1 else kinds:
        if not samples[kind]:
            continue
        hours = samples[kind] / rate_hz / 3600
        low, high = poisson_interval(false[kind])
        rates.append(
            Rate(
                kind=kind,
                hours=hours,
                false=false[kind],
                per_hour=false[kind] / hours,
                interval=(low / hours, high / hours),
            )
        )
    return tuple(rates)


def _budget_point(curve: Curve, sweeps: Mapping[str, Sequence[Counts]], per_hour: float) -> BudgetPoint:
    point = curve.find_lowest(per_hour)
    if point is None:
        return BudgetPoint(false_per_hour=per_hour, threshold=None)
    threshold, counts = point
    place = curve.thresholds.index(threshold)
    recalls = {name: counts[place].recall for name, counts in sweeps.items()}
    return BudgetPoint(
        false_per_hour=per_hour,
        threshold=threshold,
        recall=counts.recall,
        recall_by_snr_db={name: recall for name, recall in recalls.items() if recall is not None},
    )


def _det_points(curve: Curve) -> tuple[DetPoint, ...]:
    return tuple(
        DetPoint(threshold=threshold, false_per_hour=false, missed=1 - counts.recall)
        for threshold, counts, false in zip(curve.thresholds, curve.counts, curve.false_per_hour, strict=True)
        if counts.recall is not None
    )
