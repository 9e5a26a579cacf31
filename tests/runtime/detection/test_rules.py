"""Rules: what can be said, and what is refused with a hint."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import UsageError
from flexiast_runtime.detection.rules import EventRules

LABELS = ("dog", "doorbell", "rain", "Male speech, man speaking")
SUBSETS = st.lists(st.sampled_from(LABELS), unique=True).map(tuple)


@given(SUBSETS, SUBSETS, st.dictionaries(st.sampled_from(LABELS), st.floats(0.01, 1.0)))
def test_a_label_has_its_threshold_or_the_common_one_if_it_is_wanted(
    allow: tuple[str, ...], deny: tuple[str, ...], single: dict[str, float]
) -> None:
    rules = EventRules(0.4, label_thresholds=single, allow=allow, deny=deny)
    wanted = [label for label in LABELS if label not in deny and (not allow or label in allow)]
    if not wanted:
        with pytest.raises(UsageError, match="every allowed one is denied"):
            rules.thresholds(LABELS)
        return
    expected = [single.get(label, 0.4) if label in wanted else math.inf for label in LABELS]
    np.testing.assert_array_equal(rules.thresholds(LABELS), np.array(expected, np.float32))


@pytest.mark.parametrize(
    "rules", [EventRules(allow=("dgo",)), EventRules(deny=("dgo",)), EventRules(label_thresholds={"dgo": 0.5})]
)
def test_an_unknown_label_is_refused_with_near_ones(rules: EventRules) -> None:
    with pytest.raises(UsageError, match=r"no label 'dgo'; did you mean dog\?"):
        rules.thresholds(LABELS)


def test_where_none_is_near_some_that_there_are_are_named() -> None:
    with pytest.raises(UsageError, match="no label 'xylophone'; it knows dog, doorbell, rain"):
        EventRules(allow=("xylophone",)).thresholds(LABELS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0.0}, "0 for the threshold"),
        ({"threshold": 1.1}, "1.1 for the threshold"),
        ({"threshold": math.nan}, "nan for the threshold"),
        ({"label_thresholds": {"dog": 2.0}}, "2 for dog"),
        ({"release": 0.0}, "a release of 0"),
        ({"confirm_s": -1.0}, "confirmation of -1 s"),
        ({"merge_s": math.inf}, "gap to merge of inf s"),
        ({"min_duration_s": math.nan}, "minimum duration of nan s"),
    ],
)
def test_values_that_cannot_work_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EventRules(**fields)  # type: ignore[arg-type]
