"""Who may see the page: an ASGI layer that checks host, origin and token, and adds the headers that browsers obey.

A foreign page in the same browser reaches 127.0.0.1 too. By DNS rebinding it would come under a name of its own, so
``Host`` must be one of ours; a WebSocket from another site says so in ``Origin``, which must match ``Host``. A proxy
gives the page a name more and may change ``Host``; what is allowed then is what the user named, never what a header
claims.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flexiast.errors import UsageError
from flexiast.text import printable
from flexiast_cli.web.hosts import ResolvedNames, is_address, is_loopback, own_names

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


@dataclass(frozen=True)
class PublicUrl:
    """The address at which a proxy shows the page: https://sounds.example.org/kitchen/ has the path "/kitchen"."""

    origin: str
    """Scheme, host and port as a browser writes them: no default port."""
    host: str
    path: str
    """Without the slash at its end; empty at the root."""

    @property
    def secure(self) -> bool:
        return self.origin.startswith("https:")

    @classmethod
    def parse(cls, text: str) -> PublicUrl:
        """Raises UsageError for anything that is no plain http(s) URL."""
        try:
            parts = urlsplit(text)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        path = parts.path.rstrip("/")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc) and re.fullmatch(r"[A-Za-z0-9._~/-]*", path)
        if parts.scheme not in {"http", "https"} or not host or not host.isascii() or not plain or "//" in path:
            raise UsageError(
                f"--web-url {text!r} cannot be used; give the address that browsers open, such as "
                "https://sounds.example.org/ or https://home.example.org/kitchen/"
            )
        if path in {"/clips", "/model", "/records", "/review"}:
            raise UsageError(f"--web-url {text!r}: the page has a {path} of its own; give it another path")
        shown = f"[{host}]" if ":" in host else host
        default = {"http": 80, "https": 443}[parts.scheme]
        origin = f"{parts.scheme}://{shown}" + ("" if port in {None, default} else f":{port}")
        return cls(origin, host, path)


class Guard:
    """Wraps an application; with ``token`` None, everybody gets in whose Host is one of ours.

    ``public`` are the addresses at which proxies show the page; there the token must be asked for.
    """

    def __init__(self, app: App, host: str, port: int, token: str | None, public: Sequence[PublicUrl] = ()) -> None:
        assert token is not None or not public, (
            "behind a proxy everybody comes from this machine: only a token distinguishes them"
        )
        self._app, self._host, self._token, self._public = app, host, token, tuple(public)
        self._cookie = f"flexiast-{port}"  # cookies know no ports: two pages of one machine must not share one
        self._resolved = ResolvedNames()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        refusal = await self._refusal(headers, query, (scope.get("server") or ("",))[0])
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        extra = dict(HEADERS)
        if self._token is not None and "token" in parse_qs(query):
            extra["set-cookie"] = self._cookie_for(headers)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encode_headers(extra)]
            await send(message)

        path = self._path(scope["path"])
        if path:
            await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)
        else:  # the names of the page's parts are relative to its folder
            extra["location"] = scope["path"].rpartition("/")[2] + "/" + (f"?{query}" if query else "")
            await _answer(send, 308, "", extra)

    async def _refusal(self, headers: dict[str, str], query: str, address: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not await self._is_ours(host, address):
            return 421, (
                f"flexiast does not go by the name {_shorten(host)}; open the address that it printed, or, if a proxy "
                "shows the page by this name, start it with --web-url and that address"
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_same_site(origin, host):
            return 403, (
                f"the page is at {_shorten(origin)}, and flexiast was asked as {_shorten(host)}: another site may not "
                "read it; if a proxy shows the page there, start flexiast with --web-url and that address"
            )
        if self._token is not None and not self._is_known(headers.get("cookie", ""), query):
            return 401, "a token is needed; open the address that flexiast printed, with the token in it"
        return None

    async def _is_ours(self, host: str, address: str) -> bool:
        """A loopback name or one that the user gave; bound elsewhere also the machine's, and an address as digits.

        Such an address cannot be rebound.
        """
        name = _name(host)
        if is_loopback(name) or name == self._host.lower() or any(name == public.host for public in self._public):
            return True
        if not name or is_loopback(self._host):
            return False
        return is_address(name) or name in own_names() or name in await self._resolved.look_up(address)

    def _is_same_site(self, origin: str, host: str) -> bool:
        scheme, _, place = origin.lower().partition("://")
        return (bool(scheme) and place == host.lower()) or origin in {public.origin for public in self._public}

    def _path(self, path: str) -> str:
        """The path within the page, whether or not the proxy took off the one at which it shows the page.

        Empty for the page's folder without its slash.
        """
        for public in self._public:
            if public.path and (path == public.path or path.startswith(f"{public.path}/")):
                return path[len(public.path) :]
        return path

    def _cookie_for(self, headers: dict[str, str]) -> str:
        """The cookie, limited to the page's path where Host identifies it, and to TLS where the browser uses that.

        A proxy that does not pass the name on looks like a browser on this machine; these keep such cookies for
        http://127.0.0.1, too.
        """
        assert self._token is not None
        name = _name(headers.get("host", ""))
        folder = next((public.path for public in self._public if public.host == name), "")
        shown_by = [public for public in self._public if public.host == name or is_loopback(name)]
        secure = any(public.secure for public in shown_by) or headers.get("x-forwarded-proto") == "https"
        cookie = f"{self._cookie}={_digest(self._token)}; Path={folder}/; HttpOnly; SameSite=Strict"
        return f"{cookie}; Secure" if secure else cookie

    def _is_known(self, cookies: str, query: str) -> bool:
        assert self._token is not None
        given = parse_qs(query).get("token", [""])[0]
        try:
            held = SimpleCookie(cookies).get(self._cookie)
        except CookieError:
            held = None
        by_cookie = held is not None and _same(held.value, _digest(self._token))
        return _same(given, self._token) or by_cookie


def _name(host: str) -> str:
    """``Host`` without its port, in lower case; empty where it cannot be parsed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _shorten(name: str) -> str:
    """A header's value, cut and made safe to print."""
    return printable(name[:100]) or "no name"


def _digest(token: str) -> str:
    """The cookie's value: proves knowledge of the token without revealing it; hexadecimal, whatever the token holds."""
    return hashlib.sha256(f"flexiast page {token}".encode()).hexdigest()


def _same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _encode_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the answer is 403
        return
    await _answer(send, status, f"{reason}\n", HEADERS | {"content-type": "text/plain; charset=utf-8"})


async def _answer(send: Send, status: int, text: str, headers: dict[str, str]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _encode_headers(headers)})
    await send({"type": "http.response.body", "body": text.encode()})
