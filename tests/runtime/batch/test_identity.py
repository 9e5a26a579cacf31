"""What is said of a place whose results were made otherwise."""

from __future__ import annotations

import pytest

from flexiast.errors import UsageError
from flexiast_runtime.batch.identity import check_same_run


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"channel": "each"}, "all channels mixed instead of channel each"),
        ({"channel": "2"}, {}, "channel 2 instead of all channels mixed"),
        ({"channel": "2"}, {"channel": "1"}, "channel 2 instead of 1"),
        ({}, {"other": "x"}, "no other instead of other x"),
        ({"rules": "{'a_b': 1, 'c': 2}"}, {"rules": "{'a_b': 3, 'c': 2}"}, "a b 1 instead of 3"),
        ({"rules": "{'a': 1}"}, {"rules": "{'b': 1}"}, r"rules {'a': 1} instead of {'b': 1}"),
    ],
)
def test_a_setting_that_is_not_stored_is_told_in_words(before: dict[str, str], now: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=f"^here holds results made with {said}; run it again$"):
        check_same_run("here", before, now, "run it again")
    check_same_run("here", now, now, "run it again")
