"""A page with a shipped model, made once; tests skip where Node or npm is missing or npm reaches no registry."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flexiast.manifest import MANIFEST
from tests.cli.conftest import Run

THRESHOLD = 0.04
"""Of every label, so that made-up sounds give a model of words some events"""


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is absent")
    version = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"node {version.strip()} is too old: the page's JavaScript is of 18 and later")
    return found


@pytest.fixture(scope="session")
def site(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `commands`, with its finest and two coarse sizes, the finer the better, at low thresholds."""
    if shutil.which("npm") is None:
        pytest.skip("npm is absent")
    folder = tmp_path_factory.mktemp("page") / "site"
    result = run("export", "commands", "--patch-sizes", "8,24,48", "--web", folder)
    if "npm cannot fetch" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    path = folder / "model" / MANIFEST
    document = json.loads(path.read_text("utf-8"))
    document["thresholds"] = dict.fromkeys(document["spec"]["labels"], THRESHOLD)
    for place, variant in enumerate(document["variants"]):
        variant["metric"] = 0.9 - place / 10
    path.chmod(0o644)
    path.write_text(json.dumps(document), "utf-8")
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Path], int]]:
    """Serve a folder as any static host does; returns the port."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> int:
        handler = functools.partial(_QuietHandler, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
