"""Learning a teacher's embedding, alone or with its scores, next to or instead of labels.

The student's embedding reaches the teacher's through one linear layer that is thrown away, so that the student learns
what lies behind the scores too: there is more to learn from a thousand numbers than from a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import ModelError
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.networks import Embedder, Model, weights_of
from flexiast.spec import PatchSize, Spec
from flexiast.training.external_teacher import Answers, cache_answers, split_overlapping

FARTHEST = 5.0
"""Standard deviations at which a teacher's embedding is clipped: a unit that fires once in a thousand clips would
otherwise outweigh all others."""


class EmbeddingTargets:
    """The teachers' embeddings of the training clips, of mean 0 and spread 1 in every dimension."""

    def __init__(self, embeddings: Sequence[Float]) -> None:
        """``embeddings`` are [clips, width] of each teacher; a width may be 0. Raises ModelError where all are."""
        standard = [one for one in map(_standardise, embeddings) if one.shape[1]]
        if not standard:
            raise ModelError("the teachers answer every clip alike, so there is nothing to learn from them")
        self.values: Float = np.concatenate(standard, axis=1, dtype=np.float32)
        """[clips, width]."""
        shares = [np.full(one.shape[1], 1 / (len(standard) * one.shape[1])) for one in standard]
        self.weights: Float = np.concatenate(shares, dtype=np.float32)
        """Of each dimension in the squared error [width]: every teacher counts alike, however wide it is."""


def _standardise(embedding: Float) -> Float:
    """[clips, width] without the dimensions that are the same for all clips."""
    mean, spread = embedding.mean(axis=0), embedding.std(axis=0)
    alive = spread > 1e-5 * np.abs(mean) + 1e-12  # the spread of rounding alone is smaller
    standard: Float = np.clip((embedding[:, alive] - mean[alive]) / spread[alive], -FARTHEST, FARTHEST)
    return standard


def vectors_to_learn(answers: Answers) -> Float:
    """A teacher's embedding [clips, width]; of a teacher that has none, the logits of its scores."""
    if answers.embedding.shape[1]:
        return answers.embedding
    scores = np.clip(answers.scores, 1e-6, 1 - 1e-6)
    logits: Float = np.log(scores / (1 - scores))
    return logits


def embed_clips(
    teacher: FlexiAST,
    patch: PatchSize,
    clips: Sequence[Float],
    cache: Path,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Float:
    """A checkpoint's embedding of each clip [clips, width], the mean over windows that overlap by a half.

    Stored in ``cache`` as an external teacher's answers are.
    """
    frontend, embedder = Frontend(teacher.spec.frontend), Embedder(teacher)

    def embed(clip: Float) -> Float:
        windows = split_overlapping(clip, frontend.spec.window_samples)
        return embedder.logits(np.stack([frontend.window(window) for window in windows]), patch).mean(axis=0)

    def ask() -> Answers:
        vectors = np.stack([embed(clips[number]) for number in progress(range(len(clips)))])
        return Answers(np.empty((len(clips), 0), np.float32), vectors)

    name = weights_sha256(Checkpoint(teacher.spec, weights_of(teacher)))
    return cache_answers(clips, f"{name} {patch} {teacher.spec.model_dump_json()}", cache, ask).embedding


class Student(FlexiAST):
    """A network that, while it trains, also answers with the teachers' embeddings, [batch, classes + width]."""

    def __init__(self, spec: Spec, width: int, prior: Float | None = None) -> None:
        """Its head begins with the scores ``prior`` [labels] where given: rare labels else take a hundred steps."""
        super().__init__(spec)
        if prior is not None:
            self.head.bias.data = torch.logit(torch.from_numpy(np.clip(prior, 1e-4, 1 - 1e-4)))
        self.to_teacher = nn.Linear(spec.network.width, width)

    def forward(self, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        """Features [batch, window_frames, mels] → logits [batch, classes], and while training the embedding."""
        pooled = self.embed(features, patch, keep)
        logits = self.classify(pooled)
        return torch.cat((logits, self.to_teacher(pooled)), dim=1) if self.training else logits


def build_student(spec: Spec, width: int, prior: Float | None = None) -> Model:
    """Raises ModelError for a convnet, which has no embedding to teach."""
    if spec.network.kind != "transformer":
        raise ModelError("a .tflite or .onnx teacher teaches transformers, not a convnet; leave --model out")
    return Student(spec, width, prior)


def embedding_loss(answers: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Answers and target [batch, width], weights [width] → weighted squared error [batch].

    A clip whose target is NaN, because no teacher knows what was made of it, has no error.
    """
    known = ~target.isnan().any(dim=1)
    return torch.where(known, (answers - target.nan_to_num()).square() @ weights, 0.0)
