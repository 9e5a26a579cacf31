"""The page in a real browser, driven by Chromium's own protocol; skipped where there is none."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flexiast.spec import FrontendSpec
from flexiast_cli.web import TOKEN_VARIABLE, WebPage
from flexiast_runtime.health import Signal
from flexiast_runtime.records import SourceNotice, Switch
from tests.cli.test_screen import COARSE, FINE, event, status

pytest.importorskip("starlette", reason="the page needs the extra `service`")
client = pytest.importorskip("websockets.sync.client", reason="the page needs the extra `service`")

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PATIENCE_S = 30.0


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

    def until(self, expression: str) -> None:
        """Wait until it is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is absent")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    with subprocess.Popen(
        [chromium, *options, f"--user-data-dir={tmp_path}", "about:blank"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            lines = (re.search(r"ws://([^/]+)/", line) for line in process.stderr)
            host = next(found[1] for found in lines if found)
            with client.connect(_address(host), max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()


def _address(host: str) -> str:
    import http.client

    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    connection.request("PUT", "/json/new?about:blank")
    address: str = json.loads(connection.getresponse().read())["webSocketDebuggerUrl"]
    connection.close()
    return address


def test_what_a_person_sees_and_does(tab: Tab, build_frontend_spec: Callable[..., FrontendSpec]) -> None:
    with WebPage("127.0.0.1", 0, HOSTILE, build_frontend_spec()) as page:
        page.publish(status(HOSTILE, top=((HOSTILE, 0.9),), active=(HOSTILE,)))
        page.publish(event(HOSTILE, HOSTILE))
        page.publish(Switch(HOSTILE, 5.0, COARSE, FINE, HOSTILE))
        page.publish(SourceNotice(HOSTILE, 5.0, "lost", HOSTILE))
        tab.call("Page.navigate", url=page.url)

        # Hostile names are shown as they are, everywhere, and do nothing.
        for place in ("title", "why", "notice", "now", "events", "switches"):
            tab.until(f"document.getElementById('{place}')?.textContent.includes({json.dumps(HOSTILE)})")
        assert tab.value("document.querySelectorAll('img, main script').length") == 0
        assert tab.value("document.title") == HOSTILE
        assert tab.value("document.getElementById('patch').textContent") == "16x16"

        # The picture is drawn: some of its pixels are far from the ground's colour.
        tab.until(
            "(() => { const c = document.getElementById('chart'), d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v > 200); })()"
        )

        # Space pauses and goes on; what came meanwhile is then seen. The arrows read a time.
        tab.press(" ", " ")
        tab.until("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
        assert tab.value("document.getElementById('faults').textContent") == ""
        page.publish(status(HOSTILE, time_s=6.0, patch=COARSE, signal=Signal(clipped=1234, offset=0.031)))
        tab.press(" ", " ")
        tab.until("document.getElementById('patch').textContent === '48x48'")
        assert tab.value("document.getElementById('faults').textContent") == "1,234 clipped · DC offset +3.1%"
        tab.value("document.getElementById('chart').focus()")
        tab.press("ArrowLeft")
        tab.until("document.getElementById('readout').textContent.includes('patch')")

    tab.until("document.getElementById('connection').textContent === 'the stream has ended'")


def test_the_page_says_why_it_cannot_connect(
    tab: Tab, build_frontend_spec: Callable[..., FrontendSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after a restart with another token, when nothing answers, and connected again by the right token."""
    tab.call("Page.enable")
    monkeypatch.setenv(TOKEN_VARIABLE, "first")
    with WebPage("127.0.0.1", 0, "title", build_frontend_spec()) as page:
        port, address = page._port, page.url
        tab.call("Page.navigate", url=address)
        tab.until("document.body?.dataset.state === 'live' && document.getElementById('refusal').hidden")
        tab.value("window.kept = true")
        page._server.force_exit = True  # killed, not ended: the page would not look for it again
        page._feed._browsers.clear()
    tab.until("document.getElementById('reason')?.textContent.startsWith('nothing answers')")
    monkeypatch.setenv(TOKEN_VARIABLE, "second")
    with WebPage("127.0.0.1", port, "title", build_frontend_spec()) as page:
        tab.until("document.getElementById('reason').textContent.startsWith('a token is needed')")
        assert tab.value("window.kept") is True
        tab.call("Page.navigate", url=page.url)
        tab.until("document.body?.dataset.state === 'live' && document.getElementById('refusal').hidden")
