"""A process is asked over a socket of its user's: it answers, and what a dead one left behind is removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flexiast.errors import FlexiastError
from flexiast_runtime.control import ControlServer, ask, find_processes

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("this system has no such sockets", allow_module_level=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "flexiast" / "control"


def fail(text: str) -> None:
    raise AssertionError(text)


def test_each_request_is_answered_and_nothing_is_left(folder: Path) -> None:
    with ControlServer(lambda request: {"heard": request}, fail) as server:
        assert (folder.stat().st_mode & 0o777, server.path.stat().st_mode & 0o777) == (0o700, 0o600)
        assert find_processes() == {os.getpid(): server.path}
        for request in ({"action": "back"}, {"model": "new 🎉\n.bundle"}):
            assert ask(server.path, request) == {"heard": request}
    assert list(folder.iterdir()) == []
    assert find_processes() == {}


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'"x', b"x" * 70_000])
def test_what_is_no_request_is_answered_by_an_error_and_the_next_one_is_heard(line: bytes) -> None:
    with ControlServer(lambda request: {"text": "done"}, fail) as server:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(server.path))
            other.sendall(line)
            other.shutdown(socket.SHUT_WR)
            assert b"not a request" in other.recv(1_000)
        assert ask(server.path, {}) == {"text": "done"}


def test_the_socket_of_a_killed_process_is_removed(folder: Path) -> None:
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(folder / "4711.sock"))
    assert find_processes() == {}
    assert list(folder.iterdir()) == []


def test_one_that_does_not_answer_in_time_is_named() -> None:
    with ControlServer(lambda request: {}, fail) as server, socket.socket(socket.AF_UNIX) as silent:
        server.path.with_name("4712.sock").unlink(missing_ok=True)
        silent.bind(str(server.path.with_name("4712.sock")))
        silent.listen()
        with pytest.raises(FlexiastError, match=r"process 4712 has not answered within 0\.01 s"):
            ask(server.path.with_name("4712.sock"), {}, 0.01)


@pytest.mark.parametrize("spoil", [lambda folder: folder.chmod(0o755), lambda folder: folder.rmdir() or folder.touch()])
def test_a_folder_that_cannot_be_used_is_said_and_nothing_fails(folder: Path, spoil: Callable[[Path], None]) -> None:
    folder.mkdir(parents=True)
    spoil(folder)
    said: list[str] = []
    with ControlServer(lambda request: {}, said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith("`flexiast swap` cannot reach this process")
