"""`flexiast swap`, with a real `listen` on a pipe: what takes over, what is refused, and that no sample is lost."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

from flexiast.manifest import MANIFEST
from flexiast_cli.app import app
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.control import find_processes

RATE_HZ = 16_000
PATIENCE_S = 120.0
"""For a state that comes at once on an idle machine."""
HAS_PAGE = find_spec("starlette") is not None
"""Whether the extra `service` is installed"""
Answer = tuple[int, str]


def change(bundle: Path, target: Path, **fields: Any) -> Path:
    """A copy of a bundle whose manifest differs."""
    shutil.copytree(bundle, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    document = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps(document | fields))
    return target


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)
    return found


class Listener:
    """A `listen` on a pipe that gets noise without end."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._log = (folder / "log").open("w+")
        self._out = (folder / "out").open("w+")
        words = [
            "listen",
            bundle,
            "--input",
            "-",
            "--json",
            "--threshold",
            "0.3",
            *(("--web", "0") if HAS_PAGE else ()),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "flexiast_cli.main", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._log,
        )
        self.fed_samples, self._ending = 0, threading.Event()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def _feed(self) -> None:
        assert self.process.stdin is not None
        rng = np.random.default_rng(0)
        with suppress(BrokenPipeError), self.process.stdin as pipe:
            while not self._ending.wait(0.01):
                block = (3_000 * rng.normal(size=1_000)).astype("<i2")
                pipe.write(block.tobytes())
                self.fed_samples += len(block)

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def end(self) -> list[dict[str, Any]]:
        """Its records."""
        self._ending.set()
        self._feeder.join()
        assert self.process.wait(PATIENCE_S) == 0, self.log
        return [json.loads(line) for line in Path(self._out.name).read_text().splitlines()]

    def close(self) -> None:
        self._ending.set()
        self.process.kill()
        self.process.wait()
        self._feeder.join()
        for file in (self._log, self._out):
            file.close()


