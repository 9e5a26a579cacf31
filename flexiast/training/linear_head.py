"""Logistic regression: the baseline of two seconds, and the first head on frozen embeddings. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from flexiast.arrays import Float
from flexiast.evaluation.evaluate import score
from flexiast.training.augment import find_audible
from flexiast.training.batches import LogMels

ITERATIONS = 100
"""Of L-BFGS, which converges on standardised features long before."""

FOLDS = 3


class LinearHead(NamedTuple):
    """Features [clips, width] → logits [clips, classes]."""

    weight: Float
    """[classes, width]."""
    bias: Float
    """[classes]."""

    def __call__(self, features: Float) -> Float:
        logits: Float = features @ self.weight.T + self.bias
        return logits


def fit_head(features: Float, targets: Float, task: Literal["single", "multi"], *, clips: int) -> LinearHead:
    """Logistic regression with C = 1 on standardised features.

    ``features`` are [examples, width], ``targets`` [examples, classes] 0 to 1. Examples may be several views of so many
    ``clips``; all views of a clip weigh as much as one.
    """
    with _use_one_thread():
        return _fit_head(features, targets, task, clips)


@contextmanager
def _use_one_thread() -> Iterator[None]:
    """Hundreds of products that take less time than handing them to threads: two took 20 times the CPU of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit_head(features: Float, targets: Float, task: Literal["single", "multi"], clips: int) -> LinearHead:
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    x, y = torch.from_numpy((features - mean) / spread), torch.from_numpy(targets)
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def evaluate_loss() -> float:
        optimizer.zero_grad()
        logits = F.linear(x, weight, bias)
        if task == "single":
            losses = F.cross_entropy(logits, y, reduction="none")
        else:
            losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(dim=1)
        loss = losses.mean() + weight.square().sum() / (2 * clips)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(evaluate_loss)  # type: ignore[no-untyped-call]
    scaled = weight.detach().numpy() / spread
    return LinearHead(scaled.astype(np.float32), (bias.detach().numpy() - scaled @ mean).astype(np.float32))


def cross_validate(features: Float, targets: Float, task: Literal["single", "multi"]) -> float:
    """Accuracy, or mean average precision, of heads that are each fitted without a third of the clips.

    The clips of each class are dealt out in turn, so that every third has some of each.
    """
    classes = targets.argmax(axis=1)
    fold = np.empty(len(targets), np.int64)
    for number in np.unique(classes):
        mine = np.flatnonzero(classes == number)
        fold[mine] = np.arange(len(mine)) % FOLDS
    logits = np.empty_like(targets)
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any() and not held_out.all():
            train = ~held_out
            logits[held_out] = fit_head(features[train], targets[train], task, clips=int(train.sum()))(
                features[held_out]
            )
    return score(logits, targets, task)


def compute_statistics(log_mels: LogMels, clips: Sequence[int], window_frames: int) -> Float:
    """Mean and spread of each mel bin of each clip, at its own speed [clips, 2 · mels]: the baseline's features.

    Of a clip that is longer than a window, they are of the windows in which something is audible, as a network's are.
    """
    speed = len(log_mels.speeds) // 2
    found = (_keep_audible(log_mels(clip, speed), window_frames) for clip in clips)
    return np.stack([np.concatenate((one.mean(axis=0), one.std(axis=0))) for one in found])


def _keep_audible(log_mel: Float, window_frames: int) -> Float:
    """Log-mel [frames, mels] → its windows side by side that hold a frame within 30 dB of the loudest [fewer, mels]."""
    windows = np.unique(find_audible(log_mel) // window_frames)
    return np.concatenate([log_mel[number * window_frames : (number + 1) * window_frames] for number in windows])
