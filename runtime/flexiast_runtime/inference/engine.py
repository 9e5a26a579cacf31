"""What it takes to run one variant; backends differ, the two names `load_engines` and `run` do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize, Spec

Float = NDArray[np.float32]


class Engine(Protocol):
    """One variant, ready to run."""

    @property
    def variant(self) -> Variant: ...

    def run(self, features: Float) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        ...


class Stages(NamedTuple):
    """Where the time of one window on a GPU goes, in seconds; called as trtexec calls them."""

    enqueue_s: float
    """Of the processor, to hand the work over"""
    h2d_s: float
    """Features to the GPU"""
    compute_s: float
    d2h_s: float
    """Logits from it"""


@runtime_checkable
class StagedEngine(Engine, Protocol):
    """An engine whose work goes through stages, and that is prepared between windows."""

    @property
    def cuda_graph(self) -> bool:
        """Whether a window is launched as one graph."""
        ...

    def prepare(self) -> None: ...

    def stages(self, features: Float) -> Stages:
        """Of one window, features [1, window_frames, mels]."""
        ...


class Engines:
    """The engines of one bundle; choosing another one is a look-up."""

    def __init__(self, manifest: Manifest, engines: dict[PatchSize, Engine]) -> None:
        self.manifest = manifest
        self._engines = engines

    @property
    def spec(self) -> Spec:
        return self.manifest.spec

    @property
    def patches(self) -> tuple[PatchSize, ...]:
        return tuple(self._engines)

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines.values())

    def __getitem__(self, patch: PatchSize) -> Engine:
        return self._engines[patch]

    def prepare(self, patch: PatchSize) -> None:
        """Do now what the next run of this size would have to do first; asked between windows. Here it is nothing."""

    def close(self) -> None:
        """Give back what the engines hold; none can be run any more."""
        self._engines.clear()

    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]; makes a bundle a Classifier."""
        return self[patch].run(features)

    def scores(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → scores [batch, labels] in [0, 1], on one scale for all variants."""
        engine = self[patch]
        return label_scores(engine.run(features) / np.float32(engine.variant.temperature), self.spec)


def label_scores(logits: Float, spec: Spec) -> Float:
    """Logits [..., classes] → scores [..., labels]: what a class for nothing takes of the whole is left out."""
    return scores(logits, spec.task)[..., : len(spec.labels)]


def scores(logits: Float, task: str) -> Float:
    """Logits [..., classes] → scores in [0, 1]: softmax for one label, sigmoid for several."""
    if task == "multi":
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: Float = exponent / exponent.sum(axis=-1, keepdims=True)
    return normalised
