"""The page for those who use a model without flexiast: its commands and its programs run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from flexiast_cli.commands.demo.soundscape import RATE_HZ, soundscape
from flexiast_runtime.catalog import find_bundle
from tests.cli.conftest import Run

PAGE = (Path(__file__).parents[2] / "docs/how-to/own-program.md").read_text()
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording, a bundle, and what the commands of the page make."""
    folder = tmp_path_factory.mktemp("own")
    soundfile.write(folder / "today.wav", soundscape()[: 9 * RATE_HZ], RATE_HZ)
    shutil.copytree(find_bundle("commands"), folder / "home.bundle")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            result = run(*shlex.split(line)[1:], cwd=folder)
            assert result.returncode == 0, result.stderr
    return folder


def test_ten_lines_without_flexiast_classify_a_recording(folder: Path) -> None:
    assert sum(bool(line) for line in PROGRAM.splitlines()) <= 10
    blocked = "import sys\nfor name in ('flexiast', 'flexiast_runtime', 'torch'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + PROGRAM], check=False, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + (9 * RATE_HZ - RATE_HZ) // 4_000
    assert all(re.fullmatch(r"[a-z]+ 0\.\d+(?:e-\d+)?|[a-z]+ 1\.0", line) for line in lines), lines


def test_the_files_are_named_by_the_bundle(folder: Path) -> None:
    assert {path.name for path in (folder / "models").iterdir()} == {
        "commands-16x16.onnx",
        *(f"home-{size}{precision}.onnx" for size in ("16x16", "32x32") for precision in ("", ".int8")),
    }
