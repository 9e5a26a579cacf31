"""A recording that outruns slow sinks; `python -m benchmarks.slow_sinks` does it with an hour of audio."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import slow_sinks


@pytest.mark.skipif(not shutil.which("mosquitto", path="/usr/sbin:/usr/bin"), reason="mosquitto is not installed")
def test_a_recording_loses_nothing_to_slow_sinks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of one kind each; only two of some twenty records may wait for one."""
    assert slow_sinks.run(0.25, 0.02, tmp_path, capacity=2)
    assert " 0 events" not in capfd.readouterr().out
