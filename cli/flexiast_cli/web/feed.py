"""Records on their way to browsers: the last minutes for those who come late, a bounded queue for each."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from flexiast_cli.spectrogram import shades
from flexiast_runtime.detection.records import Record, Status

KEPT_STATUSES = 480
"""Windows that a new browser is sent: two minutes of two sources that are looked at twice a second."""
KEPT_RECORDS = 200
"""Events, switches and notices that a new browser is sent, each."""
AWAITED = 20
"""Events whose clip may still come; those before them have none."""
QUEUED = 120
"""Messages that wait for one browser; then it loses pictures."""


@dataclass
class Message:
    """A record as a browser is sent it: its document, and for a status its faults and the shades [frames, bins]."""

    document: dict[str, Any]
    picture: bytes = b""

    def __post_init__(self) -> None:
        self.text = json.dumps(self.document)

    @classmethod
    def from_record(cls, record: Record) -> Message:
        if not isinstance(record, Status):
            return cls(record.document())
        faults = () if record.signal is None else record.signal.faults()
        more = {"frames": len(record.frames), "faults": faults}
        return cls(record.document() | more, shades(record.frames).tobytes())


class Browser:
    """What one browser has yet to be sent; one that is slow loses its oldest pictures, then its oldest records."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self.lost = 0

    def put(self, message: Message) -> None:
        if len(self._waiting) >= QUEUED:
            self._waiting.remove(next((old for old in self._waiting if old.picture), self._waiting[0]))
            self.lost += 1
        self._waiting.append(message)
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def get(self) -> Message | None:
        """The next message, waited for; None at the end."""
        while not self._waiting:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class Feed:
    """Hands each message to every browser; used by one event loop alone."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[Message]] = {}
        self._browsers: set[Browser] = set()
        self._ended = False

    def join(self) -> tuple[Browser, list[Message]]:
        """A new browser, and what it has missed: statuses first, so that what is drawn on them comes after them."""
        browser = Browser()
        self._browsers.add(browser)
        if self._ended:
            browser.end()
        kinds = sorted(self._kept, key=lambda kind: kind != "status")
        return browser, [message for kind in kinds for message in self._kept[kind]]

    def leave(self, browser: Browser) -> None:
        self._browsers.discard(browser)

    def send(self, message: Message) -> None:
        kind = message.document["type"]
        if kind not in self._kept:
            self._kept[kind] = deque(maxlen=KEPT_STATUSES if kind == "status" else KEPT_RECORDS)
        self._kept[kind].append(message)
        self._to_all(message)

    def list_missing_clips(self) -> list[Message]:
        """The last events whose clip is not there yet."""
        return [message for message in list(self._kept.get("event", ()))[-AWAITED:] if "clip" not in message.document]

    def add_clip(self, message: Message, url: str) -> None:
        """Send an event again, now with its clip."""
        with_clip = Message(message.document | {"clip": url})
        kept = self._kept["event"]
        kept[kept.index(message)] = with_clip
        self._to_all(with_clip)

    async def end(self, patience_s: float) -> None:
        """No more will come: return when all browsers have been sent what waits, or after so many seconds."""
        self._ended = True
        for browser in self._browsers:
            browser.end()
        latest = time.monotonic() + patience_s
        while self._browsers and time.monotonic() < latest:
            await asyncio.sleep(0.01)

    def _to_all(self, message: Message) -> None:
        for browser in self._browsers:
            browser.put(message)
