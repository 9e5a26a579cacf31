"""Measuring a run on its validation clips: when, and by all ranks together. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flexiast.arrays import Float
from flexiast.evaluation.evaluate import PatchResult, Windows, evaluate
from flexiast.networks import Model, TorchClassifier
from flexiast.spec import PatchSize
from flexiast.training.distributed import World
from flexiast.training.recipe import Training

MEASURED_SHARE = 0.2
"""Of what learning costs, in multiply-accumulates, that measuring may cost where a recipe does not say how often."""

AFFORDABLE_GMAC = 1_500.0
"""Of measuring a start before it learns: under a minute of one core, whatever learning costs."""

BACKWARD = 3.0
"""Times the multiply-accumulates of a forward pass that a training step takes."""


class _StopRequestedError(Exception):
    """A measurement is given up."""


class _StoppableClassifier(TorchClassifier):
    """One that gives up before its next batch where it is asked to."""

    def __init__(self, model: Model, is_stopping: Callable[[], bool]) -> None:
        super().__init__(model)
        self._is_stopping = is_stopping

    def logits(self, features: Float, patch: PatchSize) -> Float:
        if self._is_stopping():
            raise _StopRequestedError
        return super().logits(features, patch)


def choose_steps(training: Training, total: int, learning_gmac: float, measuring_gmac: float) -> set[int]:
    """Of so many steps those that are measured after, evenly spaced; the last is one of them.

    Costs are those of the forward passes of the whole run, and of measuring once.
    """
    count = training.evaluations
    if "evaluations" not in training.model_fields_set:
        count = max(1, min(count, round(MEASURED_SHARE * BACKWARD * learning_gmac / measuring_gmac)))
    return {round(total * (number + 1) / count) for number in range(count)}


def is_affordable(learning_gmac: float, measuring_gmac: float) -> bool:
    """Whether a start is worth measuring before it learns."""
    return measuring_gmac <= max(AFFORDABLE_GMAC, MEASURED_SHARE * BACKWARD * learning_gmac)


def measure(
    model: Model,
    validation: Windows,
    targets: Float,
    patches: Sequence[PatchSize],
    world: World,
    is_stopping: Callable[[], bool],
) -> list[PatchResult] | None:
    """The result of each size, of which each rank measures some; None where one of them was asked to stop meanwhile.

    It gives up between two batches, each of which takes a second at the most.
    """
    classifier = _StoppableClassifier(model, is_stopping)
    results: list[PatchResult] | None
    try:
        results = evaluate(classifier, validation, targets, patches[world.rank :: world.ranks])
    except _StopRequestedError:
        results = None
    found: dict[PatchSize, PatchResult] = {}
    for share in world.gather_objects(results):
        if share is None:
            return None
        found |= {result.patch_size: result for result in share}
    return [found[patch] for patch in patches]
