"""What each step of a run trains on: its patch size and its clips, from (seed, step) alone.

So a resumed run continues to the same weights, every rank of a distributed run takes the same patch size, and no
generator state is ever saved.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args, overload

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
"""Of a run; AudioSet for 100 epochs has six million. More would be a slip of the keyboard."""


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


class Plan(Sequence[Step]):
    """All steps of a run over so many clips and epochs, each computed when it is asked for.

    Where all steps have equally many clips, as without ``batch_growth``, a step follows from its number and nothing is
    stored. Else where a step begins depends on the sizes drawn before it: the plan then draws them all when it is made
    and stores 10 bytes a step. docs/benchmarks/cluster.md has what both take.
    """

    def __init__(self, spec: Spec, training: Training, clips: int, epochs: int, *, started: bool = False) -> None:
        """``started`` where the run begins with the weights of another.

        Raises UsageError for a run of more than ``MOST_STEPS``.
        """
        self._examples = clips * epochs
        self._clips = {patch: min(step_clips(spec, training, patch), clips) for patch in training.patches}
        self._draw = PatchDraw(spec, training, started=started)
        self._seed, self._most = training.seed, max(self._clips.values())
        if self._examples > MOST_STEPS * self._most:
            raise UsageError(
                f"{epochs:,} epochs of {clips:,} clips are over {MOST_STEPS:,} steps of {self._most:,} clips; "
                "lower epochs or raise batch_size"
            )
        self._sizes, self._firsts = array("H"), array("q")
        self._is_uniform = len(set(self._clips.values())) == 1
        if not self._is_uniform:
            self._draw_sizes()
        self._length = -(-self._examples // self._most) if self._is_uniform else len(self._sizes)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, number: int) -> Step: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, number: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(number, slice):
            return tuple(map(self._step, range(self._length)[number]))
        return self._step(range(self._length)[number])

    @property
    def identity(self) -> str:
        """What all steps follow from, as JSON: plans of equal ones have equal steps."""
        clips = [[*patch, count] for patch, count in self._clips.items()]
        return json.dumps([self._seed, self._examples, clips, *self._draw.identity])

    def _step(self, number: int) -> Step:
        if self._is_uniform:
            first = number * self._most
            patch = self._draw(number, first / self._examples)
        else:
            first, patch = self._firsts[number], self._draw.patches[self._sizes[number]]
        return Step(patch, first, min(self._clips[patch], self._examples - first), first / self._examples)

    def _draw_sizes(self) -> None:
        """The size of every step and where it begins."""
        places = {patch: place for place, patch in enumerate(self._draw.patches)}
        first = 0
        while first < self._examples:
            patch = self._draw(len(self._sizes), first / self._examples)
            self._sizes.append(places[patch])
            self._firsts.append(first)
            first += self._clips[patch]


def step_clips(spec: Spec, training: Training, patch: PatchSize) -> int:
    """Clips in a step at this patch size: as many tokens as the base patch makes, or as many clips, or between."""
    retained = [min(spec.tokens(size), training.max_tokens or math.inf) for size in (spec.base_patch, patch)]
    return max(1, round(training.batch_size * (retained[0] / retained[1]) ** training.batch_growth))


def active_patches(spec: Spec, training: Training, progress: float, *, started: bool = False) -> tuple[PatchSize, ...]:
    """The sizes that are drawn from at this share of the run: the one nearest the base patch, then all.

    One size teaches a new network to hear sooner than many do, and what it has learnt there serves at all of them. One
    that starts from another has learnt to hear, and begins with all of them unless told.
    """
    if progress >= _base_first(training, started=started):
        return training.patches
    base = spec.tokens(spec.base_patch)
    return (min(training.patches, key=lambda patch: abs(math.log(spec.tokens(patch) / base))),)


def _base_first(training: Training, *, started: bool) -> float:
    """Share of the run with one size alone."""
    if training.base_first is not None:
        return training.base_first
    return 0.0 if started else BASE_FIRST


class PatchDraw:
    """The patch size of each step, equal on every rank and after every resume."""

    def __init__(self, spec: Spec, training: Training, *, started: bool = False) -> None:
        self.patches = training.patches
        self._seed = training.seed
        self._base_first = _base_first(training, started=started)
        self._early = active_patches(spec, training, 0.0, started=started)
        self._shares = np.cumsum(training.patch_weights or [1.0] * len(training.patches))

    def __call__(self, step: int, progress: float) -> PatchSize:
        """``progress`` is the share of the run before the step."""
        active = self.patches if progress >= self._base_first else self._early
        if len(active) == 1:
            return active[0]
        value = draw(self._seed, "patch", step).random() * self._shares[-1]
        return active[int(np.searchsorted(self._shares, value, side="right"))]

    @property
    def identity(self) -> list[object]:
        """What a draw depends on besides the seed, the step and the sizes, as JSON."""
        return [self._base_first, [list(patch) for patch in self._early], self._shares.tolist()]


def sample_evenly(count: int, most: int = MEASURED_CLIPS) -> list[int]:
    """Indices of ``most`` of so many clips, evenly spaced; of all where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


