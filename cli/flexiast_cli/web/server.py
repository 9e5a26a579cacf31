"""The page that shows what `flexiast listen` detects: its server runs in a thread and never delays the audio.

A browser opens the WebSocket ``/records``. It sends nothing, and receives:

- ``{"type": "hello", …}`` first: title, ``hop_s`` between two frames, ``low_hz`` and ``high_hz`` of the picture, its
  ``colours`` from silent to loud. Whatever was known before is void: the last minutes follow, then what happens.
- each record's JSON document, as ``listen --json`` prints it: status, event, switch, source, summary.
- a status says in ``frames`` how many frames are new since the one before; if any, the next message is binary and holds
  their shades: uint8 [frames, bins], the oldest frame and the lowest frequency first. The last ends at ``time_s``.
- ``{"type": "title", "title": …}``: another model listens now.
- an event comes again with ``clip``, the address of its sound, once there is one; its ``id`` tells that it is the same.

A browser that is slow loses statuses with their pictures. Close code 1000 says that the stream has ended; after any
other, it tries again. One that cannot open the WebSocket learns why from a POST to the same address, which is refused
for the same reasons, and otherwise answered by 426: something in between does not pass WebSockets on.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from flexiast.errors import FlexiastError, UsageError
from flexiast.extras import require
from flexiast_cli.spectrogram import MAGMA
from flexiast_cli.web.feed import Feed, Message
from flexiast_cli.web.guard import Guard, PublicUrl
from flexiast_cli.web.hosts import is_loopback
from flexiast_cli.web.missed import MissedDesk
from flexiast_cli.web.review import ReviewDesk
from flexiast_runtime.detection.records import Record
from flexiast_runtime.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from flexiast.spec import FrontendSpec
    from flexiast_cli.web.models import Models

PAGE = Path(__file__).with_name("page")
TOKEN_VARIABLE = "FLEXIAST_WEB_TOKEN"
CLIPS_EVERY_S = 1.0
"""Seconds between two polls for clips that did not exist yet."""
START_S = 10.0
"""Seconds that the server may take to start."""
END_S = 1.0
"""Seconds that browsers have to take the last records."""


def public_urls(web: str | None, texts: Sequence[str] | None) -> list[PublicUrl]:
    """Where proxies show the page; raises UsageError where there is no page."""
    if texts and web is None:
        raise UsageError("--web-url is the address at which a proxy shows the page of --web; give --web PORT too")
    return [PublicUrl.parse(text) for text in texts or ()]


class WebPage:
    """The page's server: its port is bound at once, and it answers within ``with``."""

    def __init__(
        self,
        host: str,
        port: int,
        title: str,
        frontend: FrontendSpec,
        clips: Path | None = None,
        public: Sequence[PublicUrl] = (),
        database: Path | None = None,
        models: Models | None = None,
    ) -> None:
        """``clips`` is a folder where sounds are, or will be, named by their event's id.

        With it and the ``database`` of these events, the view *Review* stores what was said of each.
        ``models`` swaps the model that listens.
        ``public`` are the addresses at which proxies show the page; a token is needed then.
        """
        for module in ("starlette", "uvicorn", "websockets"):
            require(module, "service")
        self._socket = _bind_socket(host, port)
        self._host, self._port = host, self._socket.getsockname()[1]
        self._public, private = tuple(public), is_loopback(host) and not public
        self._token = os.environ.get(TOKEN_VARIABLE) or (None if private else secrets.token_urlsafe(18))
        self._title, self._frontend, self._models = title, frontend, models
        self._clips, self._feed = clips, Feed()
        self._desk, self._missed = None, None
        if clips is not None and database is not None:
            self._desk, self._missed = ReviewDesk(database, clips, frontend), MissedDesk(database, frontend)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """Where a person finds it, with the token if one is needed."""
        name = socket.gethostname() if self._host in {"0.0.0.0", "::"} else self._host
        shown = f"[{name}]" if ":" in name else name
        first = next(iter(self._public), None)
        place = f"http://{shown}:{self._port}" if first is None else f"{first.origin}{first.path}"
        return f"{place}/" + (f"?token={quote(self._token)}" if self._token else "")

    def publish(self, record: Record) -> None:
        """Show a record to every browser; never waits for one."""
        assert self._loop is not None, "publish within `with`"
        self._loop.call_soon_threadsafe(self._feed.send, Message.from_record(record))

    def rename(self, title: str) -> None:
        """Give the page another title, in every browser."""
        self._title = title
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._feed.broadcast, Message({"type": "title", "title": title}))

    def __enter__(self) -> WebPage:
        import uvicorn

        from flexiast_cli.web.application import build_application

        application = build_application(
            PAGE, self._hello, self._feed, self._find_clip, self._lifespan, self._desk, self._missed, self._models
        )
        config = uvicorn.Config(
            Guard(application, self._host, self._port, self._token, self._public),
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,  # uvicorn renews it only in the loop that is replaced below
            lifespan="on",
            limit_concurrency=64,
            ws_max_size=1024,
            ws_per_message_deflate=False,  # a picture of noise hardly shrinks, and its CPU time would be the audio's
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._server.main_loop = self._wait_for_end  # type: ignore[method-assign]
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="flexiast-web", daemon=True
        )
        self._thread.start()
        if not self._started.wait(START_S):
            raise FlexiastError(f"the page's server did not start within {START_S:g} s")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._feed.end(END_S), self._loop).result()
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()

    def show_all(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records and show each on the page, which is served until they end."""
        with self:
            for record in records:
                self.publish(record)
                yield record

    def _hello(self) -> Message:
        frontend = self._frontend
        return Message(
            {
                "type": "hello",
                "schema_version": SCHEMA_VERSION,
                "title": self._title,
                "hop_s": frontend.hop_samples / frontend.sample_rate_hz,
                "low_hz": frontend.low_hz,
                "high_hz": frontend.high_hz,
                "colours": MAGMA,
            }
        )

    def _find_clip(self, event_id: str) -> Path | None:
        if self._clips is None or not re.fullmatch(r"[0-9a-f]{16}", event_id):
            return None
        found = next(self._clips.glob(f"*_{event_id}.flac"), None)
        return None if found is None or found.is_symlink() else found  # a link may lead anywhere

    async def _wait_for_end(self) -> None:
        """In place of uvicorn's own loop, which looks ten times a second whether it should end."""
        await self._server.on_tick(0)  # sets the headers
        await self._is_over.wait()

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        self._loop, self._is_over = asyncio.get_running_loop(), asyncio.Event()
        polling = self._loop.create_task(self._poll_clips())
        self._started.set()
        yield
        polling.cancel()

    async def _poll_clips(self) -> None:
        while self._clips is not None:
            for message in self._feed.list_missing_clips():
                if self._find_clip(message.document["id"]) is not None:
                    self._feed.add_clip(message, f"clips/{message.document['id']}")
            await asyncio.sleep(CLIPS_EVERY_S)


def _bind_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"--web cannot listen at {host}, port {port}: {error.strerror}; give another port") from error
