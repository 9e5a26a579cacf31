"""Real sounds, real commands: a data set of tones, and `flexiast` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ = 16_000
Run = Callable[..., subprocess.CompletedProcess[str]]


def tone(hz: float, seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * t) + 0.01 * rng.standard_normal(len(t))


def write_sounds(folder: Path, clips: int = 6, seconds: float = 0.5) -> Path:
    """Folders `low` and `high` with a few tones each."""
    for label, hz in (("low", 300.0), ("high", 3000.0)):
        (folder / label).mkdir(parents=True)
        for number in range(clips):
            soundfile.write(folder / label / f"{number}.wav", tone(hz, seconds, number), RATE_HZ)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `flexiast ARGUMENTS` as a user does, with an empty home: exit code, stdout, stderr."""
    home = tmp_path_factory.mktemp("home")
    own = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(
        *arguments: object, stdin: bytes | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [Path(sys.executable).with_name("flexiast"), *map(str, arguments)],
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            cwd=cwd,
            env=os.environ | own | {"COLUMNS": "200"},
        )
        return subprocess.CompletedProcess(
            finished.args, finished.returncode, finished.stdout.decode(), finished.stderr.decode()
        )

    return run


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("sounds") / "sounds")


@pytest.fixture(scope="session")
def trained(run: Run, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of one short training."""
    output = tmp_path_factory.mktemp("runs") / "run"
    result = run(
        "train",
        sounds,
        "-o",
        output,
        "--epochs",
        8,
        "--batch-size",
        4,
        "--patch-sizes",
        "24,32x16",
        "--learning-rate",
        3e-3,
    )
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="session")
def bundle(run: Run, trained: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "tones.bundle"
    result = run("export", trained, "--patch-sizes", "16,24,32x16,48", "-o", output, "--verify-data", sounds)
    assert result.returncode == 0, result.stderr
    return output
