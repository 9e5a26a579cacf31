"""What a finished run is worth: its figures beside the baseline and the linear head, and what would help most."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexiast.arrays import Float
from flexiast.checkpoint import load_checkpoint
from flexiast.data.targets import sum_columns
from flexiast.evaluation.evaluate import PatchResult, predict
from flexiast.evaluation.per_label import LabelResult, confusion_matrix, label_results
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize, Spec
from flexiast_cli.commands.train.prepare import Prepared

WEAK = 3
"""Labels that are named."""

ENOUGH_CLIPS = 40
"""Training clips of a label from which on more of them seldom help most."""


@dataclass(frozen=True)
class Summary:
    """The best weights of a run on its validation clips."""

    spec: Spec
    results: Sequence[PatchResult]
    best_size: PatchSize
    logits: Float
    """At the best size [clips, classes], background not counted."""
    targets: Float
    """[clips, labels]."""
    baseline: float | None
    head: float | None
    """Mean over the sizes of the linear head on the frozen start."""
    head_is_best: bool
    """Nothing that was learnt afterwards was better."""
    clips_by_label: dict[str, int]
    """That train."""
    by_timbre: bool = False
    """The average spectrum separates the labels far better than the start did."""

    @property
    def mean(self) -> float:
        return float(np.mean([result.metric for result in self.results]))

    @property
    def is_perfect(self) -> bool:
        """Nothing can be measured as better."""
        return all(result.merit == 1 for result in self.results)

    @property
    def weakest(self) -> list[LabelResult]:
        """Labels with the lowest recall, the weakest first; empty for clips with several labels."""
        if self.spec.task == "multi":
            return []
        found = [
            one
            for one in label_results(confusion_matrix(self.logits, self.targets), self.spec.labels)
            if one.recall is not None
        ]
        return sorted((one for one in found if (one.recall or 0) < 1), key=lambda one: one.recall or 0)[:WEAK]


def summarize_run(run: Path, prepared: Prepared) -> Summary:
    """The figures of the best checkpoint, and its answers to every clip at the size that is right most often."""
    checkpoint = load_checkpoint(run / "checkpoint.safetensors")
    spec, clips = checkpoint.spec, prepared.validation_clips
    results = [PatchResult.model_validate_json(json.dumps(result)) for result in checkpoint.info["validation"]]
    best = max(results, key=lambda result: (result.metric, -result.gmac)).patch_size
    classifier = TorchClassifier(load_model(checkpoint))
    ((_, logits),) = predict(classifier, prepared.validation, prepared.validation_targets, [best])
    counts = sum_columns(prepared.targets).tolist()
    return Summary(
        spec,
        results,
        best,
        logits[:clips],
        prepared.validation_targets[:clips],
        prepared.baseline,
        _read_head(run),
        head_is_best=checkpoint.info.get("step") == 0,
        by_timbre=bool(checkpoint.info.get("by_timbre")),
        clips_by_label={label: int(count) for label, count in zip(spec.labels, counts, strict=False)},
    )


def _read_head(run: Path) -> float | None:
    """Mean metric over the sizes that the run measured before it learnt; None where it did not begin with a head."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    return float(np.mean(list(first["metric"].values()))) if first.get("step") == 0 else None


def compare_ways(summary: Summary) -> list[tuple[str, float]]:
    """Each way to answer and its metric, this run's last."""
    ways = [("log-mel statistics and logistic regression, two seconds", summary.baseline)]
    this_run = "this run, which keeps that head" if summary.head_is_best else "this run, mean over its sizes"
    ways += [("linear head on the frozen start", summary.head), (this_run, summary.mean)]
    return [(way, value) for way, value in ways if value is not None]


def advise(summary: Summary, *, background: bool) -> list[str]:
    """What would help most, the most helpful first."""
    notes = []
    noise = math.sqrt(summary.mean * (1 - summary.mean) / len(summary.targets))
    if summary.baseline is not None and summary.baseline > summary.mean + noise:
        remedy = "labels differ in level or timbre more than in what sounds. Record all of them alike, and more of each"
        notes.append(
            f"Logistic regression on log-mel statistics is better ({summary.baseline:.2f} over {summary.mean:.2f}): "
            + ("record more of each label" if summary.by_timbre else remedy)
        )
    if summary.by_timbre:
        notes.append(
            "The labels differ in timbre. If they are not voices or machines, each was probably recorded in another "
            "place or with another microphone, and the model has learnt that: record them all alike"
        )
    if summary.head_is_best and summary.is_perfect:
        notes.append(
            f"The linear head on the frozen start is right about all {len(summary.targets)} validation clips, so it is "
            "kept: they cannot show what learning more would bring. Validate on more clips, or on harder ones"
        )
    elif summary.head_is_best:
        notes.append("Nothing that was learnt on top beat the linear head, so it is kept; more clips would help most")
    for weak in summary.weakest[:1]:
        count = summary.clips_by_label[weak.label]
        confused = f", often taken for {weak.confused_with!r}" if weak.confused_with else ""
        more = f"record more than its {count} training clips" if count < ENOUGH_CLIPS else "listen to its clips again"
        notes.append(f"{weak.label!r} is weakest ({weak.recall:.0%} found{confused}): {more}")
    if not background:
        notes.append("A background would spare false alarms: --background room.wav")
    return notes
