"""Temperature scaling: one number that makes scores mean what they say, without changing which label is best.

C. Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv 1706.04599). The mean negative log-likelihood is
convex in the inverse of the temperature, so its slope is 0 at one place at most, which bisection finds.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from flexiast.arrays import Double, Float

Task = Literal["single", "multi"]

INVERSE = (1e-3, 1e3)
"""Inverse temperatures searched, of logits whose root mean square is 1."""
HALVINGS = 50
"""Of that range, in the logarithm: until a double has no more digits."""
BINS = 15
"""Of confidence, as in the paper."""


def negative_log_likelihood(logits: Float, targets: Float, task: Task, temperature: float = 1.0) -> float:
    """Mean over clips [clips, classes] in nat; of a multi-label task the binary one, mean over classes as well."""
    scaled = logits.astype(np.float64) / temperature
    if task == "multi":
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))
    best = scaled.max(axis=1)
    normaliser = best + np.log(np.exp(scaled - best[:, None]).sum(axis=1))
    return float(np.mean(normaliser - (targets * scaled).sum(axis=1)))


def best_temperature(logits: Float, targets: Float, task: Task) -> float | None:
    """The temperature of the smallest negative log-likelihood; None where there is none.

    So it is where every clip is answered right, which makes ever smaller temperatures better, or where the answers are
    no better than chance. k times the logits have k times the temperature: their scores are the same.
    """
    centred = logits.astype(np.float64)
    if task == "single":
        centred = centred - centred.mean(axis=1, keepdims=True)
    scale = float(np.sqrt(np.mean(centred**2)))
    if not 0 < scale < np.inf:
        return None
    centred /= scale
    low, high = INVERSE
    if _slope(centred, targets, task, low) >= 0 or _slope(centred, targets, task, high) <= 0:
        return None
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if _slope(centred, targets, task, middle) < 0 else (low, middle)
    return float(scale / np.sqrt(low * high))


def _slope(logits: Double, targets: Float, task: Task, inverse: float) -> float:
    """Of the negative log-likelihood by the inverse temperature: what scores expect of the logits, less what is so."""
    scaled = inverse * logits
    if task == "multi":
        scores = 0.5 * (1 + np.tanh(0.5 * scaled))  # a sigmoid that cannot overflow
        return float(np.mean((scores - targets) * logits))
    scores = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return float(np.mean(((scores - targets) * logits).sum(axis=1)))


def calibration_error(scores: Float, targets: Float, task: Task) -> float:
    """Expected calibration error of scores [clips, classes]: how far confidence is from truth, in bins of confidence.

    Of the best label of each clip in a single-label task, of every label of each clip in a multi-label one.
    """
    if task == "single":
        best = scores.argmax(axis=1)[:, None]
        scores, targets = np.take_along_axis(scores, best, 1), np.take_along_axis(targets, best, 1)
    confidence, truth = scores.ravel().astype(np.float64), targets.ravel().astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    distances = np.bincount(bins, confidence - truth, minlength=BINS)
    return float(np.abs(distances).sum() / len(confidence))
