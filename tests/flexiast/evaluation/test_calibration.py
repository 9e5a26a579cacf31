"""Temperatures, against scipy's minimiser, and what no scale of the logits may change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax

from flexiast.evaluation.calibration import BINS, Task, best_temperature, calibration_error, negative_log_likelihood

Float = NDArray[np.float32]
TASKS = st.sampled_from(["single", "multi"])


def scores_of(logits: Float, task: Task, temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    return softmax(scaled, axis=1) if task == "single" else expit(scaled)


def clips(seed: int, task: Task, sharpness: float = 1.0) -> tuple[Float, Float]:
    """Logits [200, 4] and targets drawn from their scores, so that the best temperature is about ``sharpness``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (200, 4)).astype(np.float32)
    if task == "single":
        drawn = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((200, 1))).sum(axis=1)
        targets = np.eye(4)[np.minimum(drawn, 3)]
    else:
        targets = rng.random((200, 4)) < expit(logits)
    return np.float32(sharpness) * logits, targets.astype(np.float32)


@given(st.integers(0, 10_000), TASKS, st.floats(1e-3, 1e3))
def test_scaled_logits_are_calibrated_to_the_same_scores(seed: int, task: Task, scale: float) -> None:
    logits, targets = clips(seed, task)
    scaled = (logits * np.float32(scale)).astype(np.float32)
    first, second = best_temperature(logits, targets, task), best_temperature(scaled, targets, task)
    assert first is not None
    assert second is not None
    # float32 rounds each scaled logit to 24 bits
    np.testing.assert_allclose(scores_of(logits, task, first), scores_of(scaled, task, second), rtol=0, atol=1e-5)


@given(st.integers(0, 10_000), TASKS, st.sampled_from([0.3, 1.0, 5.0]))
def test_the_temperature_is_that_of_a_general_minimiser(seed: int, task: Task, sharpness: float) -> None:
    logits, targets = clips(seed, task, sharpness)

    def loss(log_temperature: float) -> float:
        scores = np.clip(scores_of(logits, task, np.exp(log_temperature)), 1e-300, 1)
        if task == "single":
            return float(-np.log(scores[targets > 0]).mean())
        return float(-np.log(np.where(targets > 0, scores, np.maximum(1 - scores, 1e-300))).mean())

    expected = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8})
    found = best_temperature(logits, targets, task)
    assert found is not None
    # where a smooth function is flat, a minimiser that sees values only has half a double's digits
    assert np.log(found) == pytest.approx(expected.x, abs=1e-5)
    assert negative_log_likelihood(logits, targets, task, found) == pytest.approx(expected.fun, abs=1e-9)


@given(st.integers(0, 10_000), TASKS)
def test_logits_that_mean_what_they_say_keep_their_scale(seed: int, task: Task) -> None:
    found = best_temperature(*clips(seed, task), task)
    assert found == pytest.approx(1, abs=0.5)  # 200 clips: a standard error of about a tenth


@pytest.mark.parametrize("task", ["single", "multi"])
def test_answers_all_right_or_no_better_than_chance_have_no_temperature(task: Task) -> None:
    targets = np.eye(3, dtype=np.float32)
    assert best_temperature(4 * targets - 2, targets, task) is None
    assert best_temperature(2 - 4 * targets, targets, task) is None
    assert best_temperature(0 * targets, targets, task) is None


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_the_calibration_error_is_its_textbook_sum(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores = softmax(rng.normal(0, 2, (count, 3)), axis=1).astype(np.float32)
    assume(not np.any(np.abs(scores * BINS - np.round(scores * BINS)) < 1e-4))  # on the edge of two bins
    targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, count)]
    best = scores.max(axis=1)
    right = targets[np.arange(count), scores.argmax(axis=1)]
    expected = 0.0
    for low in np.arange(BINS) / BINS:
        chosen = (best >= low) & (best < low + 1 / BINS)
        if chosen.any():
            expected += chosen.mean() * abs(best[chosen].mean() - right[chosen].mean())
    assert calibration_error(scores, targets, "single") == pytest.approx(expected, abs=1e-6)


def test_certainty_that_is_right_has_no_calibration_error() -> None:
    targets = np.eye(3, dtype=np.float32)
    assert calibration_error(targets, targets, "single") == 0
    assert calibration_error(targets, targets, "multi") == 0
    assert calibration_error(targets, 1 - targets, "multi") == 1
