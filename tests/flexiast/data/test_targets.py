"""Targets of which the ones are stored, beside the arrays that they stand for."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flexiast.arrays import Float
from flexiast.data.dataset import compute_balanced_weights
from flexiast.data.targets import LabelTargets, find_clips, hash_targets, sum_columns

DENSE = arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=st.sampled_from([0, 1]))


def store(dense: Float) -> LabelTargets:
    """With the labels of each clip backwards, which is any order."""
    return LabelTargets.from_lists([np.flatnonzero(clip)[::-1].tolist() for clip in dense], dense.shape[1])


@given(dense=DENSE, data=st.data())
def test_rows_are_those_of_the_array(dense: Float, data: st.DataObject) -> None:
    targets, rows = store(dense), data.draw(st.lists(st.integers(0, len(dense) - 1)))
    assert (len(targets), targets.shape) == (len(dense), dense.shape)
    for found, expected in (
        (targets[:], dense),
        (targets[1:3], dense[1:3]),
        (targets[rows], dense[rows]),
        (targets[rows[0]] if rows else targets[0], dense[rows[0]] if rows else dense[0]),
        (targets.take(np.array(rows, int))[:], dense[rows]),
        (LabelTargets.join([targets, targets.take(np.array(rows, int))], targets.width)[:], [*dense, *dense[rows]]),
    ):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32


@given(dense=DENSE)
def test_sums_of_both_are_equal_and_so_are_their_hashes(dense: Float) -> None:
    targets = store(dense)
    np.testing.assert_array_equal(sum_columns(targets), dense.sum(axis=0))
    np.testing.assert_array_equal(sum_columns(dense), dense.sum(axis=0))
    np.testing.assert_array_equal(targets.counts, dense.sum(axis=1))
    np.testing.assert_array_equal(targets.find_first(), dense.argmax(axis=1))
    for column in range(targets.width):
        np.testing.assert_array_equal(find_clips(targets, column), find_clips(dense, column))
    assert hash_targets(targets) == hash_targets(dense) == sha256(dense.tobytes()).hexdigest()
    nothing = np.concatenate((dense, dense.max(axis=1, keepdims=True) == 0), axis=1)
    np.testing.assert_array_equal(targets.with_nothing()[:], nothing)
    if dense.any():
        expected = compute_balanced_weights(dense)
        np.testing.assert_allclose(compute_balanced_weights(targets), expected, rtol=1e-12)  # sums in another order