@pytest.fixture
def listener(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running = Listener(tiny_bundle, tmp_path)
    try:
        wait_for(lambda: find_processes() or running.process.poll() is not None, "the listener has no socket")
        assert running.process.poll() is None, running.log
        yield running
    finally:
        running.close()


def swap(*arguments: object) -> Answer:
    """Exit code and stderr of `flexiast swap`."""
    result = typer.testing.CliRunner().invoke(app, ["swap", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def ask_page(listener: Listener, request: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and document of the page's answer on models."""
    found = wait_for(lambda: re.search(r"the page is at http://(\S+?)/", listener.log), "no page")
    connection = http.client.HTTPConnection(found[1], timeout=PATIENCE_S)
    body, headers = json.dumps(request), {"Content-Type": "application/json"}
    connection.request("GET" if request is None else "POST", "/model", None if request is None else body, headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document


def check_page(listener: Listener, new: Path, old: Path) -> None:
    """While the new bundle runs, which replaced the old one: a browser names no path, and what is wrong is said."""
    _, found = ask_page(listener)
    assert (found["running"]["name"], found["before"]["name"]) == (str(new), str(old))
    assert found["choices"] == ["damaged.bundle", "other.bundle"]
    for name in (str(old), f"../{new.parent.name}/{new.name}", new.name, "", None):
        status, answer = ask_page(listener, {"action": "swap", "model": name})
        assert (status, "is no bundle beside the one that runs" in answer["error"]) == (400, True)
    status, answer = ask_page(listener, {"action": "swap", "model": "other.bundle"})
    assert (status, "its labels differ" in answer["error"]) == (400, True)


def read_title(listener: Listener) -> str:
    client = pytest.importorskip("websockets.sync.client")
    found = re.search(r"the page is at http://(\S+?)/", listener.log)
    assert found
    with client.connect(f"ws://{found[1]}/records") as browser:
        return str(json.loads(browser.recv(timeout=PATIENCE_S))["title"])


def test_models_take_over_one_after_another_and_what_is_wrong_changes_nothing(
    listener: Listener, tiny_bundle: Path, tmp_path: Path
) -> None:
    new = change(tiny_bundle, tmp_path / "new.bundle", thresholds={"bark": 0.9})
    damaged = change(tiny_bundle, tmp_path / "damaged.bundle", thresholds={"bark": 0.8})
    (damaged / "encoder.onnx").write_bytes(b"\0" * (damaged / "encoder.onnx").stat().st_size)
    spec = json.loads((tiny_bundle / MANIFEST).read_text())["spec"]
    other = change(tiny_bundle, tmp_path / "other.bundle", spec=spec | {"labels": ["alarm", "bark", "cough"]})

    code, said = swap("--back")
    assert (code, "nothing was swapped yet" in said) == (2, True), said
    code, said = swap()
    assert (code, "is what runs already" in said) == (0, True), said
    code, said = swap(damaged)
    assert code == 5, said
    assert "differs from what was exported" in said
    assert f"{tiny_bundle}" in said.split(". ")[-1]  # which goes on
    code, said = swap(other)
    assert (code, "its labels differ (clap, cough)" in said) == (2, True), said
    code, said = swap(tmp_path / "nowhere.bundle")
    assert code == 3, said

    code, said = swap(new)
    assert (code, f"{new} (" in said, "runs now" in said) == (0, True, True), said
    if HAS_PAGE:
        check_page(listener, new, tiny_bundle)
    code, said = swap("--back")
    assert (code, f"{tiny_bundle} (" in said, "runs now" in said) == (0, True, True), said

    if HAS_PAGE:
        status, answer = ask_page(listener, {"action": "back"})
        assert (status, f"{new} (" in answer["text"]) == (200, True)
        assert read_title(listener) == f"{new} · stdin"
    else:
        assert swap(new)[0] == 0
    (new / MANIFEST).write_text((damaged / MANIFEST).read_text())  # another model lies there now
    os.kill(listener.process.pid, signal.SIGHUP)
    wait_for(lambda: listener.log.count("runs now") == 4, "SIGHUP re-reads the bundle")
    code, said = swap("--back")
    assert (code, "ran before, but" in said) == (3, True), said

    records = listener.end()
    (summary,) = (one for one in records if one["type"] == "summary")
    assert summary["audio_s"] == pytest.approx(listener.fed_samples / RATE_HZ, abs=1e-3)
    assert (summary["dropped_s"], summary["discontinuities"]) == (0, 0)
    # a window of 0.4 s, then one every 0.1 s, and one for what is left
    assert summary["windows"] in {listener.fed_samples // 1_600 - 3 + rest for rest in (0, 1)}
    assert listener.log.count("the model was not swapped") == (5 if HAS_PAGE else 4)
    by_model = {one["bundle_sha256"] for one in records if one["type"] == "event"}
    assert Bundle.open(tiny_bundle).sha256 in by_model  # the first model; at least one other reported events too
    assert len(by_model) >= 2
    code, said = swap()
    assert (code, "No `flexiast listen` of yours hears live sound" in said) == (2, True), said


def test_a_model_and_back_exclude_each_other() -> None:
    code, said = swap("commands", "--back")
    assert (code, "give it or a MODEL" in said) == (2, True), said


@pytest.mark.skipif(not Path("/dev/ptmx").exists(), reason="there are no terminals here")
def test_a_closed_terminal_ends_it_and_a_hangup_alone_does_not(tmp_path: Path) -> None:
    """SIGHUP says both."""
    program = (
        "import signal, time\n"
        "from flexiast_cli.terminal.interrupts import reload_on_hangup\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup, if the tests run under it, is inherited
        "with reload_on_hangup(lambda: print('reloads', flush=True)):\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(60)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1_000)
    os.kill(pid, signal.SIGHUP)
    while b"reloads" not in shown:
        shown += os.read(terminal, 1_000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP
