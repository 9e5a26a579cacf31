"""The page, served by the real server: what a browser is sent, whom it lets in, and that nobody holds up the audio."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.errors import MissingExtraError, UsageError
from flexiast.spec import FrontendSpec
from flexiast_cli.options.validators import parse_address
from flexiast_cli.spectrogram import shades
from flexiast_cli.web import feed
from flexiast_cli.web.feed import Browser, Message
from flexiast_cli.web.server import PAGE, TOKEN_VARIABLE, WebPage
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import SourceNotice, Status, Summary
from tests.cli.terminal.test_screen import event, status

pytest.importorskip("starlette", reason="the page needs the extra `service`")
pytest.importorskip("uvicorn", reason="the page needs the extra `service`")
client = pytest.importorskip("websockets.sync.client", reason="the page needs the extra `service`")

PAUSE_S = 20.0
"""How long a test waits for what comes at once on a machine that is not busy."""


@pytest.fixture
def serve(build_frontend_spec: Callable[..., FrontendSpec]) -> Callable[..., Any]:
    @contextmanager
    def serve(host: str = "127.0.0.1", **options: Any) -> Iterator[WebPage]:
        with WebPage(host, 0, "<b>title</b>", build_frontend_spec(), **options) as page:
            yield page

    return serve


def port_of(page: WebPage) -> int:
    found = re.search(r":(\d+)/", page.url)
    assert found
    return int(found[1])


def get(page: WebPage, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    """One GET to 127.0.0.1; ``Host`` is as in the headers or right."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=PAUSE_S)
    connection.request("GET", path, headers={"Host": f"127.0.0.1:{port_of(page)}"} | headers)
    response = connection.getresponse()
    response.content = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def browse(page: WebPage, query: str = "", **options: Any) -> Any:
    return client.connect(f"ws://127.0.0.1:{port_of(page)}/records{query}", open_timeout=PAUSE_S, **options)


def documents(browser: Any, count: int) -> list[dict[str, Any]]:
    """The next messages; pictures are kept under "shades"."""
    found = []
    for _ in range(count):
        document = json.loads(browser.recv(timeout=PAUSE_S))
        if document.get("frames"):
            document["shades"] = browser.recv(timeout=PAUSE_S)
        found.append(document)
    return found


def test_a_browser_is_sent_the_past_then_what_happens(serve: Any) -> None:
    with serve() as page:
        page.publish(event())
        page.publish(first := status(signal=Signal(clipped=3)))
        with browse(page) as browser:
            hello, *past = documents(browser, 3)
            assert hello["type"] == "hello"
            assert (hello["title"], hello["hop_s"], hello["low_hz"], hello["high_hz"]) == (
                "<b>title</b>",
                0.01,
                20,
                8000,
            )
            assert [document["type"] for document in past] == ["status", "event"]
            page.publish(SourceNotice("garden", 6.0, "lost", "unplugged"))
            (notice,) = documents(browser, 1)
    assert past[0].pop("shades") == shades(first.frames).tobytes()
    assert past[0] == first.document() | {"frames": len(first.frames), "faults": ["3 clipped"]}
    assert past[1] == event().document()
    assert notice["state"] == "lost"


def test_the_end_of_the_stream_comes_after_all_records(serve: Any, build_frontend_spec: Any) -> None:
    import websockets

    page = WebPage("127.0.0.1", 0, "title", build_frontend_spec())
    records = [status(time_s=float(number)) for number in range(40)] + [
        Summary("garden", 40.0, 40, 0, 0, 0, 0, 0.0, 1.0, ())
    ]
    stream = page.show_all(iter(records))
    next(stream)
    with browse(page) as browser:
        assert list(stream) == records[1:]
        seen = documents(browser, 1 + len(records))
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            browser.recv(timeout=PAUSE_S)
    assert [document["time_s"] for document in seen[1:-1]] == list(range(40))
    assert seen[-1]["type"] == "summary"
    assert closed.value.rcvd.code == 1000


