"""A model learns from corrections: a new head on its frozen network, held near the one it had. Needs torch.

The network was trained on far more sounds than a household corrects in a month; what a place adds is mostly which of
them are no label's. So the head alone learns, from examples at all patch sizes, by a convex fit that takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint
from flexiast.networks import Embedder, load_model
from flexiast.spec import PatchSize, Spec
from flexiast.training.batches import Backgrounds, Batches, LogMels
from flexiast.training.linear_head import ITERATIONS, LinearHead
from flexiast.training.recipe import Augment, Training
from flexiast.training.sampling import Plan

ADAPTATION_GMAC = 2_000.0
"""Of the embeddings that a head is fitted to: a minute of one core, at 30 GMAC a second."""

MOST_VIEWS = 40
"""Of each clip, each cut, levelled and sized anew."""

AUGMENT = Augment(
    speed=0.0,
    gain_db=6.0,
    filter_db=3.0,
    masks=0,
    mix_share=0.0,
    mix_from=0.0,
    background_share=0.6,
    background_alone_share=0.4,
    echo_share=0.1,
    noise_share=0.25,
    nothing_share=0.4,
)
"""Corrections were heard in this room by this microphone, so they vary less than a training set does. Masks and
mixtures are for networks that learn: frozen embeddings tell such clips apart less well."""


@dataclass(frozen=True)
class Lesson:
    """What is learnt from."""

    log_mels: LogMels
    """Of the clips in which a label sounds"""
    targets: Float
    """[clips, classes]"""
    probabilities: Double
    """Of drawing each clip [clips]"""
    backgrounds: Backgrounds | None
    """In which none sounds, the false events first of all"""


@dataclass(frozen=True)
class Anchor:
    """How strongly the old model holds the new one."""

    weight: float
    """Of the squared distance of the heads, each feature in units of its spread"""
    teacher_weight: float
    """Share of a clip's target that is the old model's answer, where the old model is right about the clip"""


WITH_DATA, WITHOUT_DATA = Anchor(1e-4, 0.0), Anchor(1e-2, 0.5)
"""Next to the data that it was trained on a head may go where they and the corrections want it. Without them it stays
near the old one, since nothing else speaks for the labels that were not corrected."""


def adapt_head(
    start: Checkpoint, patches: Sequence[PatchSize], lesson: Lesson, anchor: Anchor, *, seed: int = 0
) -> Checkpoint:
    """The start with a head that has learnt the lesson at these patch sizes."""
    spec = start.spec
    embeddings, targets = _embed_examples(start, patches, lesson, seed)
    head = LinearHead(start.weights["head.weight"], start.weights["head.bias"])
    if anchor.teacher_weight:
        targets = _blend_answers(head(embeddings), targets, spec, anchor.teacher_weight)
    fitted = fit_near(head, embeddings, targets, spec, anchor.weight)
    return Checkpoint(spec, start.weights | {"head.weight": fitted.weight, "head.bias": fitted.bias})


def fit_near(head: LinearHead, features: Float, targets: Float, spec: Spec, weight: float) -> LinearHead:
    """The head of the least loss on features [examples, width] and targets [examples, classes], 0 to 1.

    The loss is the mean cross-entropy and ``weight`` times the squared distance from the head given.
    """
    spread = torch.from_numpy(features.std(axis=0) + 1e-6)
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    first, bias = torch.from_numpy(head.weight), torch.from_numpy(head.bias.copy()).requires_grad_()
    change = torch.zeros_like(first, requires_grad=True)  # in units of the spread
    optimizer = torch.optim.LBFGS([change, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def evaluate_loss() -> float:
        optimizer.zero_grad()
        logits = F.linear(x, first + change / spread, bias)
        if spec.task == "single":
            loss = F.cross_entropy(logits, y)
        else:
            loss = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(dim=1).mean()
        loss = loss + weight * change.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(evaluate_loss)  # type: ignore[no-untyped-call]
    fitted = (first + change / spread).detach().numpy()
    return LinearHead(fitted.astype(np.float32), bias.detach().numpy().astype(np.float32))


def _embed_examples(start: Checkpoint, patches: Sequence[PatchSize], lesson: Lesson, seed: int) -> tuple[Float, Float]:
    """Embeddings [examples, width] of varied clips and backgrounds at all sizes, and their targets."""
    spec, clips = start.spec, len(lesson.log_mels)
    training = Training(patches=tuple(patches), seed=seed, augment=AUGMENT)
    mean_gmac = float(np.mean([spec.gmac(patch) for patch in patches]))
    views = int(np.clip(ADAPTATION_GMAC / (mean_gmac * clips), 1, MOST_VIEWS))
    most = max(len(patches), round(ADAPTATION_GMAC / (mean_gmac * training.batch_size)))
    steps = Plan(spec, training, clips, views, started=True)[:most]
    batches = Batches(
        lesson.log_mels,
        lesson.targets,
        spec,
        training,
        steps,
        probabilities=lesson.probabilities,
        backgrounds=lesson.backgrounds,
    )
    embedder = Embedder(load_model(start))
    embeddings, targets = [], []
    for number, step in enumerate(steps):
        features, target = batches[number]
        embeddings.append(embedder.logits(features, step.patch))
        targets.append(target)
    return np.concatenate(embeddings), np.concatenate(targets)


def _blend_answers(logits: Float, targets: Float, spec: Spec, share: float) -> Float:
    """Targets of which a share is the old model's answer where it agrees on what sounds, and so knows the clip."""
    if spec.task == "single":
        answers = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers /= answers.sum(axis=1, keepdims=True)
        agrees = (logits.argmax(axis=1) == targets.argmax(axis=1)) & (targets.max(axis=1) == 1)
    else:
        answers = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
        agrees = ((answers >= 0.5) == (targets >= 0.5)).all(axis=1)
    blended: Float = np.where(agrees[:, None], (1 - share) * targets + share * answers, targets).astype(np.float32)
    return blended
