"""What the page's server answers: the page's files, clips, and the WebSocket of records. Needs the extra `service`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from flexiast_cli.web.feed import Feed, Message

PAGE = Path(__file__).with_name("page")

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def build_application(
    hello: Message, feed: Feed, clip_path: Callable[[str], Path | None], lifespan: Lifespan
) -> Starlette:
    """``hello`` is every browser's first message, ``clip_path`` finds the clip of an event by its id."""

    async def answer_clip(request: Request) -> Response:
        path = clip_path(request.path_params["id"])
        return PlainTextResponse("there is no such clip\n", 404) if path is None else FileResponse(path)

    async def send_records(socket: WebSocket) -> None:
        await socket.accept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_messages, socket, hello, feed)
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
            tasks.cancel_scope.cancel()

    routes: list[BaseRoute] = [
        WebSocketRoute("/records", send_records),
        Route("/records", _answer_without_websocket, methods=["GET", "POST"]),
        Route("/clips/{id}", answer_clip),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _send_messages(socket: WebSocket, hello: Message, feed: Feed) -> None:
    browser, past = feed.join()
    try:
        for message in (hello, *past):
            await _send(socket, message)
        while (new := await browser.get()) is not None:
            await _send(socket, new)
        await socket.close(1000)
    except WebSocketDisconnect:
        pass  # the browser left in the middle of a message; send_records sees it too and returns
    finally:
        feed.leave(browser)


async def _answer_without_websocket(_: Request) -> Response:
    text = "no WebSocket gets through: a proxy in between must pass on the headers Upgrade and Connection\n"
    return PlainTextResponse(text, 426, {"upgrade": "websocket"})


async def _send(socket: WebSocket, message: Message) -> None:
    await socket.send_text(message.text)
    if message.picture:
        await socket.send_bytes(message.picture)
