"""A headless Chromium, driven by its own protocol."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

client = pytest.importorskip("websockets.sync.client", reason="Chromium is driven over a WebSocket")

PATIENCE_S = 120.0


class Tab:
    """One page of a headless Chromium."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=PATIENCE_S))).get("id") != number:
            pass
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until it is true."""
        end = time.monotonic() + patience_s
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")


@contextmanager
def open_tab(profile: Path, *options: str) -> Iterator[Tab]:
    """A page of a Chromium with these options; skips where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is absent")
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    command = [chromium, *common, *options, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = (re.search(r"ws://([^/]+)/", line) for line in process.stderr)
            host = next(found[1] for found in lines if found)
            with client.connect(_address(host), max_size=None) as socket:
                tab = Tab(socket)
                tab.call("Page.enable")  # else no script is evaluated on a new document
                yield tab
        finally:
            process.terminate()


def _address(host: str) -> str:
    import http.client

    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    connection.request("PUT", "/json/new?about:blank")
    address: str = json.loads(connection.getresponse().read())["webSocketDebuggerUrl"]
    connection.close()
    return address
