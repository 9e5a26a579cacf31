"""What a run starts from: a named checkpoint, the shipped one whose ears suit the clips best, or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.data.targets import LabelTargets
from flexiast.data.waveforms import Waveforms
from flexiast.evaluation.evaluate import score
from flexiast.spec import PRESETS, Spec
from flexiast.training.batches import LogMels
from flexiast.training.linear_head import compute_statistics, fit_head
from flexiast.training.recipe import Augment, Recipe
from flexiast.training.sampling import sample_evenly
from flexiast.training.warm_start import COMPARED_CLIPS, compare_starts, compare_statistics
from flexiast_runtime.catalog import find_checkpoint, find_licence, list_shipped

if TYPE_CHECKING:
    from rich.console import Console

SCRATCH = "none"
"""In the place of a start: random weights."""

RESTRICTED_MARGIN = 0.03
"""By which a start whose licence forbids commercial use must be better: the weights of the run inherit it."""

RESTRICTED_CLIPS = 3
"""Compared clips that such a start must also be right about more: of few clips one or two are chance."""

TIMBRE_ERRORS = 0.5
"""Of a start's errors, at most so many may the average spectrum make where timbre separates the labels."""

TIMBRE_MARGIN, TIMBRE_CLIPS = 0.05, 3
"""By which it must be better as well: of few clips one or two are chance."""

BASELINE_CLIPS = 2_000
"""That the baseline learns from, at the most: it takes two seconds."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from."""

    name: str
    """As given, or the name of a shipped one."""
    checkpoint: Checkpoint
    metric: float | None = None
    """Of a linear head on its frozen embeddings, cross-validated; None where it was not compared with others."""

    @property
    def licence(self) -> str | None:
        """Of the weights, which those of the run inherit, in short; None where it is not known."""
        licence = find_licence(self.checkpoint.info.get("licence"), find_checkpoint(self.name))
        found = re.match(r"CC [A-Z-]+ \d\.\d", licence or "")
        if found is None:
            return licence
        return found[0] + (", not for commercial use" if "-NC" in found[0] else "")


def list_candidates(init: str | None, recipe: Recipe, *, by_default: bool) -> dict[str, Checkpoint]:
    """The named start, or, ``by_default``, every shipped model with the run's network; empty for scratch."""
    if init == SCRATCH or (init is None and not by_default):
        return {}
    if init is not None:
        return {init: load_checkpoint(find_checkpoint(init), start=True)}
    shipped = {name: load_checkpoint(find_checkpoint(name), start=True) for name in list_shipped()}
    size = recipe.model.size
    return {
        name: candidate
        for name, candidate in shipped.items()
        if size is None or candidate.spec.network == PRESETS[size]
    }


def choose_start(
    candidates: Mapping[str, Checkpoint],
    recipe: Recipe,
    spec: Spec,
    waveforms: Waveforms,
    targets: LabelTargets,
    console: Console,
) -> Start | None:
    """The candidate on whose frozen embeddings a linear head is best; a single one is taken as it is.

    ``spec`` is that of a run from scratch.
    """
    if len(candidates) <= 1:
        return next((Start(name, candidate) for name, candidate in candidates.items()), None)
    specs = {name: (each, spec_from(recipe, spec, each)) for name, each in candidates.items()}
    found = compare_starts(specs, waveforms, targets)
    if not found:
        return None
    licences = {name: Start(name, candidates[name]).licence or "" for name in found}
    margin = find_margin(RESTRICTED_MARGIN, RESTRICTED_CLIPS, len(targets))
    best = max(found, key=lambda name: found[name] - (margin if "-NC" in licences[name] else 0.0))
    terms = licences[best] and f" ({licences[best]})"
    others = ", ".join(f"{name} {found[name]:.2f}" for name in sorted(found, key=lambda name: -found[name]))
    console.print(
        f"Starts from {best}{terms}: a linear head on its frozen embeddings is best, cross-validated on the "
        f"training clips ({others}). --init names another start, --init {SCRATCH} none",
        markup=False,
        soft_wrap=True,
    )
    return Start(best, candidates[best], found[best])


def is_timbre_task(
    start: Start, spec: Spec, waveforms: Waveforms, log_mels: LogMels, targets: LabelTargets, console: Console
) -> bool:
    """Whether the average spectrum separates the labels far better than the start does, as it does voices.

    Prints so. ``spec`` is the run's. A start that was trained on such labels passes that on.
    """
    if start.checkpoint.info.get("by_timbre"):
        console.print(
            f"{start.name} was trained on labels that differ in timbre: speed and filter augmentation stay off",
            markup=False,
            soft_wrap=True,
        )
        return True
    if spec.task == "multi" or spec.network.kind != "transformer":
        return False
    metric = start.metric
    if metric is None:
        metric = compare_starts({start.name: (start.checkpoint, spec)}, waveforms, targets).get(start.name)
    if metric is None:
        return False
    average = compare_statistics(spec, log_mels, targets)
    margin = find_margin(TIMBRE_MARGIN, TIMBRE_CLIPS, len(targets))
    if average - metric < margin or (1 - average) > TIMBRE_ERRORS * (1 - metric) + 1e-9:
        return False
    console.print(
        f"The average spectrum separates these labels better than the pretrained model does (accuracy {average:.2f} "
        f"against {metric:.2f}, cross-validated). For voices or machines that is expected: speed and filter "
        "augmentation are off, and all layers learn at one rate. Train with the microphone that you will deploy. For "
        "anything else, each label was probably recorded in another place or with another microphone: record them all "
        "alike",
        style="yellow",
        markup=False,
        soft_wrap=True,
    )
    return True


def find_margin(share: float, count: int, clips: int) -> float:
    """By how much one way must be better than another: by this share and by so many of the clips compared."""
    # Half a clip less than the least that counts: a difference of whole clips is on one side of it, however rounded.
    return max(share, (count - 0.5) / max(1, min(clips, COMPARED_CLIPS)))


def spec_from(recipe: Recipe, spec: Spec, start: Checkpoint) -> Spec:
    """A run's spec with the network, base patch, PCEN and kernel resize of its start where the recipe says nothing.

    Raises UsageError where the start's PCEN and the recipe's front end exclude each other.
    """
    return Spec.validate_fields(**(dict(spec) | recipe.model.fields(start.spec)))


def measure_baseline(
    spec: Spec, log_mels: LogMels, targets: LabelTargets, validation: Waveforms, validation_targets: Float
) -> float:
    """Metric of logistic regression on mean and spread of each log-mel bin, trained and validated as the run is."""
    clips, frames = sample_evenly(len(log_mels), BASELINE_CLIPS), spec.frontend.window_frames
    still = LogMels(validation, spec.frontend, Augment(speed=0.0), memory_bytes=0)
    head = fit_head(compute_statistics(log_mels, clips, frames), targets[clips], spec.task, clips=len(clips))
    logits = head(compute_statistics(still, range(len(validation)), frames))
    known = validation_targets.any(axis=1)
    return score(np.asarray(logits[known]), validation_targets[known], spec.task)
