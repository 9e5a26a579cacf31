"""What clips are labelled with, as numbers: the few ones of many zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Double, Float

Ints = NDArray[np.int64]
ROWS_AT_ONCE = 4096
"""Of which a dense copy is made."""


@dataclass(frozen=True)
class LabelTargets:
    """Targets [clips, width] of 0 and 1, of which the ones are stored: 2 million clips of 527 labels would take 4 GB.

    Rows are read as those of an array are, and are dense.
    """

    starts: Ints
    """[clips + 1]: where the ones of each clip begin in ``columns``, and at last their number"""
    columns: NDArray[np.int32]
    """[ones], of each clip in any order"""
    width: int

    @classmethod
    def from_lists(cls, columns: Sequence[Sequence[int]], width: int) -> LabelTargets:
        """From the columns of each clip."""
        starts = np.cumsum([0, *map(len, columns)], dtype=np.int64)
        return cls(starts, np.array([column for clip in columns for column in clip], np.int32), width)

    @classmethod
    def join(cls, parts: Sequence[LabelTargets], width: int) -> LabelTargets:
        """Of the clips of all parts, one after the other."""
        counts = np.concatenate([part.counts for part in parts])
        return cls(np.concatenate(([0], np.cumsum(counts))), np.concatenate([part.columns for part in parts]), width)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Float:
        """Of one clip [width], of several [clips, width]."""
        if isinstance(rows, int | np.integer):
            dense = np.zeros(self.width, np.float32)
            dense[self.columns[self.starts[rows] : self.starts[rows + 1]]] = 1
            return dense
        chosen = np.arange(len(self))[rows]
        found = self.take(chosen)
        dense = np.zeros((len(chosen), self.width), np.float32)
        dense[found.clips, found.columns] = 1
        return dense

    def take(self, rows: NDArray[np.intp]) -> LabelTargets:
        """Of some of the clips."""
        counts = self.counts[rows]
        starts = np.concatenate(([0], np.cumsum(counts)))
        places = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], counts)
        return LabelTargets(starts, self.columns[places], self.width)

    @property
    def counts(self) -> Ints:
        """Labels of each clip [clips]."""
        return np.diff(self.starts)

    @property
    def clips(self) -> Ints:
        """The clip of each one [ones]."""
        return np.repeat(np.arange(len(self)), self.counts)

    def count_clips(self) -> Ints:
        """Clips that have a one in each column [width]."""
        return np.bincount(self.columns, minlength=self.width)

    def find_first(self) -> Ints:
        """The first column of each clip that is 1 [clips]; 0 where none is."""
        first = np.full(len(self), self.width, np.int64)
        np.minimum.at(first, self.clips, self.columns)
        return np.where(self.counts > 0, first, 0)

    def with_nothing(self) -> LabelTargets:
        """[clips, width + 1]: the last is 1 where a clip has no label."""
        missing = self.counts == 0
        columns = np.insert(self.columns, self.starts[:-1][missing], self.width)
        starts = np.concatenate(([0], np.cumsum(self.counts + missing)))
        return LabelTargets(starts, columns, self.width + 1)


Targets = Float | LabelTargets
"""[clips, width]: shares of labels, or labels."""


def sum_columns(targets: Targets) -> Double:
    """[width]."""
    if isinstance(targets, LabelTargets):
        return targets.count_clips().astype(np.float64)
    return targets.sum(axis=0, dtype=np.float64)


def find_clips(targets: Targets, column: int) -> Ints:
    """The clips that are not 0 in a column."""
    if isinstance(targets, LabelTargets):
        return targets.clips[targets.columns == column]
    return np.flatnonzero(targets[:, column])


def hash_targets(targets: Targets) -> str:
    """SHA-256 of the dense rows in float32."""
    digest = sha256()
    for begin in range(0, len(targets), ROWS_AT_ONCE):
        digest.update(targets[begin : begin + ROWS_AT_ONCE].tobytes())
    return digest.hexdigest()
