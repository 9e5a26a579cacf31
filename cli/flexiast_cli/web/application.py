"""What the page's server answers: the page's files, clips, the WebSocket of records, the view *Review*, the model.

Needs the extra `service`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from flexiast.errors import ChangedError, FlexiastError, LockedError, UsageError
from flexiast_cli.web.feed import Feed, Message
from flexiast_cli.web.missed import MissedDesk
from flexiast_cli.web.models import Models, call_in_thread
from flexiast_cli.web.review import ReviewDesk

LARGEST_BODY = 10_000
"""Bytes of a verdict, or of what is asked for a model"""
NO_REVIEW = "to review what it detects, start flexiast listen with --to sqlite and --to clips:FOLDER"

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def build_application(
    page: Path,
    hello: Callable[[], Message],
    feed: Feed,
    find_clip: Callable[[str], Path | None],
    lifespan: Lifespan,
    desk: ReviewDesk | None = None,
    missed: MissedDesk | None = None,
    models: Models | None = None,
) -> Starlette:
    """``page`` holds the files, ``hello`` gives every browser's first message.

    Without a ``desk`` nothing is reviewed, without ``missed`` nothing is marked, without ``models`` none is swapped.
    """

    def answer_clip(request: Request) -> Response:
        path = find_clip(request.path_params["id"])
        return PlainTextResponse("there is no such clip\n", 404) if path is None else FileResponse(path)

    async def send_records(socket: WebSocket) -> None:
        await socket.accept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_messages, socket, hello(), feed)
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
            tasks.cancel_scope.cancel()

    routes: list[BaseRoute] = [
        WebSocketRoute("/records", send_records),
        Route("/records", _answer_without_websocket, methods=["GET", "POST"]),
        Route("/clips/{id}", answer_clip),
        *_mark_routes(missed),
        *_review_routes(desk),
        *_model_routes(models),
        Mount("/", StaticFiles(directory=page, html=True)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _review_routes(desk: ReviewDesk | None) -> list[BaseRoute]:
    if desk is None:
        methods = ["GET", "PUT", "POST", "DELETE"]
        return [Route("/review/{path:path}", _answer_without_review, methods=methods)]

    def answer_queue(request: Request) -> Response:
        return _answer(lambda: desk.list_queue(request.query_params))

    def answer_event(request: Request) -> Response:
        return _answer(lambda: desk.describe(request.path_params["id"]))

    def answer_precision(_: Request) -> Response:
        return _answer(desk.measure)

    def answer_picture(request: Request) -> Response:
        try:
            return Response(desk.draw(request.path_params["id"]), media_type="application/octet-stream")
        except FlexiastError as error:
            return _refuse(error)

    async def change_verdict(request: Request) -> Response:
        change = desk.judge if request.method == "PUT" else desk.withdraw
        try:
            document = await _read_document(request)
        except UsageError as error:
            return _refuse(error)
        return await run_in_threadpool(_answer, lambda: change(request.path_params["id"], document))

    return [
        Route("/review/queue", answer_queue),
        Route("/review/precision", answer_precision),
        Route("/review/events/{id}", answer_event),
        Route("/review/pictures/{id}", answer_picture),
        Route("/review/verdicts/{id}", change_verdict, methods=["PUT", "DELETE"]),
    ]


def _mark_routes(missed: MissedDesk | None) -> list[BaseRoute]:
    if missed is None:
        return []

    def answer_missed(_: Request) -> Response:
        return _answer(missed.list_sources)

    def answer_look(request: Request) -> Response:
        return _answer(lambda: missed.look(request.query_params))

    def answer_sound(request: Request) -> Response:
        try:
            return Response(missed.encode(request.query_params), media_type="audio/flac")
        except FlexiastError as error:
            return _refuse(error)

    async def mark(request: Request) -> Response:
        try:
            document = await _read_document(request)
        except UsageError as error:
            return _refuse(error)
        return await run_in_threadpool(_answer, lambda: missed.mark(document))

    def withdraw_mark(request: Request) -> Response:
        return _answer(lambda: missed.withdraw(request.path_params["id"]))

    return [
        Route("/review/missed", answer_missed),
        Route("/review/missed", mark, methods=["POST"]),
        Route("/review/missed/look", answer_look),
        Route("/review/missed/sound", answer_sound),
        Route("/review/missed/{id}", withdraw_mark, methods=["DELETE"]),
    ]


def _model_routes(models: Models | None) -> list[BaseRoute]:
    if models is None:
        return [Route("/model", _answer_without_models, methods=["GET", "POST"])]

    def describe(_: Request) -> Response:
        return JSONResponse(models.describe())

    async def swap(request: Request) -> Response:
        try:
            document = await _read_document(request)
        except UsageError as error:
            return _refuse(error)
        try:
            answer = await call_in_thread(lambda: models.answer_page(document))
        except asyncio.CancelledError:  # the server ends, and would log a traceback
            return JSONResponse({"error": "listening has ended"}, 503)
        return JSONResponse(answer, 400 if "error" in answer else 200)

    return [Route("/model", describe), Route("/model", swap, methods=["POST"])]


def _answer(compute: Callable[[], Mapping[str, Any]]) -> Response:
    try:
        return JSONResponse(compute())
    except FlexiastError as error:
        return _refuse(error)


def _refuse(error: FlexiastError) -> Response:
    """What is wrong, in words, with the status that tells its kind: 409 changed meanwhile, 503 try again."""
    statuses = {UsageError: 400, ChangedError: 409, LockedError: 503}
    status = next((code for kind, code in statuses.items() if isinstance(error, kind)), 404)
    return JSONResponse({"error": str(error)}, status)


async def _read_document(request: Request) -> dict[str, Any]:
    """The JSON object of a request; raises UsageError. Only JSON: a form of another site cannot send that."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise UsageError(f"a request has at most {LARGEST_BODY:,} bytes")
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if request.headers.get("content-type", "").partition(";")[0] != "application/json" or not isinstance(
        document, dict
    ):
        raise UsageError("a request is a JSON object")
    return document


async def _answer_without_review(_: Request) -> Response:
    return JSONResponse({"error": NO_REVIEW}, 404)


async def _answer_without_models(_: Request) -> Response:
    return JSONResponse({"error": "a recording is heard with one model; live sound may get another"}, 404)


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
