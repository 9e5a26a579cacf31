"""Parity: what counts as the same network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cosine

from flexiast.errors import VerificationError
from flexiast.evaluation.evaluate import score
from flexiast.frontend import Frontend
from flexiast.manifest import Labelled, Parity, Variant
from flexiast.spec import PatchSize, Spec
from flexiast_export.verify import TOLERANCE, VerificationData, check, parity, synthetic_inputs, tolerance

Float = NDArray[np.float32]

PATCH = PatchSize(16, 16)


def logits(classes: int = 3, inputs: int = 4) -> Float:
    """Every row has a clear winner."""
    values = np.random.default_rng(classes).permuted(np.tile(np.arange(classes), (inputs, 1)), axis=1)
    return values.astype(np.float32)


def variant_with(parity: Parity, labelled: Labelled | None = None) -> Variant:
    facts = {"patch_size": PATCH, "precision": "fp32", "embedder": "embed-16x16.onnx", "tokens": 7, "gmac": 0.1}
    return Variant(**facts, parity=parity, labelled=labelled)


@given(st.floats(-3e-4, 3e-4), st.integers(0, 3), st.integers(0, 2))
def test_parity_is_every_logit_within_the_tolerance(error: float, row: int, column: int) -> None:
    reference = logits()
    found = reference.copy()
    found[row, column] += np.float32(error)
    distance = float(abs(found[row, column] - reference[row, column]))  # what float32 leaves of the error
    measured = parity(reference, found, 1, TOLERANCE)
    assert measured.max_abs_error == distance
    if distance <= TOLERANCE:
        check(variant_with(measured), 0.5)
    else:
        with pytest.raises(VerificationError, match=r"patch size 16x16 in fp32: .*nothing was published"):
            check(variant_with(measured), 0.5)


@given(arrays(np.float32, (4, 5), elements=st.floats(-8, 8, width=32)), st.integers(0, 1000))
def test_the_figures_are_those_of_float64(reference: Float, seed: int) -> None:
    found = reference + np.random.default_rng(seed).normal(scale=0.1, size=reference.shape).astype(np.float32)
    measured = parity(reference, found, 0, 1.0)
    exact, other = reference.astype(np.float64), found.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(exact, axis=1), TOLERANCE)
    assert measured.rel_error == pytest.approx((np.linalg.norm(exact - other, axis=1) / lengths).max(), rel=1e-4)
    cosines = [1 - cosine(a - a.mean(), b - b.mean()) for a, b in zip(exact, other, strict=True) if np.ptp(a) > 1e-3]
    assert (
        measured.cosine <= min(cosines, default=1) + 1e-4
    )  # a constant row counts as 1, a nearly constant one may not


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "found"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_no_number_is_no_parity(value: float, side: str) -> None:
    pair = {"reference": logits(), "found": logits()}
    pair[side][2, 1] = value
    with pytest.raises(VerificationError):
        check(variant_with(parity(**pair, real=0, allowed=TOLERANCE)), 0.5)


def test_a_winner_that_changes_where_two_are_equal_is_no_disagreement() -> None:
    reference, found = np.array([[1.0, 1.0 + 5e-5, 0.0]], np.float32), np.array([[1.0 + 5e-5, 1.0, 0.0]], np.float32)
    assert parity(reference, found, 0, TOLERANCE).top1_agreement == 1


def test_a_model_of_one_class_agrees_with_itself() -> None:
    measured = parity(logits(1), logits(1), 0, TOLERANCE)
    assert (measured.top1_agreement, measured.cosine, measured.rel_error) == (1, 1, 0)


def test_the_report_counts_inputs_and_real_ones() -> None:
    report = parity(logits(inputs=7), logits(inputs=7), 4, TOLERANCE)
    assert (report.inputs, report.real_inputs, report.max_abs_error, report.tolerance) == (7, 4, 0.0, TOLERANCE)


def test_coarser_numbers_may_be_off_by_a_share_of_the_spread() -> None:
    assert tolerance("fp32", logits()) == TOLERANCE
    for precision in ("fp16", "int8", "int8-static"):
        assert tolerance(precision, 10 * logits()) == pytest.approx(10 * tolerance(precision, logits()))
        assert tolerance(precision, 7 + logits()) == pytest.approx(tolerance(precision, logits()))
    assert TOLERANCE < tolerance("fp16", logits()) < tolerance("int8", logits())


@pytest.mark.parametrize(("metric", "passes"), [(0.81, True), (0.80, True), (0.795, True), (0.794, False)])
def test_an_engine_may_lose_so_many_points_and_no_more(metric: float, passes: bool) -> None:
    same = parity(logits(), logits(), 1, TOLERANCE)
    variant = variant_with(same, Labelled(clips=1000, metric=metric, source_metric=0.8))
    if passes:
        check(variant, 0.5)
    else:
        with pytest.raises(VerificationError, match=r"loses 0\.60 points on 1,000 clips \(80\.0 to 79\.4; --max-drop"):
            check(variant, 0.5)


def test_synthetic_inputs_are_the_same_on_every_call_and_unlike_each_other(tiny_spec: Spec) -> None:
    noise, silence, sweep = synthetic_inputs(tiny_spec)
    assert np.array_equal(synthetic_inputs(tiny_spec), [noise, silence, sweep])
    assert (silence == np.float32(Frontend(tiny_spec.frontend).floor)).all()
    peaks = sweep.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()  # the tone rises
    assert peaks[-1] > peaks[0] + 10
    assert noise.std() < sweep.std()


def test_real_windows_stand_after_the_synthetic_ones(tiny_spec: Spec) -> None:
    rng, frontend = np.random.default_rng(0), Frontend(tiny_spec.frontend)
    short, long = (rng.normal(scale=0.1, size=size).astype(np.float32) for size in (3_000, 20_000))
    found = VerificationData(tiny_spec, [short, long])
    assert (found.synthetic, found.real) == (3, len(found.features) - 3)
    assert np.array_equal(found.features[:3], synthetic_inputs(tiny_spec))
    np.testing.assert_allclose(found.features[3], frontend.window(short), rtol=0, atol=1e-5)
    assert found.compare_metrics(found.features[:, 0], found.features[:, 0]) is None


def test_without_real_clips_there_are_none(tiny_spec: Spec) -> None:
    assert (VerificationData(tiny_spec).synthetic, VerificationData(tiny_spec).real) == (3, 0)


def test_clips_with_labels_tell_what_an_engine_loses(tiny_spec: Spec) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=3_000).astype(np.float32) for _ in range(4)]
    targets = np.eye(tiny_spec.classes, dtype=np.float32)[[0, 1, 0, 1]]
    sounds = VerificationData(tiny_spec, clips, targets)
    right = np.concatenate([np.zeros((3, tiny_spec.classes), np.float32), targets])
    wrong = right.copy()
    wrong[-1] = 1 - wrong[-1]
    found = sounds.compare_metrics(right, wrong)
    assert found is not None
    assert (found.clips, found.source_metric) == (4, 1)
    assert found.metric == score(wrong[3:], targets, tiny_spec.task) < 1
    assert found.drop == pytest.approx(100 * (1 - found.metric))
