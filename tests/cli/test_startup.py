"""What `flexiast --help` loads: it answers on a small board, where NumPy alone takes a second."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["numpy", "pydantic", "rich.console", "asyncio", "sqlite3", "soundfile"])
def test_the_commands_are_known_before_anything_heavy_is_loaded(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from flexiast_cli import app"
    finished = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
