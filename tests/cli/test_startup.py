"""What `flexiast --help` loads: it answers on a small board, where NumPy alone takes a second."""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import typer

import flexiast_cli
from flexiast_cli.command_tree import lazy_group
from flexiast_cli.loading import pause_collection

BUILD_ALL = "import typer.main; print(*typer.main.get_command(app).commands.items())"


@pytest.mark.parametrize("module", ["numpy", "pydantic", "rich.console", "asyncio", "sqlite3", "soundfile"])
def test_the_commands_are_known_before_anything_heavy_is_loaded(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from flexiast_cli.app import app; " + BUILD_ALL
    finished = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_few_imports_are_hidden_in_functions() -> None:
    """A command imports its work, which then imports what it needs at its head; 67 were left of 430."""
    functions = [
        node
        for path in Path(flexiast_cli.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    hidden = [one for node in functions for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom)]
    assert 0 < len(hidden) <= 60


@pytest.mark.parametrize("module", ["http.client", "ssl", "matplotlib", "onnxruntime"])
def test_listen_loads_nothing_that_it_may_not_need(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from flexiast_cli.commands.listen import run"
    finished = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_a_command_is_built_when_it_is_looked_up() -> None:
    built = []

    def make(name: str) -> typer.Typer:
        built.append(name)
        holder = typer.Typer(add_completion=False)
        holder.command(name)(lambda: None)
        return holder

    group = lazy_group({name: partial(make, name) for name in ("one", "two")})(name="group")
    context = group.make_context("group", ["two"])
    assert group.resolve_command(context, ["two"])[0] == "two"
    assert "one" in group.commands
    assert built == ["two"]
    assert group.list_commands(context) == ["one", "two"]


def test_a_command_that_cannot_load_is_not_taken_for_an_unknown_one() -> None:
    def fail() -> typer.Typer:
        raise KeyError("HOME")

    commands = lazy_group({"one": fail})(name="group").commands
    assert commands.get("two") is None
    with pytest.raises(KeyError, match="HOME"):
        commands.get("one")


def test_garbage_is_collected_again_after_loading_that_failed() -> None:
    with pytest.raises(ImportError), pause_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["nothing", "count", "policy"],
)
def test_threads_spin_for_a_short_time_unless_the_user_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    from flexiast_cli.main import limit_spinning

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what the function sets is undone
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
