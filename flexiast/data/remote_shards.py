"""Shards in an object store: copied to the local disk whole, in the order in which training needs them.

A clip is read from the copy of its shard where there is one, else by itself. So what looks at a few clips all over a
data set, as normalisation does, copies nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiast.data.clips import Dataset, ShardClips
from flexiast.objects import RemoteShard


@dataclass(frozen=True)
class ClipShards:
    """Where the clips of a data set lie."""

    shards: Sequence[RemoteShard]
    numbers: NDArray[np.int32]
    """[clips] of each clip's shard"""


def shards_of(dataset: Dataset) -> ClipShards | None:
    """The shards of a data set that lies in an object store; None for one that does not."""
    clips = dataset.clips
    if not isinstance(clips, ShardClips):
        return None
    used, first, numbers = np.unique(clips.numbers, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come among the clips
    places = [clips.shards[number].remote for number in used[order]]
    shards = [remote for remote in places if remote is not None]
    return ClipShards(shards, np.argsort(order)[numbers].astype(np.int32)) if shards else None


class ShardFetcher:
    """Copies shards in the background; one for each process that reads."""

    def __init__(self, shards: Sequence[RemoteShard]) -> None:
        self._shards = shards
        self._process = 0
        self._copies: dict[int, Future[None]] = {}

    def fetch(self, now: Iterable[int], following: Iterable[int]) -> None:
        """Wait for the copies of some shards, and begin those of others; raises RemoteError for the former."""
        if self._process != os.getpid():  # a forked worker has none of its parent's threads
            self._process, self._copies = os.getpid(), {}
            self._pool = ThreadPoolExecutor(1, "shards")
        wanted = list(now)
        self._copies = {
            number: self._copies.get(number) or self._pool.submit(self._shards[number].fetch)
            for number in (*wanted, *following)
        }
        for number in wanted:
            self._copies[number].result()
