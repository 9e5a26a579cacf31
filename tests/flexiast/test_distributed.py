"""Training on two processes, started by torchrun: what it computes is what one process computes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, save_checkpoint, weight_shapes
from flexiast.distributed import ALONE, joined, restarted
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec
from tests.cli.conftest import write_sounds

Float = NDArray[np.float32]
Launch = Callable[..., "subprocess.Popen[str]"]

PATIENCE_S = 120
"""A run takes seconds; one whose ranks wait for each other would never end."""

ARGUMENTS = ("--patch-sizes", "24,32x16", "--epochs", "60", "--batch-size", "5", "--learning-rate", "3e-3")
"""120 steps of 5 clips: the ranks' shares are 3 and 2, and 1 and 0 in the last step of all."""

# An odd number of clips in a batch, and the last step's single one, are what a split could get wrong.


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 clips for training: 960 examples in 192 steps."""
    return write_sounds(tmp_path_factory.mktemp("sounds") / "sounds", clips=10, seconds=0.5)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start of three thousand weights, so that a step is quick."""
    spec = Spec(
        frontend=FrontendSpec(window_samples=8_000, mean=0.0, std=1.0),
        trained_patches=(PatchSize(16, 16),),
        network=NetworkSpec(width=16, depth=1, heads=2),
        task="single",
        labels=(),
    )
    rng = np.random.default_rng(0)
    shapes = weight_shapes(spec)
    weights = {name: rng.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_checkpoint(path, Checkpoint(spec, weights))
    return path


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start a command on two ranks; what still runs in the end is ended."""
    launched: list[subprocess.Popen[str]] = []

    def launch(*command: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [*torchrun, "--master-port", str(port), *options, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONWARNINGS": "error"},
        )
        launched.append(process)
        return process

    yield launch
    for process in launched:
        if process.poll() is None:
            process.terminate()  # torchrun ends its ranks too
            process.communicate(timeout=PATIENCE_S)


def finish(process: subprocess.Popen[str]) -> str:
    """What a command that succeeds says."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert output == ""
    return errors


def state(run: Path) -> Mapping[str, NDArray[Any]]:
    """Weights, averages and moments at the end of a run."""
    found: Mapping[str, NDArray[Any]] = safetensors.numpy.load_file(run / "last.safetensors")
    return found


def history(run: Path, kind: str) -> dict[int, dict[str, float]]:
    """Step → losses or metrics by patch size."""
    records = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return {record["step"]: record[kind] for record in records if kind in record}


@pytest.fixture(scope="module")
def alone(sounds: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    flexiast = [sys.executable, "-W", "error", "-m", "flexiast_cli.main"]
    command = [*flexiast, "train", str(sounds), "-o", str(run), "--init", str(start), *ARGUMENTS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=PATIENCE_S)
    return run


@pytest.fixture(scope="module")
def together(launch: Launch, sounds: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same run on two processes, and what they said."""
    run = tmp_path_factory.mktemp("together") / "run"
    said = finish(launch("-m", "flexiast_cli.main", "train", sounds, "-o", run, "--init", start, *ARGUMENTS))
    return run, said


# ----- two ranks are one


def test_two_ranks_learn_what_one_process_learns(alone: Path, together: tuple[Path, str]) -> None:
    run, _ = together
    losses, expected = history(run, "loss"), history(alone, "loss")
    assert list(losses) == list(expected) == [50, 100, 150]
    for step, curve in expected.items():
        assert curve.keys() == {"24x24", "32x16"} or step == 50
        # A batch's gradient is the same sum in another order: 1e-7 a step, which Adam passes on and 200 steps add up.
        assert losses[step] == pytest.approx(curve, rel=1e-4)
    found, wanted = state(run), state(alone)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith(("model.", "ema.")):
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-3, err_msg=name)  # weights move by 0.3
    moved = [np.abs(wanted[name] - state_at_start).max() for name, state_at_start in initial(alone, wanted)]
    assert max(moved) > 0.1  # so that equality says something
    assert history(run, "metric").keys() == history(alone, "metric").keys()


def initial(run: Path, wanted: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Weights of the head, which began at zero."""
    assert run.is_dir()
    for name in ("model.head.weight", "model.head.bias"):
        yield name, np.zeros_like(wanted[name])
