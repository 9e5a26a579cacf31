"""A power source of the user's own, from the command line to the governor, the profile and the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run, tone

SOUND = (tone(440, 2, 1) * 32767).astype(np.int16).tobytes()
LISTEN = ("listen", "commands", "--patch-sizes", "24,48", "--input", "-", "--json")


def statuses(run: Run, *options: str) -> tuple[list[dict], str]:
    result = run(*LISTEN, *options, stdin=SOUND)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    return [record for record in records if record["type"] == "status"], result.stderr


def test_the_governor_goes_by_the_source(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ups.json"
    path.write_text('{"percent": 4, "charging": false}')
    found, said = statuses(run, "--power-source", f"file:{path}")
    assert {(status["battery"], status["discharging"]) for status in found} == {(0.04, True)}
    assert found[-1]["patch_size"] == "48x48"  # below the charge that is to be kept, the cheapest runs
    assert str(path) not in said


def test_a_broken_source_is_said_once_and_its_charge_is_absent(run: Run) -> None:
    found, said = statuses(run, "--power-source", "exec:/no/such/ups")
    assert {status["battery"] for status in found} == {None}
    assert said.count("/no/such/ups cannot be run") == 1


@pytest.mark.parametrize("command", [LISTEN[:2], ("profile", "commands"), ("doctor", "commands")])
def test_a_source_that_is_none_is_refused(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--power-source", "ups.json")
    assert result.returncode == 2
    assert "file:/run/ups.json or exec:" in result.stderr


def test_the_doctor_asks_the_source(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ups"
    path.write_text("fraction=0.87\ncharging=yes\nwatts=4.2\n")
    for state, source in (("ok", f"file:{path}"), ("failure", "exec:false")):
        result = run("doctor", "commands", "--json", "--power-source", source)
        findings = {finding["check"]: finding for finding in json.loads(result.stdout)["findings"]}
        assert findings["power source"]["state"] == state
        assert (result.returncode == 1) is (state == "failure")
        if state == "ok":
            assert "87%, not discharging, 4.2 W" in findings["power source"]["text"]
    assert "GPU" in findings
