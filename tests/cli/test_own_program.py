"""The page for those who use a model without flexiast: its commands and its programs run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def run_program(folder: Path, sound: Path) -> subprocess.CompletedProcess[str]:
    """Run the page's program on another sound, where flexiast and torch cannot be imported."""
    blocked = "import sys\nfor name in ('flexiast', 'flexiast_runtime', 'torch'): sys.modules[name] = None\n"
    program = blocked + PROGRAM.replace("today.wav", sound.name)
    return subprocess.run([sys.executable, "-c", program], check=False, cwd=folder, capture_output=True, text=True)


def test_ten_lines_without_flexiast_classify_a_recording(folder: Path) -> None:
    assert sum(bool(line) for line in PROGRAM.splitlines()) <= 10
    done = run_program(folder, folder / "today.wav")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + (9 * RATE_HZ - RATE_HZ) // 4_000
    assert all(re.fullmatch(r"[a-z]+ 0\.\d+(?:e-\d+)?|[a-z]+ 1\.0", line) for line in lines), lines


def test_the_ten_lines_mix_stereo_and_pad_the_end(folder: Path) -> None:
    sound = soundscape()[: 2 * RATE_HZ + 1_000]
    soundfile.write(folder / "padded.wav", np.pad(sound, (0, 3_000)), RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "stereo.wav", np.stack([2 * sound, 0 * sound], axis=1), RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "short.wav", sound[: RATE_HZ // 2], RATE_HZ)
    padded, stereo, short = (run_program(folder, folder / f"{name}.wav") for name in ("padded", "stereo", "short"))
    assert stereo.stdout == padded.stdout != ""
    assert (short.returncode, len(short.stdout.splitlines())) == (0, 1), short.stderr


def test_the_ten_lines_refuse_another_rate(folder: Path) -> None:
    soundfile.write(folder / "cd.wav", soundscape()[:RATE_HZ], 44_100)
    done = run_program(folder, folder / "cd.wav")
    assert done.returncode != 0
    assert "resample cd.wav to 16000 Hz first" in done.stderr


def test_the_files_are_named_by_the_bundle(folder: Path) -> None:
    assert {path.name for path in (folder / "models").iterdir()} == {
        "commands-16x16.onnx",
        *(f"home-{size}{precision}.onnx" for size in ("16x16", "32x32") for precision in ("", ".int8")),
    }
