"""A command for each event: what it is given, and how it is ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexiast.errors import SinkError, SinkUnavailableError, UsageError
from flexiast_runtime.sinks.command import Command
from flexiast_runtime.sinks.sink import RunContext
from tests.runtime.sinks.conftest import event


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "hook.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def test_the_event_comes_as_json_as_variables_and_in_arguments(
    script: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXIAST_MQTT_PASSWORD", "hunter2")
    hook = script(f'cd {tmp_path}; cat > stdin; env > env; printf "%s\\n" "$@" > argv')
    command, one = (
        Command([str(hook), "heard $label", "$score", "$$HOME", "; rm -rf *"]),
        event(label="$(touch owned) 'x'"),
    )
    command.open(RunContext())
    command.deliver(one)
    assert json.loads((tmp_path / "stdin").read_text()) == one.document()
    assert (tmp_path / "argv").read_text().splitlines() == ["heard $(touch owned) 'x'", "0.75", "$HOME", "; rm -rf *"]
    variables = (tmp_path / "env").read_text()
    assert "FLEXIAST_LABEL=$(touch owned) 'x'\n" in variables
    assert f"FLEXIAST_ID={one.id}\n" in variables
    assert "FLEXIAST_STARTED_AT=2026-11-25T15:23:42.000+00:00\n" in variables
    assert "hunter2" not in variables
    assert not (tmp_path / "owned").exists()


def test_a_failure_is_final_and_says_the_last_words(script: Callable[[str], Path]) -> None:
    hook = script("echo first >&2; echo 'no speaker found' >&2; exit 3")
    with pytest.raises(SinkError, match=r"it ended with 3: no speaker found") as caught:
        Command([str(hook)]).deliver(event())
    assert not isinstance(caught.value, SinkUnavailableError)
    with pytest.raises(SinkError, match="ended with -9: nothing on stderr"):
        Command([str(script("kill -9 $$"))]).deliver(event())


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    script: Callable[[str], Path], tmp_path: Path, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    hook = script(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    begun = time.monotonic()
    with pytest.raises(SinkError, match=r"took more than 0\.5 s and was ended"):
        Command([str(hook)], timeout_s=0.5).deliver(event())
    assert time.monotonic() - begun < 300
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not alive(child))


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_reads_nothing_is_no_failure(script: Callable[[str], Path]) -> None:
    Command([str(script("exec 0<&-; exit 0"))]).deliver(event(label="x" * 100_000))


def test_a_program_that_is_none_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for name in ("no-such-program", str(tmp_path / "plain")):
        with pytest.raises(UsageError, match="is no program that can be run"):
            Command([name]).open(RunContext())
    with pytest.raises(UsageError, match="cannot be used as a template: 'lable'"):
        Command(["true", "$lable"])
    vanished = Command([str(tmp_path / "vanished")])
    with pytest.raises(SinkError, match="cannot be started: No such file"):
        vanished.deliver(event())
    assert os.environ.get("FLEXIAST_LABEL") is None
