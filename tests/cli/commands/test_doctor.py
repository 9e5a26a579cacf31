"""What a user sees of the checks: a line each, a remedy where one is needed, the exit code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flexiast_cli.app import app

NO_DEVICES = """
class default: device = [-1, -1]
def get_portaudio_version(): return 19, "PortAudio V19"
def query_devices(): return []
def query_hostapis(): return []
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a machine that has PortAudio and no microphone."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/sounddevice.py").write_text(NO_DEVICES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), *filter(None, sys.path)]))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "FLEXIAST_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_a_machine_without_a_microphone_is_fit_for_files() -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any(line.startswith("ok      engines      CPUExecutionProvider runs sounds") for line in lines)
    place = lines.index("warning microphone   PortAudio finds none")
    assert lines[place + 1].strip().startswith("→ plug one in")
    assert "\x1b" not in result.stdout


def test_json_says_the_same(place: Path) -> None:
    document = json.loads(doctor("commands", "--json").stdout)
    assert document["ok"] is True
    assert {finding["state"] for finding in document["findings"]} <= {"ok", "note", "warning"}
    checks = [finding["check"] for finding in document["findings"]]
    assert {"versions", "model", "engines", "PortAudio", "recording", "battery", "clocks", "disk"} <= set(checks)
    assert all(finding["remedy"] for finding in document["findings"] if finding["state"] == "warning")


def test_what_does_not_work_makes_the_exit_code(place: Path) -> None:
    (place / "flexiast.toml").write_text("[listen]\nthreshold = 7")
    result = doctor("--json")
    assert result.exit_code == 1
    (failure,) = [finding for finding in json.loads(result.stdout)["findings"] if finding["state"] == "failure"]
    assert failure["check"] == "settings"
    assert "Invalid value for '--threshold'" in failure["text"]
    Path("good.toml").write_text("[listen]\nthreshold = 0.7")
    assert doctor("--config", "good.toml").exit_code == 0


def test_a_recording_that_cannot_be_made_is_a_failure() -> None:
    result = doctor("commands", "--record", "0.1")
    assert result.exit_code == 1
    assert "failure recording    no microphone was found" in result.stdout