def test_an_event_comes_again_when_its_clip_is_there(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexiast_cli.web.server.CLIPS_EVERY_S", 0.01)
    heard = event()
    (tmp_path / f"{heard.id}.json").write_text("{}")  # not a sound
    (tmp_path / "secret.flac").write_bytes(b"secret")
    with serve(clips=tmp_path) as page, browse(page) as browser:
        page.publish(heard)
        assert "clip" not in documents(browser, 2)[1]
        (tmp_path / f"20261125T120000Z_dog_{heard.id}.flac").write_bytes(b"a sound of some length")
        (again,) = documents(browser, 1)
        assert again == heard.document() | {"clip": f"clips/{heard.id}"}
        found = get(page, f"/{again['clip']}", Range="bytes=2-6")
        assert (found.status, found.content) == (206, b"sound")
        assert found.getheader("Content-Type") in {"audio/flac", "audio/x-flac"}
        for wrong in ("secret", "0" * 16, "..%2fsecret", f"{heard.id}.flac", "%2e%2e"):
            assert get(page, f"/clips/{wrong}").status == 404


def test_the_page_is_whole_and_asks_nobody_else(serve: Any) -> None:
    with serve() as page:
        for path in ("/", *(f"/{file.name}" for file in PAGE.iterdir())):
            response = get(page, path)
            text = response.content.decode()
            assert response.status == 200
            assert "'unsafe" not in response.getheader("Content-Security-Policy", "'unsafe")
            assert response.getheader("X-Content-Type-Options") == "nosniff"
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
        for name in ("index.html", "review.html"):
            html = (PAGE / name).read_text()
            assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", html)
            for part in re.findall(r'(?:src|href)="([^"]+)"', html):
                assert part == "." or (PAGE / part).is_file()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.168.1.5:{port}", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_a_name_that_is_not_ours_is_refused(serve: Any, host: str, expected: int) -> None:
    with serve() as page:
        assert get(page, Host=host.format(port=port_of(page))).status == expected


def test_another_site_may_not_open_the_websocket(serve: Any) -> None:
    import websockets

    with serve() as page:
        for origin in ("http://evil.example", "null", f"http://localhost:{port_of(page)}"):
            with pytest.raises(websockets.InvalidStatus, match="403"), browse(page, origin=origin):
                pass
            assert get(page, "/page.js", Origin=origin).status == 403
        with browse(page, origin=f"http://127.0.0.1:{port_of(page)}") as browser:
            assert documents(browser, 1)[0]["type"] == "hello"


def test_off_loopback_a_token_is_needed_once(serve: Any) -> None:
    import websockets

    with serve("0.0.0.0") as page:
        token = page.url.partition("?token=")[2]
        assert len(token) >= 20
        for path in ("/", "/page.js", "/clips/x", "/?token=", "/?token=wrong", f"/?token={token[:-1]}"):
            assert get(page, path).status == 401
        with pytest.raises(websockets.InvalidStatus), browse(page):
            pass
        first = get(page, f"/?token={token}")
        cookie = first.getheader("Set-Cookie", "")
        assert first.status == 200
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert token not in cookie
        held = cookie.split(";")[0]
        assert get(page, "/page.js", Cookie=f"other=1; {held}").status == 200
        assert get(page, "/page.js", Cookie=held[:-1]).status == 401
        with browse(page, additional_headers={"Cookie": held}) as browser:
            assert documents(browser, 1)[0]["type"] == "hello"
        assert get(page, f"/?token={token}", Host=f"192.168.1.5:{port_of(page)}").status == 200
        assert get(page, f"/?token={token}", Host="evil.example").status == 421


def test_a_token_of_ones_own_is_asked_for_everywhere(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "open=sesame; é")
    with serve() as page:
        assert get(page).status == 401
        response = get(page, "/?" + page.url.partition("?")[2])
        assert response.status == 200
        assert get(page, Cookie=response.getheader("Set-Cookie", "").split(";")[0]).status == 200


def test_a_browser_that_does_not_read_holds_up_nobody(serve: Any) -> None:
    """About 20 MB for a browser that reads none of it; another one gets the last record."""
    big = replace(status(), frames=np.zeros((1_000, 64), np.float32))
    with serve() as page, socket.create_connection(("127.0.0.1", port_of(page))) as deaf, browse(page) as browser:
        host = f"127.0.0.1:{port_of(page)}"
        deaf.sendall(
            f"GET /records HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert deaf.recv(12) == b"HTTP/1.1 101"
        for _ in range(300):
            page.publish(big)
        page.publish(event())
        while documents(browser, 1)[0]["type"] != "event":
            pass
        waiting = sorted(len(each._waiting) for each in page._feed._browsers)
    assert waiting[0] == 0
    assert 0 < waiting[-1] <= feed.MAX_QUEUED


@given(st.lists(st.booleans(), max_size=400))
def test_a_slow_browser_loses_pictures_before_records(kinds: list[bool]) -> None:
    browser = Browser()
    sent = [Message({"number": number}, b"picture" if kind else b"") for number, kind in enumerate(kinds)]
    for message in sent:
        browser.put(message)
    kept = list(browser._waiting)
    assert len(kept) == min(len(sent), feed.MAX_QUEUED)
    assert [message for message in sent if message in kept] == kept  # in order
    lost = [message for message in sent if message not in kept]
    if sum(not message.picture for message in sent) <= feed.MAX_QUEUED:
        assert all(message.picture for message in lost)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8642", ("127.0.0.1", 8642)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("pi.local:8642", ("pi.local", 8642)),
        ("[::1]:8642", ("::1", 8642)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "pi", "pi:", "1:99999", "8642/", "-1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give \\[HOST:\\]PORT"):
        parse_address(text)


def test_a_port_in_use_is_told(serve: Any, build_frontend_spec: Any) -> None:
    with serve() as page, pytest.raises(UsageError, match="give another port"):
        WebPage("127.0.0.1", port_of(page), "title", build_frontend_spec())


def test_a_missing_part_names_its_extra(build_frontend_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"flexiast\[service\]"):
        WebPage("127.0.0.1", 0, "title", build_frontend_spec())


def test_a_status_keeps_its_frames_to_itself() -> None:
    assert "frames" not in status().document()
    assert isinstance(status(), Status)
    assert status() == replace(status(), frames=np.zeros((1, 64), np.float32))
