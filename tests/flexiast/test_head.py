"""A class of several rows: what its logit is, where its rows stand, and that it costs nobody else anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexiast.checkpoint import weight_shapes
from flexiast.head import join_rows, tabulate_rows
from flexiast.networks import build_model
from flexiast.spec import NetworkSpec, Spec

BuildSpec = Callable[..., Spec]

CLASSES = 4
EXTRA_ROWS = st.lists(st.integers(0, CLASSES - 1), max_size=9).map(tuple)


def spec_of(build_spec: BuildSpec, extra_rows: tuple[int, ...]) -> Spec:
    return build_spec(labels=("a", "b", "c"), nothing_class=True, extra_rows=extra_rows)


def sum_up(rows: np.ndarray, extra_rows: tuple[int, ...]) -> np.ndarray:
    """The second implementation: powers of each class added one after the other, in float64."""
    sums = np.exp(rows[:, :CLASSES].astype(np.float64))
    for row, number in enumerate(extra_rows, start=CLASSES):
        sums[:, number] += np.exp(rows[:, row].astype(np.float64))
    return np.log(sums)


@given(extra_rows=EXTRA_ROWS, seed=st.integers(0, 99), size=st.sampled_from([0.1, 5.0, 60.0]))
def test_a_class_is_the_log_sum_exp_of_its_rows(
    build_spec: BuildSpec, extra_rows: tuple[int, ...], seed: int, size: float
) -> None:
    spec = spec_of(build_spec, extra_rows)
    rows = np.random.default_rng(seed).normal(scale=size, size=(5, spec.head_rows)).astype(np.float32)
    expected = sum_up(rows, extra_rows)
    # float32 rounds logits of size 200 to 1e-5
    np.testing.assert_allclose(join_rows(rows, spec), expected, rtol=1e-6, atol=1e-6)
    model = build_model(spec)
    model.head = torch.nn.Identity()
    with torch.inference_mode():
        np.testing.assert_allclose(model.classify(torch.from_numpy(rows)).numpy(), expected, rtol=1e-6, atol=2e-6)


@given(extra_rows=EXTRA_ROWS)
def test_every_row_stands_once_with_its_class(build_spec: BuildSpec, extra_rows: tuple[int, ...]) -> None:
    spec = spec_of(build_spec, extra_rows)
    table, missing = tabulate_rows(spec)
    assert sorted(table[missing == 0]) == list(range(spec.head_rows))
    for row, number in enumerate(extra_rows, start=CLASSES):
        assert row in table[number]
    assert (table[:, 0] == range(CLASSES)).all()


def test_specs_and_models_drop_extra_rows_are_as_they_were(build_spec: BuildSpec) -> None:
    plain, more = spec_of(build_spec, ()), spec_of(build_spec, (3, 0, 3))
    assert "extra_rows" not in plain.model_dump_json()
    assert Spec.model_validate_json(plain.model_dump_json()) == plain == more.drop_extra_rows()
    assert Spec.model_validate_json(more.model_dump_json()) == more
    assert (more.classes, more.head_rows, plain.head_rows) == (4, 7, 4)
    assert weight_shapes(more)["head.weight"] == (7, 16)
    assert weight_shapes(plain)["head.weight"] == (4, 16)
    assert more.gmac(more.base_patch) > plain.gmac(plain.base_patch)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"extra_rows": (3,)}, r"numbers of classes, 0 … 2"),
        ({"extra_rows": (-1,)}, r"numbers of classes"),
        (
            {"extra_rows": (0,), "network": NetworkSpec(kind="convolutional", width=16, depth=1, heads=1)},
            "one row a class",
        ),
    ],
)
def test_rows_of_no_class_are_refused(build_spec: BuildSpec, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        build_spec(nothing_class=True, **fields)
