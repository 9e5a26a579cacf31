"""What a data set is: clips, their labels, and how they are split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from flexiast.arrays import Float
from flexiast.data.audio import Part
from flexiast.data.search import LeftOut
from flexiast.errors import DataError
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


@dataclass(frozen=True)
class Dataset:
    """Clips and what they are labelled with."""

    clips: tuple[Clip, ...]
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
        chosen = tuple(clip for clip in self.clips if clip.split == name)
        if not chosen:
            found = ", ".join(sorted({clip.split for clip in self.clips}))
            hint = "; name some clips so, or leave the column out: a fifth of each label is then val"
            raise DataError(f"no clip has split {name!r}; the data set has {found}{hint if name == 'val' else ''}")
        return replace(self, clips=chosen, hashed_from=None)  # a part of a split is not split again

    def with_clips(self, clips: Iterable[Clip]) -> Dataset:
        """The same with these clips of it."""
        return replace(self, clips=tuple(clips))

    @property
    def labelled(self) -> Dataset:
        """Without the background."""
        return self.with_clips(clip for clip in self.clips if clip.labels)

    @property
    def background(self) -> tuple[Clip, ...]:
        """The clips that have no label."""
        return tuple(clip for clip in self.clips if not clip.labels)

    def targets(self, labels: tuple[str, ...], *, nothing: bool = False) -> Float:
        """[clips, labels], 1 where a clip has a label; raises DataError for a label that ``labels`` lacks.

        With ``nothing``, for a model that answers so, one more column is 1 where a clip has none.
        """
        index = {label: column for column, label in enumerate(labels)}
        targets = np.zeros((len(self.clips), len(labels)), np.float32)
        for row, clip in enumerate(self.clips):
            for label in clip.labels:
                if label not in index:
                    raise DataError(
                        f"{clip.path} is labelled {label!r}, which the model does not know; it knows {preview(labels)}"
                    )
                targets[row, index[label]] = 1
        return with_nothing(targets) if nothing else targets


def with_nothing(targets: Float) -> Float:
    """[clips, labels] → [clips, labels + 1]: the last is 1 where a clip has no label."""
    return np.concatenate((targets, targets.max(axis=1, initial=0.0, keepdims=True) == 0), axis=1, dtype=np.float32)
