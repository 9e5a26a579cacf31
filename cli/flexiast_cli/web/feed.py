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

MAX_STATUSES = 480
"""Statuses that a new browser receives: two minutes of two sources with two windows a second."""
MAX_RECORDS = 200
"""Records of each other kind that a new browser receives."""
AWAITED_CLIPS = 20
"""The newest events are polled for a clip; an older one without a clip has none."""
MAX_QUEUED = 120
"""Messages that wait for one browser; beyond, it loses pictures."""


@dataclass
class Message:
    """A record for browsers: its document, and for a status its faults and the shades [frames, bins]."""

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
    """The queue of one browser; a slow one loses its oldest pictures, then its oldest records."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self.lost = 0

    def put(self, message: Message) -> None:
        if len(self._waiting) >= MAX_QUEUED:
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
        self._recent: dict[str, deque[Message]] = {}
        self._browsers: set[Browser] = set()
        self._ended = False

    def join(self) -> tuple[Browser, list[Message]]:
        """A new browser and the last messages: statuses first, because events are drawn on their pictures."""
        browser = Browser()
        self._browsers.add(browser)
        if self._ended:
            browser.end()
        kinds = sorted(self._recent, key=lambda kind: kind != "status")
        return browser, [message for kind in kinds for message in self._recent[kind]]

    def leave(self, browser: Browser) -> None:
        self._browsers.discard(browser)

    def send(self, message: Message) -> None:
        kind = message.document["type"]
        if kind not in self._recent:
            self._recent[kind] = deque(maxlen=MAX_STATUSES if kind == "status" else MAX_RECORDS)
        self._recent[kind].append(message)
        self.broadcast(message)

    def list_missing_clips(self) -> list[Message]:
        """The newest events without a clip."""
        return [
            message
            for message in list(self._recent.get("event", ()))[-AWAITED_CLIPS:]
            if "clip" not in message.document
        ]

    def add_clip(self, message: Message, url: str) -> None:
        """Send an event again, with its clip."""
        with_clip = Message(message.document | {"clip": url})
        recent = self._recent["event"]
        recent[recent.index(message)] = with_clip
        self.broadcast(with_clip)

    async def end(self, patience_s: float) -> None:
        """Accept no more messages; return when every queue is empty, or after ``patience_s`` seconds."""
        self._ended = True
        for browser in self._browsers:
            browser.end()
        latest = time.monotonic() + patience_s
        while self._browsers and time.monotonic() < latest:
            await asyncio.sleep(0.01)

    def broadcast(self, message: Message) -> None:
        """Hand a message to those who are there; who comes later does not get it."""
        for browser in self._browsers:
            browser.put(message)
