"""What the page's dialog *Model* asks of the listener."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Models(Protocol):
    """Swaps the model that listens."""

    def describe(self) -> Mapping[str, Any]:
        """``running``, ``before`` or None, each with ``name`` and ``sha256``; and the names of ``choices``."""
        ...

    def answer_page(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """``{"text": …}`` or ``{"error": …}`` to an ``action``: swap with ``model``, one of the choices; back; reload.

        Waits until the model has taken over, or is refused.
        """
        ...


async def call_in_thread(compute: Callable[[], T]) -> T:
    """What takes long, in a thread that the end of the program does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(compute())
        except Exception as error:  # noqa: BLE001 (raised where it is waited for)
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # whoever waits may go, and the result is still taken
    threading.Thread(target=run, name="flexiast-web-swap", daemon=True).start()
    return await asyncio.wrap_future(future)
