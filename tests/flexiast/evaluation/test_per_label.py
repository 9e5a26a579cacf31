"""Figures of a label against counting by hand; intervals against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flexiast.evaluation.evaluate import average_precision, average_precisions
from flexiast.evaluation.per_label import confusion_matrix, find_repeated_answer, label_results, wilson_interval

LABELS = ("a", "b", "c", "d")
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_figures_are_those_counted_one_by_one(pairs: list[tuple[int, int]]) -> None:
    eye = np.eye(4, dtype=np.float32)
    true, answered = (eye[[pair[side] for pair in pairs]] for side in (0, 1))
    confusion = confusion_matrix(answered, true)
    for index, result in enumerate(label_results(confusion, LABELS)):
        mine = [answer for label, answer in pairs if label == index]
        given_ = [label for label, answer in pairs if answer == index]
        assert result.clips == len(mine)
        assert result.recall == (mine.count(index) / len(mine) if mine else None)
        assert result.precision == (given_.count(index) / len(given_) if given_ else None)
        wrong = [answer for answer in mine if answer != index]
        assert (result.confused_with is None) == (not wrong)
        if result.confused_with is not None:
            most = wrong.count(LABELS.index(result.confused_with))
            assert most == max(wrong.count(answer) for answer in wrong)


@given(st.integers(1, 300).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_intervals_are_scipys(counts: tuple[int, int]) -> None:
    right, trials = counts
    expected = stats.binomtest(right, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)  # of 1.96


@pytest.mark.parametrize(
    ("confusion", "label"),
    [
        ([[40, 0], [4, 0]], "a"),  # always the common one
        ([[0, 3], [0, 97]], "b"),  # however common it is
        ([[50, 0], [45, 5]], "a"),  # nearly always
        ([[50, 0], [0, 1]], None),  # the data are so
        ([[5, 5], [5, 5]], None),
        ([[9, 0], [0, 0]], None),  # nothing else was heard
    ],
)
def test_an_answer_to_everything_is_found(confusion: list[list[int]], label: str | None) -> None:
    assert find_repeated_answer(np.array(confusion), ("a", "b")) == label


def test_average_precision_of_each_label_is_none_without_clips() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(20, 3)).astype(np.float32), np.zeros((20, 3), np.float32)
    targets[:7, 0] = targets[5:9, 1] = 1
    found = average_precisions(logits, targets, ("a", "b", "c"))
    assert [one["clips"] for one in found] == [7, 4, 0]
    assert [one["average_precision"] for one in found] == [
        *(average_precision(logits[:, index], targets[:, index]) for index in (0, 1)),
        None,
    ]
