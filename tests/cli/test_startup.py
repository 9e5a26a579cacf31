"""What `flexiast --help` loads: it answers on a small board, where NumPy alone takes a second."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flexiast_cli


@pytest.mark.parametrize("module", ["numpy", "pydantic", "rich.console", "asyncio", "sqlite3", "soundfile"])
def test_the_commands_are_known_before_anything_heavy_is_loaded(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from flexiast_cli import app"
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
