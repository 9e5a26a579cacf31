"""The engine's interface, which every backend implements, and the engines of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flexiast.manifest import Manifest, Variant
from flexiast.spec import PatchSize, Spec

Float = NDArray[np.float32]


class Engine(Protocol):
    """Runs one variant."""

    @property
    def variant(self) -> Variant: ...

    def run(self, features: Float) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        ...


class Stages(NamedTuple):
    """Times of one window on a GPU, in seconds, with trtexec's names."""

    enqueue_s: float
    """Time of the processor to enqueue the work"""
    h2d_s: float
    """Features to the GPU"""
    compute_s: float
    d2h_s: float
    """Logits from it"""


@runtime_checkable
class StagedEngine(Engine, Protocol):
    """An engine on a GPU: it runs in stages, and prepares a switch between windows."""

    @property
    def cuda_graph(self) -> bool:
        """Whether a window is launched as one CUDA graph."""
        ...

    def prepare(self) -> None: ...

    def stages(self, features: Float) -> Stages:
        """Measure the stages of one window, features [1, window_frames, mels]."""
        ...


class Engines:
    """The loaded engines of a bundle. Switching between them is a look-up."""

    bundle_sha256: str | None = None
    """Of the bundle that they were loaded from; events carry it. None for engines of no bundle"""

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
        """Prepare the next run of this size; called between windows. A backend without such work does nothing."""

    def close(self) -> None:
        """Release the engines' resources. They cannot be run afterwards."""
        self._engines.clear()

    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]. Implements Classifier."""
        return self[patch].run(features)

    def scores(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → scores [batch, labels] in [0, 1], comparable between variants."""
        engine = self[patch]
        return label_scores(engine.run(features) / np.float32(engine.variant.temperature), self.spec)


def label_scores(logits: Float, spec: Spec) -> Float:
    """Logits [..., classes] → scores [..., labels], without the background class, if the model has one."""
    return scores(logits, spec.task)[..., : len(spec.labels)]


def scores(logits: Float, task: str) -> Float:
    """Logits [..., classes] → scores in [0, 1]: softmax for one label, sigmoid for several."""
    if task == "multi":
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: Float = exponent / exponent.sum(axis=-1, keepdims=True)
    return normalised