class Order:
    """The clip at each place of the run's endless row of epochs.

    An epoch sees each clip once, or, with probabilities [clips], draws as many clips by them.
    """

    def __init__(
        self, seed: int, clips: int, probabilities: Double | None = None, rank: int = 0, ranks: int = 1
    ) -> None:
        self._seed, self._clips, self._probabilities, self._rank, self._ranks = seed, clips, probabilities, rank, ranks
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, place: int) -> int:
        number, index = divmod(place, self._clips)
        if number not in self._epochs:
            if len(self._epochs) == 2:  # a step reaches into two epochs at the most
                del self._epochs[min(self._epochs)]
            self._epochs[number] = self._epoch(number)
        return int(self._epochs[number][index])

    def places(self, first: int, count: int) -> range:
        """Of a step's places, those of this rank."""
        return range(first, first + count)[self._rank :: self._ranks]

    def partners(self, first: int, count: int) -> range:
        """Of a step's places, those whose clips may be mixed into one of this rank's: all of them."""
        return range(first, first + count)

    def _epoch(self, number: int) -> NDArray[np.int64]:
        rng = draw(self._seed, "order", number)
        if self._probabilities is None:
            return rng.permutation(self._clips)
        return rng.choice(self._clips, size=self._clips, p=self._probabilities)


SHARDS_AT_ONCE = 4
"""Whose clips are mixed: an epoch goes through a rank's shards in such groups, each of which is on the local disk."""


class ShardOrder:
    """The clip at each place of a run whose clips lie in shards of an object store, for the places of one rank.

    In each epoch every shard belongs to one rank. A rank takes its shards in random order and mixes the clips of a few
    at a time. Ranks whose shards hold fewer clips than others' take some of them twice.
    """

    def __init__(
        self, seed: int, shards: NDArray[np.int32], probabilities: Double | None = None, rank: int = 0, ranks: int = 1
    ) -> None:
        """``shards`` [clips] numbers the shard of each clip; raises UsageError for fewer shards than ranks."""
        self._seed, self._probabilities, self._rank, self._ranks = seed, probabilities, rank, ranks
        self._by_shard = np.split(np.argsort(shards, kind="stable"), np.cumsum(np.bincount(shards))[:-1])
        if len(self._by_shard) < ranks:
            raise UsageError(
                f"{len(self._by_shard)} shards cannot be shared by {ranks} processes; write smaller ones, by "
                "`flexiast data shard --shard-size`, or train with fewer processes"
            )
        self._length = -(-len(shards) // ranks)
        self._epochs: dict[int, tuple[NDArray[np.int64], list[tuple[int, ...]], NDArray[np.int64]]] = {}

    def __getitem__(self, place: int) -> int:
        epoch, index = self._locate(place)
        return int(self._epoch(epoch)[0][index])

    def places(self, first: int, count: int) -> range:
        """Of a step's places, those of this rank."""
        return range(first + (self._rank - first) % self._ranks, first + count, self._ranks)

    def partners(self, first: int, count: int) -> range:
        """Of a step's places, those whose clips may be mixed into one of this rank's: its own.

        The others' lie in shards that this rank does not copy.
        """
        return self.places(first, count)

    def groups(self, place: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shards that the clip at a place is mixed with, and those that come after them."""
        epoch, index = self._locate(place)
        _, groups, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, index, side="right"))
        following = groups[number + 1] if number + 1 < len(groups) else self._epoch(epoch + 1)[1][0]
        return groups[number], following

    def _locate(self, place: int) -> tuple[int, int]:
        epoch, index = divmod(place // self._ranks, self._length)
        return epoch, index % len(self._epoch(epoch)[0])

    def _epoch(self, number: int) -> tuple[NDArray[np.int64], list[tuple[int, ...]], NDArray[np.int64]]:
        """Clips in their order, groups of shards, and where each group ends among the clips."""
        if number not in self._epochs:
            if len(self._epochs) == 2:  # a step reaches into two epochs at the most
                del self._epochs[min(self._epochs)]
            rng = draw(self._seed, "order", number)
            mine = rng.permutation(len(self._by_shard))[self._rank :: self._ranks].tolist()
            own = rng.spawn(self._ranks)[self._rank]
            groups = [tuple(mine[begin : begin + SHARDS_AT_ONCE]) for begin in range(0, len(mine), SHARDS_AT_ONCE)]
            clips = [self._mix(np.concatenate([self._by_shard[shard] for shard in group]), own) for group in groups]
            self._epochs[number] = np.concatenate(clips), groups, np.cumsum([len(each) for each in clips])
        return self._epochs[number]

    def _mix(self, clips: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """As an epoch of ``Order`` does, among these clips."""
        if self._probabilities is None:
            return rng.permutation(clips)
        weights = self._probabilities[clips]
        return rng.choice(clips, size=len(clips), p=weights / weights.sum())
