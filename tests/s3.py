"""An S3 server on loopback, behind a proxy that is slow, says 503 or cuts connections when it is told to."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass
class Faults:
    """What becomes of the next requests; counted down as they come."""

    unavailable: int = 0
    """Requests that are answered with 503 SlowDown"""
    cut: int = 0
    """Bodies of objects that break off half-way"""
    denied: int = 0
    """Requests that are answered with 403"""
    slow_s: float = 0.0
    """Seconds that every answer waits"""
    requests: list[str] = field(default_factory=list)
    """Method and path of each so far"""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name: str) -> bool:
        """Whether the next fault of a kind is due."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return bool(left > 0)


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        faults = self.server.faults
        faults.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(faults.slow_s)
        self.close_connection = True
        for fault, status, content in (("unavailable", 503, SLOW_DOWN), ("denied", 403, DENIED)):
            if faults.take(fault):
                self._answer(status, {}, content)
                return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content, headers = answer.read(), dict(answer.getheaders())
        upstream.close()
        whole = self.command != "GET" or answer.getheader("Content-Type") == "application/xml" or not content
        self._answer(answer.status, headers, content, cut=not whole and faults.take("cut"))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 (as above)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        # What comes after an answer to HEAD, errors too, is no body: a client refuses it where it reads both at once.
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    faults: Faults
    upstream_port: int


def _empty(port: int) -> None:
    """All servers of a process share their buckets, so those of an earlier one are still there."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == HTTPStatus.OK
    connection.close()


@contextmanager
def serve_s3() -> Iterator[tuple[str, Faults]]:
    """The URL of a server that is empty, and its faults; in this process, on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    _empty(port)
    proxy = _Server(("127.0.0.1", 0), _Proxy)
    proxy.faults, proxy.upstream_port = Faults(), port
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", proxy.faults
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()
