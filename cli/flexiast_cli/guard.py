"""Who may see the page: an ASGI layer that checks host, origin and token, and adds the headers that browsers obey.

A foreign page in the same browser reaches 127.0.0.1 too. By DNS rebinding it would come under a name of its own, so
``Host`` must be one of ours; a WebSocket from another site says so in ``Origin``, which must match ``Host``.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache, private",
}


class Guard:
    """Wraps an application; ``token`` None lets everybody in who comes by a name of ours."""

    def __init__(self, app: App, host: str, port: int, token: str | None) -> None:
        self._app, self._host, self._token = app, host, token
        self._cookie = f"flexiast-{port}"  # cookies know no ports: two pages of one machine must not share one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers, scope["query_string"].decode("latin-1"))
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        extra = dict(HEADERS)
        if self._token is not None and "token" in parse_qs(scope["query_string"].decode("latin-1")):
            extra["set-cookie"] = f"{self._cookie}={_digest(self._token)}; Path=/; HttpOnly; SameSite=Strict"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encoded(extra)]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: dict[str, str], query: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "this page does not go by that name; use the address that flexiast printed"
        if "origin" in headers and urlsplit(headers["origin"]).netloc.lower() != host.lower():
            return 403, "another site may not read this page"
        if self._token is not None and not self._is_known(headers.get("cookie", ""), query):
            return 401, "a token is needed; open the address that flexiast printed"
        return None

    def _is_ours(self, host: str) -> bool:
        """A loopback name; bound elsewhere also the machine's, and an address as digits, which cannot be rebound."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if is_loopback(name) or name == self._host.lower():
            return True
        machine = socket.gethostname().lower()
        return not is_loopback(self._host) and (_is_address(name) or name in {machine, f"{machine}.local"})

    def _is_known(self, cookies: str, query: str) -> bool:
        assert self._token is not None
        given = parse_qs(query).get("token", [""])[0]
        try:
            held = SimpleCookie(cookies).get(self._cookie)
        except CookieError:
            held = None
        by_cookie = held is not None and _same(held.value, _digest(self._token))
        return _same(given, self._token) or by_cookie


def is_loopback(name: str) -> bool:
    return name.lower() == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(token: str) -> str:
    """What the cookie holds: proves the token and does not tell it; letters and digits only, whatever the token has."""
    return hashlib.sha256(f"flexiast page {token}".encode()).hexdigest()


def _same(given: str, expected: str) -> bool:
    """In a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the answer is 403
        return
    headers = HEADERS | {"content-type": "text/plain; charset=utf-8"}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
