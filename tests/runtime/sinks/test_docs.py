"""docs/how-to/sinks.md is true: every sink in it can be made, its programs run."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flexiast.errors import SinkError, SinkUnavailableError
from flexiast_runtime.sinks.command import Command
from flexiast_runtime.sinks.parse import KINDS, parse_sink
from flexiast_runtime.sinks.template import BodyTemplate
from flexiast_runtime.sinks.webhook import Webhook
from tests.conftest import REPOSITORY
from tests.runtime.sinks.conftest import event

TEXT = (REPOSITORY / "docs/how-to/sinks.md").read_text()


def block(language: str, holds: str) -> str:
    """The fenced block of a language that holds this."""
    (found,) = (
        body for body in re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) if holds in body
    )
    return found


def test_every_sink_in_it_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("body.json").write_text(block("json", "Heard"))
    Path("broker").write_text("FLEXIAST_MQTT_USER=me\nFLEXIAST_MQTT_PASSWORD=x\n")
    Path("broker").chmod(0o600)
    lines = [shlex.split(line) for line in TEXT.splitlines() if line.startswith("flexiast listen")]
    sinks = [line[place + 1] for line in lines for place, word in enumerate(line) if word == "--to"]
    assert len(sinks) >= len(KINDS)
    for sink in sinks:
        parse_sink(sink)


def test_the_receiver_takes_what_is_signed_and_nothing_else(eventually: Callable[[Callable[[], Any]], Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"SECRET": "hunter2", "PORT": str(port)}
    receiver = subprocess.Popen(
        [sys.executable, "-c", block("python", "compare_digest")], env=environment, stderr=subprocess.DEVNULL
    )

    def answer(**options: Any) -> str:
        try:
            Webhook(f"http://127.0.0.1:{port}", **options).deliver(event(label="Hundegebell – laut"))
        except SinkError as error:
            return "" if isinstance(error, SinkUnavailableError) else str(error)[-3:]
        return "taken"

    try:
        assert eventually(lambda: answer(secret=SecretStr("hunter2"))) == "taken"
        assert answer(secret=SecretStr("hunter3")) == "403"
        assert answer(secret=SecretStr("hunter2"), wall=lambda: 1e9) == "403"  # an old one, sent again
    finally:
        receiver.kill()
        receiver.wait()


def test_the_hook_and_the_template_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hook.sh").write_text(block("sh", "#!/bin/sh"))
    Path("hook.sh").chmod(0o755)
    Command(["./hook.sh", "$label"]).deliver(event())
    assert Path("heard.txt").read_text() == "dog (0.75)\n"
    assert event().id in Path("heard.jsonl").read_text()
    Path("body.json").write_text(block("json", "Heard"))
    assert BodyTemplate(Path("body.json")).body(event())[1] == b'{"text": "Heard dog in the kitchen (0.75)"}\n'
