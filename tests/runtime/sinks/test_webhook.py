"""Events posted to a server in a thread: what it gets, and what is tried again."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from flexiast.errors import SinkDownError, SinkError, SinkUnavailableError, UsageError
from flexiast_runtime.sinks.template import BodyTemplate
from flexiast_runtime.sinks.webhook import Webhook
from tests.runtime.sinks.conftest import BEGAN_AT_S, event, status


class Post(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Server(http.server.ThreadingHTTPServer):
    """Answers with the codes given, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes: list[int] = []
        self.retry_after = ""
        self.posts: list[Post] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append(Post(self.path, dict(self.headers), body))
        self.send_response(self.server.codes.pop(0) if self.server.codes else 200)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_event_is_posted_as_its_document_and_the_query_stays(server: Server) -> None:
    hook = Webhook(f"{server.url}/hook?key=a%20b&x=1")
    assert hook.wants(event()) and not hook.wants(status())
    hook.deliver(event(label="Hundegebell – laut"))
    (post,) = server.posts
    assert post.path == "/hook?key=a%20b&x=1"
    assert post.headers["Content-Type"] == "application/json"
    assert post.headers["X-Flexiast-Event"] == event(label="Hundegebell – laut").id
    assert "Authorization" not in post.headers and "X-Flexiast-Signature" not in post.headers
    assert json.loads(post.body) == event(label="Hundegebell – laut").document()


def test_a_secret_signs_the_time_and_the_body(server: Server) -> None:
    Webhook(server.url, secret=SecretStr("hunter2"), token=SecretStr("t0ken"), wall=lambda: 1234.9).deliver(event())
    (post,) = server.posts
    expected = hmac.digest(b"hunter2", b"1234." + post.body, "sha256").hex()
    assert post.headers["X-Flexiast-Timestamp"] == "1234"
    assert post.headers["X-Flexiast-Signature"] == f"sha256={expected}"
    assert post.headers["Authorization"] == "Bearer t0ken"
    assert hashlib.sha256(b"hunter2").hexdigest() not in str(post.headers)


@pytest.mark.parametrize(
    ("suffix", "text", "label", "content_type", "body"),
    [
        (
            ".json",
            '{"text": "Heard $label ($score)"}',
            'a "dog"',
            "application/json",
            '{"text": "Heard a \\"dog\\" (0.75)"}',
        ),
        (".txt", "Heard $label for $$5", 'a "dog"', "text/plain; charset=utf-8", 'Heard a "dog" for $5'),
    ],
)
def test_a_template_makes_the_body(
    server: Server, tmp_path: Path, suffix: str, text: str, label: str, content_type: str, body: str
) -> None:
    template = tmp_path / f"body{suffix}"
    template.write_text(text)
    Webhook(server.url, template=BodyTemplate(template)).deliver(event(label=label))
    assert server.posts[0].headers["Content-Type"] == content_type
    assert server.posts[0].body.decode() == body


def test_a_template_with_a_field_that_no_event_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"text": "$lable"}')
    with pytest.raises(UsageError, match=r"body\.json cannot be used as a template: 'lable'; there are .*\$label"):
        BodyTemplate(tmp_path / "body.json")
    with pytest.raises(UsageError, match="cannot be read"):
        BodyTemplate(tmp_path / "none.json")


@pytest.mark.parametrize("code", [500, 502, 503, 408, 425, 429])
def test_what_may_pass_is_worth_another_try(server: Server, code: int) -> None:
    server.codes = [code]
    hook = Webhook(server.url)
    with pytest.raises(SinkUnavailableError, match=f"answered {code}") as caught:
        hook.deliver(event())
    assert not isinstance(caught.value, SinkDownError) and caught.value.retry_after_s == 0
    hook.deliver(event())
    assert len(server.posts) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        (" 0 ", 0),
        ("Wed, 25 Nov 2026 15:24:12 GMT", 30),
        ("Wed, 25 Nov 2026 15:00:00 GMT", 0),
        *((nonsense, 0) for nonsense in ("soon", "-5", "1e9", "9" * 20, "Wed, 99 Nov 2026 15:24:12 GMT")),
    ],
)
def test_the_time_that_a_server_asks_for_is_kept(server: Server, value: str, seconds: float) -> None:
    server.codes, server.retry_after = [429], value
    with pytest.raises(SinkUnavailableError) as caught:
        Webhook(server.url, wall=lambda: BEGAN_AT_S).deliver(event())
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize("code", [302, 307, 400, 401, 404, 410])
def test_other_answers_are_final_and_no_redirect_is_followed(server: Server, code: int) -> None:
    server.codes = [code]
    with pytest.raises(SinkError, match=f"answered {code}") as caught:
        Webhook(server.url).deliver(event())
    assert not isinstance(caught.value, SinkUnavailableError)
    assert len(server.posts) == 1


def test_a_server_that_is_down_or_silent_is_worth_another_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        hook = Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/?key=hunter2", timeout_s=0.1)
        with pytest.raises(SinkUnavailableError, match="did not answer: TimeoutError") as caught:
            hook.deliver(event())
    assert "hunter2" not in str(caught.value) and not isinstance(caught.value, SinkDownError)
    with pytest.raises(SinkDownError, match="did not answer: ConnectionRefusedError") as caught:
        hook.deliver(event())
    assert "hunter2" not in str(caught.value)
