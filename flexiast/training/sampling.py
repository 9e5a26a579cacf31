"""What each step of a run trains on: its patch size and its clips, from (seed, step) alone.

So a resumed run continues to the same weights, every rank of a distributed run takes the same patch size, and no
generator state is ever saved.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double
from flexiast.errors import UsageError
from flexiast.spec import PatchSize, Spec
from flexiast.training.recipe import Training

BASE_FIRST = 0.4
"""Measured on 40 spoken commands, from scratch: with coarse sizes first 16 × 16 reached 76.8 %, this way 85.4 %; a
gradual spread from the base size gave the same at fine sizes and six points less at 48 × 48."""


MOST_STEPS = 10_000_000
"""A plan is made whole before the first step; AudioSet for 100 epochs has six million."""


MEASURED_CLIPS = 10_000
"""Normalisation and median length are known to a thousandth from so many; more might have to be decoded again."""

Purpose = Literal["patch", "order", "augment", "mix", "noise", "background"]


def draw(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments."""
    return np.random.default_rng((seed, get_args(Purpose).index(purpose), index))


class Step(NamedTuple):
    """One step of a run."""

    patch: PatchSize
    first: int
    """Place of its first clip in the run's endless row of epochs."""
    clips: int
    progress: float
    """Share of the run's examples seen before."""


def plan(spec: Spec, training: Training, clips: int, epochs: int, *, started: bool = False) -> tuple[Step, ...]:
    """All steps of a run over so many clips and epochs; ``started`` where it begins with the weights of another.

    Raises UsageError for a run of more than ``MOST_STEPS``.
    """
    steps: list[Step] = []
    first, examples = 0, clips * epochs
    largest = max(min(step_clips(spec, training, patch), clips) for patch in training.patches)
    if examples > MOST_STEPS * largest:
        raise UsageError(
            f"{epochs:,} epochs of {clips:,} clips are over {MOST_STEPS:,} steps of {largest:,} clips; "
            "lower epochs or raise batch_size"
        )
    while first < examples:
        progress = first / examples
        patch = draw_patch(spec, training, len(steps), progress, started=started)
        count = min(step_clips(spec, training, patch), examples - first, clips)
        steps.append(Step(patch, first, count, progress))
        first += count
    return tuple(steps)


def step_clips(spec: Spec, training: Training, patch: PatchSize) -> int:
    """Clips in a step at this patch size: as many tokens as the base patch makes, or as many clips, or between."""
    kept = [min(spec.tokens(size), training.max_tokens or math.inf) for size in (spec.base_patch, patch)]
    return max(1, round(training.batch_size * (kept[0] / kept[1]) ** training.batch_growth))


def active_patches(spec: Spec, training: Training, progress: float, *, started: bool = False) -> tuple[PatchSize, ...]:
    """The sizes that are drawn from at this share of the run: the one nearest the base patch, then all.

    One size teaches a new network to hear sooner than many do, and what it has learnt there serves at all of them. One
    that starts from another has learnt to hear, and begins with all of them unless told.
    """
    usual = 0.0 if started else BASE_FIRST
    if progress >= (usual if training.base_first is None else training.base_first):
        return training.patches
    base = spec.tokens(spec.base_patch)
    return (min(training.patches, key=lambda patch: abs(math.log(spec.tokens(patch) / base))),)


def draw_patch(spec: Spec, training: Training, step: int, progress: float, *, started: bool = False) -> PatchSize:
    """The patch size of one step, equal on every rank and after every resume."""
    active = active_patches(spec, training, progress, started=started)
    weights = dict(zip(training.patches, training.patch_weights or [1.0] * len(training.patches), strict=True))
    shares = np.cumsum([weights[patch] for patch in active])
    return active[int(np.searchsorted(shares, draw(training.seed, "patch", step).random() * shares[-1], side="right"))]


def sample_evenly(count: int, most: int = MEASURED_CLIPS) -> list[int]:
    """Indices of ``most`` of so many clips, evenly spaced; of all where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


class Order:
    """The clip at each place of the run's endless row of epochs.

    An epoch sees each clip once, or, with probabilities [clips], draws as many clips by them.
    """

    def __init__(self, seed: int, clips: int, probabilities: Double | None = None) -> None:
        self._seed, self._clips, self._probabilities = seed, clips, probabilities
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, place: int) -> int:
        number, index = divmod(place, self._clips)
        if number not in self._epochs:
            if len(self._epochs) == 2:  # a step reaches into two epochs at the most
                del self._epochs[min(self._epochs)]
            self._epochs[number] = self._epoch(number)
        return int(self._epochs[number][index])

    def _epoch(self, number: int) -> NDArray[np.int64]:
        rng = draw(self._seed, "order", number)
        if self._probabilities is None:
            return rng.permutation(self._clips)
        return rng.choice(self._clips, size=self._clips, p=self._probabilities)
