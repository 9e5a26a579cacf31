"""Values of options, checked before the command runs."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import UsageError
from flexiast_cli.options import validators
from flexiast_cli.options.validators import seconds_until

NOW = datetime(2026, 7, 1, 17, 30, 15)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7_200), ("90m", 5_400), ("1.5s", 1.5), ("18:00", 1_785), ("17:30", 86_385), ("9:05", 56_085)],
)
def test_a_time_is_one_of_day_or_from_now(text: str, seconds: float) -> None:
    assert seconds_until(text, NOW) == seconds


@given(st.datetimes(datetime(2026, 1, 1), datetime(2026, 3, 1)), st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_the_next_one(now: datetime, hour: int, minute: int) -> None:
    seconds = seconds_until(f"{hour:02}:{minute:02}", now)
    assert 0 < seconds <= 24 * 3_600
    then = now + timedelta(seconds=seconds, milliseconds=1)  # rounding
    assert (then.hour, then.minute, then.second) == (hour, minute, 0)


@pytest.mark.parametrize("text", ["24:00", "18", "18:60", "-2h", "soon", "", "0h", "18:00:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="18:00"):
        seconds_until(text, NOW)


@pytest.mark.parametrize("share", [-0.1, 1.1, 80.0, math.nan, math.inf])
def test_what_is_no_share_is_refused(share: float) -> None:
    parameter = SimpleNamespace(opts=["--min-metric"])
    with pytest.raises(typer.BadParameter, match="share from 0 to 1"):
        validators.share(parameter, share)  # type: ignore[arg-type]
    with pytest.raises(typer.BadParameter, match="percentage"):
        validators.percent(parameter, 100 * share)  # type: ignore[arg-type]
    assert validators.share(parameter, 1.0) == 1.0  # type: ignore[arg-type]
