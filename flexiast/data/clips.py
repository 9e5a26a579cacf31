"""What a data set is: clips, their labels, and how they are split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.data.audio import Part
from flexiast.data.search import LeftOut
from flexiast.data.targets import LabelTargets
from flexiast.errors import DataError
from flexiast.objects import RemoteShard
from flexiast.text import preview

LABEL_SEPARATOR = ";"
"""Between the labels of one clip in a CSV: ``dog;rain``."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One file of a data set, or one part of a shard."""

    path: Path
    labels: tuple[str, ...]
    """None: background, in which nothing of interest sounds; such a clip may have any length."""
    split: str
    part: Part | None = None
    """Where it lies, if ``path`` is a shard."""
    span_s: tuple[float, float] | None = None
    """From where to where it lies in its recording, in seconds; None: all of it."""


class ShardPlace(NamedTuple):
    """A shard that clips lie in."""

    path: Path
    split: str
    remote: RemoteShard | None
    """The same in an object store, if it is there"""


@dataclass(frozen=True, eq=False)
class ShardClips(Sequence[Clip]):
    """Clips of shards, in columns: 2 million take 80 MB, and as objects more than 1 GB. A clip is made when it is read.

    Looking at every clip takes 2 µs each, so what concerns all of them looks at columns.
    """

    shards: Sequence[ShardPlace]
    numbers: NDArray[np.int32]
    """[clips] of each clip's shard"""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Where each clip lies in its shard, in bytes [clips]"""
    labels: tuple[str, ...]
    targets: LabelTargets
    """[clips, labels]"""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Clip: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, place: int | slice) -> Clip | tuple[Clip, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(len(self))[place])
        place = range(len(self))[place]
        shard, starts = self.shards[self.numbers[place]], self.targets.starts
        columns = self.targets.columns[starts[place] : starts[place + 1]].tolist()
        part = Part(int(self.offsets[place]), int(self.sizes[place]), shard.remote)
        return Clip(shard.path, tuple(self.labels[column] for column in columns), shard.split, part)

    def take(self, rows: NDArray[np.intp]) -> ShardClips:
        """Some of the clips."""
        targets = self.targets.take(rows)
        return replace(
            self, numbers=self.numbers[rows], offsets=self.offsets[rows], sizes=self.sizes[rows], targets=targets
        )

    @property
    def is_remote(self) -> bool:
        return self.shards[0].remote is not None


@dataclass(frozen=True)
class Dataset:
    """Clips and what they are labelled with."""

    clips: Sequence[Clip]
    labels: tuple[str, ...]
    task: Literal["single", "multi"]
    split_rule: str
    """Where the split comes from, in words: it belongs beside every figure."""
    hashed_from: Path | None = None
    """Where train and val were parted by a hash of each path: the folder that the paths begin at."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """By label, or "" for what has none: what the search of a folder did not take."""

    def split(self, name: str) -> Dataset:
        """The clips of one split; raises DataError when there are none."""
        rows = np.flatnonzero(self._is_in(name))
        if not len(rows):
            found = ", ".join(sorted(self.count_splits()))
            hint = "; name some clips so, or leave the column out: a fifth of each label is then val"
            raise DataError(f"no clip has split {name!r}; the data set has {found}{hint if name == 'val' else ''}")
        return replace(self.take(rows), hashed_from=None)  # a part of a split is not split again

    def with_clips(self, clips: Iterable[Clip]) -> Dataset:
        """The same with these clips of it."""
        return replace(self, clips=tuple(clips))

    def take(self, rows: NDArray[np.intp]) -> Dataset:
        """The same with some of its clips."""
        clips = self.clips
        return replace(
            self, clips=clips.take(rows) if isinstance(clips, ShardClips) else tuple(clips[row] for row in rows)
        )

    @property
    def labelled(self) -> Dataset:
        """Without the background."""
        return self.take(np.flatnonzero(self._count_each()))

    @property
    def background(self) -> Sequence[Clip]:
        """The clips that have no label."""
        return self.take(np.flatnonzero(self._count_each() == 0)).clips

    def count_splits(self) -> Counter[str]:
        """The clips of each split."""
        if not isinstance(self.clips, ShardClips):
            return Counter(clip.split for clip in self.clips)
        counts: Counter[str] = Counter()
        for shard, count in zip(self.clips.shards, np.bincount(self.clips.numbers).tolist(), strict=False):
            counts[shard.split] += count
        return +counts

    def count_labels(self, split: str | None = None) -> Counter[str]:
        """The clips of each label, of one split or of all."""
        part = self if split is None else self.take(np.flatnonzero(self._is_in(split)))
        if not isinstance(part.clips, ShardClips):
            return Counter(label for clip in part.clips for label in clip.labels)
        counts = part.clips.targets.count_clips().tolist()
        return +Counter(dict(zip(part.clips.labels, counts, strict=True)))

    def _is_in(self, split: str) -> NDArray[np.bool_]:
        """[clips], whether each is of a split."""
        if isinstance(self.clips, ShardClips):
            of_shards = np.array([shard.split == split for shard in self.clips.shards], bool)
            return of_shards[self.clips.numbers]
        return np.array([clip.split == split for clip in self.clips], bool)

    def _count_each(self) -> NDArray[np.int64]:
        """Labels of each clip [clips]."""
        if isinstance(self.clips, ShardClips):
            return self.clips.targets.counts
        return np.array([len(clip.labels) for clip in self.clips], np.int64)

    def label_targets(self, labels: tuple[str, ...]) -> LabelTargets:
        """[clips, labels], 1 where a clip has a label; raises DataError for a label that ``labels`` lacks."""
        index = {label: column for column, label in enumerate(labels)}
        for label in self.count_labels():
            if label not in index:
                path = next(clip.path for clip in self.clips if label in clip.labels)
                raise DataError(
                    f"{path} is labelled {label!r}, which the model does not know; it knows {preview(labels)}"
                )
        if not isinstance(self.clips, ShardClips):
            return LabelTargets.from_lists(
                [[index[label] for label in clip.labels] for clip in self.clips], len(labels)
            )
        columns = np.array([index.get(label, -1) for label in self.clips.labels], np.int32)
        targets = self.clips.targets
        return LabelTargets(targets.starts, columns[targets.columns], len(labels))

    def targets(self, labels: tuple[str, ...]) -> Float:
        """The same as an array."""
        return self.label_targets(labels)[:]
