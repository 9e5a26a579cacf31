"""Parity: what counts as the same network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import VerificationError
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_export.verify import TOLERANCE, parity, real_inputs, synthetic_inputs

Float = NDArray[np.float32]

PATCH = PatchSize(16, 16)


def logits(classes: int = 3, inputs: int = 4) -> Float:
    """Every row has a clear winner."""
    values = np.random.default_rng(classes).permuted(np.tile(np.arange(classes), (inputs, 1)), axis=1)
    return values.astype(np.float32)


@given(st.floats(-3e-4, 3e-4), st.integers(0, 3), st.integers(0, 2))
def test_parity_is_every_logit_within_the_tolerance(error: float, row: int, column: int) -> None:
    reference = logits()
    found = reference.copy()
    found[row, column] += np.float32(error)
    distance = float(abs(found[row, column] - reference[row, column]))  # what float32 leaves of the error
    if distance <= TOLERANCE:
        assert parity(PATCH, reference, found, 1).max_abs_error == distance
    else:
        with pytest.raises(VerificationError, match=r"patch size 16x16: .*nothing was published"):
            parity(PATCH, reference, found, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "found"])
def test_what_is_no_number_is_no_parity(value: float, side: str) -> None:
    pair = {"reference": logits(), "found": logits()}
    pair[side][2, 1] = value
    with pytest.raises(VerificationError):
        parity(PATCH, real=0, **pair)


def test_a_winner_that_changes_where_two_are_equal_is_no_disagreement() -> None:
    reference, found = np.array([[1.0, 1.0 + 5e-5, 0.0]], np.float32), np.array([[1.0 + 5e-5, 1.0, 0.0]], np.float32)
    assert parity(PATCH, reference, found, 0).top1_agreement == 1


def test_a_model_of_one_class_agrees_with_itself() -> None:
    assert parity(PATCH, logits(1), logits(1), 0).top1_agreement == 1


def test_the_report_counts_inputs_and_real_ones() -> None:
    report = parity(PATCH, logits(inputs=7), logits(inputs=7), 4)
    assert (report.inputs, report.real_inputs, report.max_abs_error, report.tolerance) == (7, 4, 0.0, TOLERANCE)


def test_synthetic_inputs_are_the_same_on_every_call_and_unlike_each_other(tiny_spec: Spec) -> None:
    noise, silence, sweep = synthetic_inputs(tiny_spec)
    assert np.array_equal(synthetic_inputs(tiny_spec), [noise, silence, sweep])
    assert (silence == np.float32(Frontend(tiny_spec.frontend).floor)).all()
    peaks = sweep.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()  # the tone rises
    assert peaks[-1] > peaks[0] + 10
    assert noise.std() < sweep.std()


def test_real_inputs_are_the_first_window_of_each_clip(tiny_spec: Spec) -> None:
    rng, frontend = np.random.default_rng(0), Frontend(tiny_spec.frontend)
    short, long = (rng.normal(scale=0.1, size=size).astype(np.float32) for size in (3_000, 20_000))
    found = real_inputs(tiny_spec, [short, long])
    assert found.shape == (2, 38, 32)
    assert (found[0, tiny_spec.frontend.frames_in(3_000) :] == np.float32(frontend.floor)).all()
    # another number of frames at once: last digits
    np.testing.assert_allclose(found[1], frontend(long)[:38], rtol=0, atol=1e-5)


def test_without_real_clips_there_are_none(tiny_spec: Spec) -> None:
    assert real_inputs(tiny_spec, []).shape == (0, 38, 32)
