"""Power sources of a user's own: real files, real programs, and everything that they may say instead."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import DataError, UsageError
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.hardware.power_source import (
    MAX_AGE_S,
    PowerCommand,
    PowerFile,
    ReportedOnce,
    parse_power_source,
    parse_supply,
)


@given(
    charge=st.none() | st.tuples(st.sampled_from([("percent", 100), ("fraction", 1)]), st.floats(0, 1)),
    charging=st.booleans(),
    watts=st.none() | st.floats(0, 1e4),
)
def test_json_and_lines_say_the_same(charge: tuple | None, charging: bool, watts: float | None) -> None:
    fields: dict[str, float | bool] = {"volts": 12.1}  # other keys are not read
    if charge is not None:
        (key, full), fraction = charge
        fields |= {key: full * fraction, "charging": charging}
    if watts is not None:
        fields["watts"] = watts
    if charge is None and watts is None:
        with pytest.raises(DataError, match="no percent, fraction or watts"):
            parse_supply(json.dumps(fields), "")
        return
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    one, other = parse_supply(json.dumps(fields), ""), parse_supply(lines, "")
    assert one == other
    assert one.watts == watts
    if charge is None:
        assert one.battery is None
    else:
        assert one.battery is not None
        assert one.battery.fraction == pytest.approx(charge[1], abs=1e-12)  # a percentage is divided
        assert one.battery.discharging is not charging


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no percent"),
        ("87", "no percent"),
        ("{", "JSON"),
        ('{"percent": 87', "JSON"),
        ("[87]", "no percent"),
        ("percent=87", "charging requires either"),
        ("charging=true\nwatts=3", "charging requires either"),
        ("percent=87\nfraction=0.87\ncharging=no", "give one"),
        ("percent=101\ncharging=no", "less than or equal to 100"),
        ("percent=-1\ncharging=no", "greater than or equal to 0"),
        ("percent=nan\ncharging=no", "percent"),
        ("percent=half\ncharging=no", "percent"),
        ("percent=87\ncharging=maybe", "charging"),
        ("watts=inf", "watts"),
        ('{"watts": -4}', "watts"),
    ],
)
def test_what_is_no_reading_is_refused_never_guessed(text: str, said: str) -> None:
    with pytest.raises(DataError, match=f"file:ups returned no valid reading: .*{said}"):
        parse_supply(text, "file:ups")


@given(st.text(max_size=200))
def test_any_text_is_a_reading_or_an_error(text: str) -> None:
    try:
        supply = parse_supply(text, "")
    except DataError:
        return
    assert supply.battery is None or 0 <= supply.battery.fraction <= 1


def test_a_file_is_read_while_it_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "ups.json"
    source = parse_power_source(f"file:{path}")
    with pytest.raises(DataError, match="is not a regular file"):
        source.read()
    path.write_text('{"percent": 42, "charging": false, "watts": 4.5}')
    supply = source.read()
    assert (supply.battery, supply.watts) == (Battery(0.42, discharging=True), 4.5)
    os.utime(path, (time.time(), time.time() - MAX_AGE_S - 60))
    with pytest.raises(DataError, match="is too old"):
        source.read()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a regular file"):
        PowerFile(tmp_path / "pipe").read()


def test_a_command_is_run_without_a_shell() -> None:
    source = parse_power_source("exec:printf 'percent=%s\\ncharging=yes\\nnote=$(id)\\n' 7")
    assert source == PowerCommand(("printf", "percent=%s\\ncharging=yes\\nnote=$(id)\\n", "7"))
    assert source.read().battery == Battery(0.07, discharging=False)


@pytest.mark.parametrize("text", ["", "ups.json", "file:", "file:\0", "exec:", "exec: ", "exec:'", "command:ups"])
def test_what_names_no_source_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--power-source"):
        parse_power_source(text)


def test_trouble_is_said_once_and_ends_when_it_is_over(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "ups"
    told = ReportedOnce(PowerFile(path), said.append)
    assert [told.read(), told.read()] == [None, None]
    path.write_text("watts=2")
    supply = told.read()
    assert supply is not None
    assert supply.watts == 2
    path.unlink()
    assert told.read() is None
    assert len(said) == 1
    assert f"file:{path} is not a regular file" in said[0]
