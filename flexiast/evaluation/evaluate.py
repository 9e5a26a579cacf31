"""One metric per patch size: accuracy, or mean average precision where clips have several labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.data.waveforms import memory_budget
from flexiast.errors import DataError
from flexiast.evaluation.per_label import confusion_matrix, find_repeated_answer, wilson_interval
from flexiast.frontend import AUDIBLE_DB, Frontend
from flexiast.spec import FrontendSpec, Patch, PatchSize, Spec, Value

BATCH_TOKENS = 8192
"""Tokens classified at once: batches grow as patches grow."""


class Classifier(Protocol):
    """Anything that classifies windows at many patch sizes: a PyTorch model or a bundle's engines."""

    @property
    def spec(self) -> Spec: ...

    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        ...


class PatchResult(Value):
    """Metrics and cost of one patch size."""

    patch_size: Patch
    tokens: int
    gmac: float
    accuracy: float | None = None
    """Share of the clips with a label whose best class is right, which nothing is not; only of one label a clip."""
    accuracy_interval: tuple[float, float] | None = None
    """95 %: so far the accuracy on other clips of the kind may be from that on these."""
    repeated_answer: str | None = None
    """The label that nearly every clip was answered with, although the clips have others."""
    mean_average_precision: float | None = None
    """Only where clips have several labels."""
    specificity: float | None = None
    """Share of the clips without a label in which no score reaches 0.5; only where there are some."""

    def document(self) -> dict[str, Any]:
        """As JSON, without the metric that the task does not have."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def metric(self) -> float:
        value = self.accuracy if self.accuracy is not None else self.mean_average_precision
        assert value is not None  # one of the two is always set
        return value

    @property
    def merit(self) -> float:
        """What training chooses the best weights by: the mean of metric and specificity, where it has both."""
        return self.metric if self.specificity is None else (self.metric + self.specificity) / 2


class Windows:
    """The windows of many clips, side by side, and how much each counts in its clip.

    Those in which nothing is audible are left out unless told: most of a recording may be the room without its label.

    A slice of it, of step 1, is features [windows, window_frames, mels]. They are kept as far as memory allows; the
    others are computed at each access, to the same values, since each window is computed by itself.
    """

    def __init__(
        self, waveforms: Sequence[Float], frontend: Frontend, *, every: bool = False, memory_bytes: int | None = None
    ) -> None:
        """``every`` window of a clip, also one in which nothing is audible."""
        self._waveforms, self._frontend = waveforms, frontend
        room = memory_budget() // 2 if memory_bytes is None else memory_bytes
        self._cached: list[Float] = []
        held: list[list[int]] = []
        numbers: list[NDArray[np.intp]] = []
        for waveform in waveforms:
            found = frontend.spec.windows_in(len(waveform))
            chosen = np.arange(len(found)) if every or len(found) == 1 else _find_audible(waveform, frontend.spec)
            numbers.append(chosen)
            held.append([max(1, found[number]) for number in numbers[-1]])
            for number in numbers[-1]:
                if room > 0:
                    self._cached.append(self._window(waveform, int(number)))
                    room -= self._cached[-1].nbytes
        counts = np.array([len(clip) for clip in held])
        frames = np.concatenate(held).astype(np.float32)
        self._numbers = np.concatenate(numbers)
        self._clips = np.repeat(np.arange(len(counts)), counts)
        self._starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        self._weights: Float = frames / np.repeat(np.add.reduceat(frames, self._starts), counts)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, chosen: slice) -> Float:
        rows = range(len(self))[chosen]
        cached = [self._cached[row] for row in rows if row < len(self._cached)]
        return np.stack([*cached, *self._compute_features(rows[len(cached) :])])

    def _compute_features(self, rows: Sequence[int]) -> Iterator[Float]:
        for clip, group in groupby(rows, lambda row: int(self._clips[row])):
            waveform = self._waveforms[clip]
            for row in group:
                yield self._window(waveform, int(self._numbers[row]))

    def _window(self, waveform: Float, number: int) -> Float:
        spec = self._frontend.spec
        return self._frontend.window(waveform[number * spec.window_frames * spec.hop_samples :])

    def clip_mean(self, logits: Float) -> Float:
        """Logits per window → their mean per clip, each window weighing as much as it holds of the clip."""
        means: Float = np.add.reduceat(logits * self._weights[:, None], self._starts, axis=0)
        return means


def _find_audible(waveform: Float, spec: FrontendSpec) -> NDArray[np.intp]:
    """Numbers of a clip's windows that hold 10 ms within ``AUDIBLE_DB`` of the loudest; one at least."""
    blocks = waveform[: len(waveform) // spec.hop_samples * spec.hop_samples].reshape(-1, spec.hop_samples)
    energy = blocks.var(axis=1, dtype=np.float64)  # without an offset of the recorder
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-AUDIBLE_DB / 10))
    last = len(spec.windows_in(len(waveform))) - 1  # blocks are a few more than frames
    return np.unique(np.minimum(loud // spec.window_frames, last))


def evaluate(
    classifier: Classifier,
    clips: Windows,
    targets: Float,
    patches: Sequence[PatchSize],
    *,
    progress: Callable[[Sequence[PatchSize]], Iterable[PatchSize]] = iter,
) -> list[PatchResult]:
    """The metric of each patch size over the clips that have labels, the specificity over those that have none.

    ``targets`` are [clips, labels]. Raises DataError for clips with several labels and a model of one label a clip, and
    where no clip has a label.
    """
    logits = predict(classifier, clips, targets, patches, progress=progress)
    return [summarize(classifier.spec, patch, found, targets) for patch, found in logits]


def predict(
    classifier: Classifier,
    clips: Windows,
    targets: Float,
    patches: Sequence[PatchSize],
    *,
    progress: Callable[[Sequence[PatchSize]], Iterable[PatchSize]] = iter,
) -> Iterator[tuple[PatchSize, Float]]:
    """Each patch size and its logits [clips, classes]; raises DataError as ``evaluate`` does."""
    check_targets(classifier.spec, targets)
    for patch in progress(patches):
        yield patch, clips.clip_mean(classify(classifier, clips, patch))


def check_targets(spec: Spec, targets: Float) -> None:
    """Raise DataError for targets [clips, labels] that a model cannot be right about."""
    if spec.task == "single" and (targets.sum(axis=1) > 1).any():
        raise DataError("some clips have several labels, but the model knows one label a clip; train it on such clips")
    if not targets.any():
        raise DataError("no clip has a label, so there is nothing to be right about; give some that have")


def summarize(spec: Spec, patch: PatchSize, logits: Float, targets: Float) -> PatchResult:
    """The result of one patch size, from logits [clips, classes] and targets [clips, labels]."""
    background = ~targets.any(axis=1)
    cost: dict[str, Any] = {"patch_size": patch, "tokens": spec.tokens(patch), "gmac": spec.gmac(patch)}
    if background.any():
        cost["specificity"] = specificity(logits[background], spec)
        logits, targets = logits[~background], targets[~background]
    value = score(logits, targets, spec.task)
    if spec.task == "multi":
        return PatchResult(**cost, mean_average_precision=value)
    return PatchResult(
        **cost,
        accuracy=value,
        accuracy_interval=wilson_interval(value, len(targets)),
        repeated_answer=find_repeated_answer(confusion_matrix(logits, targets), spec.labels),
    )


def classify(classifier: Classifier, features: Float | Windows, patch: PatchSize) -> Float:
    """Features [windows, window_frames, mels] → logits [windows, classes], in batches of even cost."""
    batch = max(1, BATCH_TOKENS // classifier.spec.tokens(patch))
    return np.concatenate([classifier.logits(features[i : i + batch], patch) for i in range(0, len(features), batch)])


def metric_name(task: Literal["single", "multi"]) -> str:
    return "accuracy" if task == "single" else "mean_average_precision"


def specificity(logits: Float, spec: Spec) -> float:
    """Logits [clips, classes] of clips without a label → share in which every label's score stays below a half."""
    labels = logits[:, : len(spec.labels)].astype(np.float64)
    if spec.task == "single":
        best = logits.max(axis=1, keepdims=True).astype(np.float64)
        labels = np.exp(labels - best) / np.exp(logits - best).sum(axis=1, keepdims=True)
        return float((labels.max(axis=1) < 0.5).mean())
    return float((labels.max(axis=1) < 0).mean())


def score(logits: Float, targets: Float, task: Literal["single", "multi"]) -> float:
    """Accuracy of a single-label task, mean average precision of a multi-label one; both in [0, 1].

    Logits may have a class more than targets [clips, labels], that for nothing: where it is best, the label is missed.
    """
    if task == "single":
        return float((logits.argmax(1) == targets.argmax(1)).mean())
    present = targets.any(axis=0)  # a class that never occurs has no precision
    return float(np.mean([average_precision(logits[:, c], targets[:, c]) for c in np.flatnonzero(present)]))


def average_precision(scores: Float, target: Float) -> float:
    """Mean precision at the rank of each positive; equal scores share the worst rank among them."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(target[order] > 0)
    last_of_ties = np.searchsorted(-ranked, -ranked, side="right")  # positives with equal scores stand together
    precision = hits[last_of_ties - 1] / last_of_ties
    return float(precision[target[order] > 0].mean())


def average_precisions(logits: Float, targets: Float, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Of each label, from logits and targets [clips, classes], as JSON: clips and average precision, None without."""
    return [
        {
            "label": label,
            "clips": int(targets[:, index].sum()),
            "average_precision": average_precision(logits[:, index], targets[:, index])
            if targets[:, index].any()
            else None,
        }
        for index, label in enumerate(labels)
    ]
