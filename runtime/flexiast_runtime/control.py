"""A process that runs for weeks can be asked something: one line of JSON, one in answer, over a socket of its user's.

The sockets lie in a folder that only their user may enter, each named by its process. A process that was killed leaves
its socket behind; whoever finds that nobody answers there removes it.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import Self

from flexiast.errors import FlexiastError
from flexiast.log import Log
from flexiast.paths import runtime_folders

CONTROL = "control"
"""Folder of the sockets"""
MAX_BYTES = 65_536
"""Of a request or an answer"""
REQUEST_S = 5.0
"""Seconds that a request may take to arrive; it is sent at once."""
UNSUPPORTED = "this system has no sockets of its users' own"

Document = dict[str, Any]


class ControlServer:
    """Answers requests while it is used as a context. Where no socket can be made, that is said, and nothing fails."""

    def __init__(self, answer: Callable[[Document], Document], log: Log) -> None:
        """``answer`` is called in a thread of each request's own."""
        self._answer, self._log = answer, log
        self._folder = runtime_folders()[0] / CONTROL
        self.path = self._folder / f"{os.getpid()}.sock"
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = self._bind()
        except OSError as error:
            self._log(f"`flexiast swap` cannot reach this process: {self.path}: {error.strerror or error}")
            return self
        # It sleeps in accept: nothing wakes the processor until somebody asks.
        threading.Thread(target=self._accept, args=(self._socket,), name="flexiast-control", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # which ends accept
            self._socket.close()
            self.path.unlink(missing_ok=True)

    def _bind(self) -> socket.socket:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(UNSUPPORTED)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise OSError(f"{self._folder} is open to others; remove it, or chmod 700")
        self.path.unlink(missing_ok=True)  # of an earlier process with this number
        endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            endpoint.bind(str(self.path))
            self.path.chmod(0o600)
            endpoint.listen()
        except OSError:
            endpoint.close()
            raise
        return endpoint

    def _accept(self, endpoint: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = endpoint.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # whoever asked has gone
            connection.settimeout(REQUEST_S)
            try:
                request = _receive(connection)
            except ValueError as error:
                answer: Document = {"error": f"not a request: {error}", "code": int(FlexiastError.exit_code)}
            else:
                answer = self._answer(request)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def find_processes() -> dict[int, Path]:
    """Process number → socket of those that answer; a socket where nobody does is removed."""
    found = {}
    for folder in runtime_folders():
        with suppress(OSError):  # not there, or another user's
            for path in sorted((folder / CONTROL).glob("*.sock")):
                if path.stem.isdigit() and _is_answered(path):
                    found[int(path.stem)] = path
    return found


def ask(path: Path, request: Document, timeout_s: float | None = None) -> Document:
    """The answer of the process behind a socket; raises FlexiastError where none comes, within the time if given."""
    try:
        with _connect(path) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(json.dumps(request).encode() + b"\n")
            return _receive(connection)
    except TimeoutError as error:
        raise FlexiastError(f"process {path.stem} has not answered within {timeout_s:g} s") from error
    except (OSError, ValueError) as error:
        raise FlexiastError(f"process {path.stem} gave no answer ({error}); its log says why") from error


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _is_answered(path: Path) -> bool:
    try:
        _connect(path).close()
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return False
    except OSError:
        return False
    return True


def _receive(connection: socket.socket) -> Document:
    """One line; raises ValueError for what is no JSON object, OSError where the other side is gone or late."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(MAX_BYTES)
        if not part:
            raise ValueError("the connection ended")
        line += part
        if len(line) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 (what came is wrong, not what was called)
    return document
