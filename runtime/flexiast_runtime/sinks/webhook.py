"""Events posted to a URL."""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from flexiast.errors import SinkDownError, SinkError, SinkUnavailableError
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.sinks.sink import RunContext
from flexiast_runtime.sinks.template import BodyTemplate

TIMEOUT_S = 10.0
_BROKEN_OFF = (TimeoutError, ConnectionResetError, BrokenPipeError, http.client.HTTPException)
"""What may befall one event alone: it is too much for a server that takes the others"""
PASSING = {408, 425, 429}
"""Client errors that are worth another try: time-out, too early, too many requests"""


class Webhook:
    """Posts each event as JSON, or as a template makes it.

    A server error, no answer and `PASSING` are tried again, not before the time that Retry-After gives; any other
    answer than 2xx is final. A redirect is not followed: it would carry the event and the token to another place.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        template: BodyTemplate | None = None,
        token: SecretStr | None = None,
        secret: SecretStr | None = None,
        timeout_s: float = TIMEOUT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``name``: scheme and host for None, as path and query may themselves be secret.

        ``token`` is sent as a bearer token; ``secret`` signs timestamp and body, see `signature`.
        """
        parts = urlsplit(url)
        self.name = name or f"{parts.scheme}://{parts.netloc}"
        self._url, self._template, self._token, self._secret = url, template, token, secret
        self._timeout_s, self._wall = timeout_s, wall
        self._opener = urllib.request.build_opener(_NoRedirect)

    def open(self, context: RunContext) -> None:
        """Nothing is sent before the first event."""

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event)

    def deliver(self, event: Event) -> None:
        try:
            with self._opener.open(self._request(event), timeout=self._timeout_s):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"it answered {error.code}"
            if error.code < 500 and error.code not in PASSING:
                raise SinkError(answer) from None
            wait_s = retry_after_s(error.headers.get("Retry-After"), self._wall())
            pause = f" and asks to wait {wait_s:,.0f} s" if wait_s else ""
            raise SinkUnavailableError(answer + pause, wait_s) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            kind = SinkUnavailableError if isinstance(reason, _BROKEN_OFF) else SinkDownError
            raise kind(f"it did not answer: {type(reason).__name__}") from None

    def close(self) -> None:
        """Each request has its own connection."""

    def _request(self, event: Event) -> urllib.request.Request:
        content_type, body = self._template.body(event) if self._template else ("application/json", _json(event))
        headers = {"Content-Type": content_type, "User-Agent": "flexiast", "X-Flexiast-Event": event.id}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        if self._secret is not None:
            timestamp = str(int(self._wall()))
            headers["X-Flexiast-Timestamp"] = timestamp
            headers["X-Flexiast-Signature"] = f"sha256={signature(self._secret, timestamp, body)}"
        return urllib.request.Request(self._url, body, headers, method="POST")


def signature(secret: SecretStr, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 in hex over the timestamp (Unix seconds, decimal), a full stop and the body."""
    return hmac.new(secret.get_secret_value().encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def retry_after_s(value: str | None, now_s: float) -> float:
    """Seconds in a Retry-After header, as a number or an HTTP date (RFC 9110, 10.2.3); else 0."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0


def _json(event: Event) -> bytes:
    return json.dumps(event.document(), ensure_ascii=False).encode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
