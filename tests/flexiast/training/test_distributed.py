"""Training on two processes, started by torchrun: what it computes is what one process computes, also after a death."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.numpy
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from flexiast.checkpoint import Checkpoint, save_checkpoint, weight_shapes
from flexiast.errors import ModelError, UsageError
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec
from flexiast.training.batches import LogMels
from flexiast.training.distributed import SINGLE_PROCESS, World, init_process_group, is_restarted, launcher
from flexiast.training.recipe import Recipe, Training
from flexiast.training.trainer import Trainer
from tests.cli.conftest import write_sounds

Float = NDArray[np.float32]
Launch = Callable[..., "subprocess.Popen[str]"]

PATIENCE_S = 120
"""A run takes seconds; one whose ranks wait for each other would never end."""

PLAIN = str(Path(__file__).parent / "plain.toml")
ARGUMENTS = (
    "--config",
    PLAIN,
    "--patch-sizes",
    "24,32x16",
    "--epochs",
    "61",
    "--batch-size",
    "5",
    "--no-bf16",  # shares of a step are rounded otherwise than the step
    "--learning-rate",
    "3e-4",
)
"""195 steps of 5 clips and one of 1: the ranks' shares are 3 and 2, and 1 and 0 in the last step of all."""

# An odd number of clips in a batch, and the last step's single one, are what a split could get wrong.

MEASURED = [24, 49, 74, 98, 122, 147, 172, 196]
"""Steps after which the sizes are measured and the state is saved."""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 clips for training: 976 examples in 196 steps."""
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
        torchrun = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        process = subprocess.Popen(
            [*torchrun, *options, *map(str, command)],
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
    """The same run on two processes, each told a folder named by its rank; the folder of both, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    train = (sys.executable, "-m", "flexiast_cli.main", "train", sounds, "--init", start, *ARGUMENTS)
    said = finish(launch("sh", "-c", 'exec "$@" -o "$0/$RANK"', folder, *train, options=("--no-python",)))
    return folder, said


def assert_same_weights(run: Path, other: Path) -> None:
    """A batch's gradient is the same sum in another order: 1e-7 a step, which 196 steps of Adam make 1e-5.

    But a key's bias raises all scores of a query alike, which softmax takes out again: its gradient is zero but for
    rounding, and Adam makes steps of the full learning rate of that. No answer depends on it.
    """
    found, wanted = state(run), state(other)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith(("model.", "ema.")):
            keys = np.arange(16, 32) if name.endswith("qkv.bias") else []
            ours, theirs = (np.delete(array, keys, axis=0) for array in (found[name], value))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4, err_msg=name)


# ----- two ranks are one


def test_two_ranks_learn_what_one_process_learns(alone: Path, together: tuple[Path, str]) -> None:
    run = together[0] / "0"
    losses, expected = history(run, "loss"), history(alone, "loss")
    assert list(losses) == list(expected) == [50, 100, 150]
    for step, curve in expected.items():
        assert curve.keys() == {"24x24", "32x16"}
        assert losses[step] == pytest.approx(curve, rel=1e-3)  # the fitted head's logits are large: rounding is too
    assert_same_weights(run, alone)
    assert list(history(run, "metric")) == list(history(alone, "metric")) == [0, *MEASURED]
    head = state(alone)["model.head.weight"]
    assert np.abs(head).max() > 0.1  # so that equality says something


def test_the_leading_rank_alone_prints_and_writes(together: tuple[Path, str]) -> None:
    folder, said = together
    assert [path.name for path in folder.iterdir()] == ["0"]
    for words in ("16 clips train", "Best mean", *(f"step {step}/196" for step in MEASURED)):
        assert said.count(words) == 1, words


# ----- a rank dies


def test_a_run_whose_rank_is_killed_goes_on_from_its_last_state(
    launch: Launch, sounds: Path, start: Path, together: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = ("-m", "flexiast_cli.main", "train", sounds, "-o", run, "--init", start, *ARGUMENTS)
    process = launch(*train, options=("--max-restarts", "1"))
    await_step(50, run, process)  # the state of step 49 is saved
    rank_of(process, 0).kill()
    said = finish(process)
    assert said.count("16 clips train") == 2  # all ranks began again,
    for step in (24, 49):
        assert said.count(f"step {step}/196") == 1  # but not at the first step,
    assert said.count("step 196/196") == 1  # and came to the end
    assert_same_weights(run, together[0] / "0")
    assert list(history(run, "metric")) == [0, *MEASURED]  # the start is measured too


def await_step(step: int, run: Path, process: subprocess.Popen[str]) -> None:
    """Until the losses of a step are recorded."""
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + PATIENCE_S
    while not (metrics.is_file() and f'{{"step": {step}, "loss"' in metrics.read_text("utf-8")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rank_of(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The one among torchrun's children that has the rank."""
    (found,) = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == str(rank)]
    return found


def test_torchrun_continues_a_run_that_it_began_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The leading rank looks who began the run in the folder; the others follow it."""
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    document = tmp_path / "run.json"
    document.write_text(json.dumps({"launcher": launcher()}), encoding="utf-8")
    assert not is_restarted(document)
    for count, again in (("0", False), ("1", True), ("12", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert is_restarted(document) is again
    document.write_text(json.dumps({"launcher": launcher() + 1}), encoding="utf-8")
    assert not is_restarted(document)
    document.unlink()
    assert not is_restarted(document)
    monkeypatch.setenv("RANK", "1")
    assert is_restarted(document)


@pytest.mark.usefixtures("by_itself")
def test_ranks_of_several_machines_are_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine's torchrun counts restarts for itself."""
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with (
        pytest.raises(UsageError, match=r"the ranks of 2 machines again .*give --max-restarts 0"),
        init_process_group(),
    ):
        pass
    for machines, restarts in (("1", "3"), ("2", "0")):
        monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
        with init_process_group() as world:
            assert world.is_main


# ----- ranks that do not agree


@dataclass(frozen=True)
class Beside(World):
    """The first of two ranks; the other says the same but for what is added."""

    ranks: int = 2
    added: tuple[float, ...] = (0,)

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack((values, values + torch.tensor(self.added)))

    def wrap_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return model


@pytest.fixture
def trainer(build_spec: Callable[..., Spec], tmp_path: Path) -> Trainer:
    """The first of two ranks, before its first step."""
    spec = build_spec(trained_patches=(PatchSize(16, 16),))
    recipe = Recipe(training=Training(epochs=1, batch_size=2, patches=spec.trained_patches))
    log_mels = LogMels([np.zeros(8_000, np.float32)] * 2, spec.frontend, recipe.training.augment)
    targets = np.eye(2, dtype=np.float32)
    return Trainer(tmp_path, spec, recipe, log_mels, targets, world=Beside())


def agreed(trainer: Trainer, loss: float, added: tuple[float, ...]) -> float:
    """The loss of the whole step, where the other rank says something else by so much."""
    trainer.world = Beside(added=added)
    return trainer._all_reduce_loss(torch.tensor(loss), PatchSize(16, 24))


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ((1, 0, 0, 0, 0), "[[7.0, 16.0, 24.0], [8.0, 16.0, 24.0]]"),
        ((0, 8, 0, 0, 0), "[[7.0, 16.0, 24.0], [7.0, 24.0, 24.0]]"),
        ((0, 0, -8, 0, 0), "[[7.0, 16.0, 24.0], [7.0, 16.0, 16.0]]"),
    ],
)
def test_ranks_at_another_step_or_patch_size_are_refused(trainer: Trainer, added: tuple[float, ...], said: str) -> None:
    trainer.step = 7
    with pytest.raises(ModelError, match="the ranks do not train the same step and patch size") as refused:
        agreed(trainer, 0.5, added)
    assert said in str(refused.value)


def test_the_loss_of_a_step_is_the_sum_of_the_ranks_shares(trainer: Trainer) -> None:
    assert agreed(trainer, 0.5, (0, 0, 0, 0, 0.25)) == 1.25
    assert not trainer.stopping
    with pytest.raises(ModelError, match=r"the loss is nan at step 0 \(patch 16x24\)"):
        agreed(trainer, 0.5, (0, 0, 0, 0, float("nan")))


def test_one_rank_that_was_told_to_stop_stops_all(trainer: Trainer) -> None:
    agreed(trainer, 0.5, (0, 0, 0, 1, 0))
    assert trainer.stopping


# ----- no torchrun


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without torchrun and a GPU."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("by_itself")
def test_a_process_by_itself_is_a_world_of_one_that_leads() -> None:
    with init_process_group() as world:
        assert world == SINGLE_PROCESS == World(rank=0, ranks=1, device=torch.device("cpu"))
        assert world.is_main
        assert not World(rank=1, ranks=2).is_main
        assert not dist.is_initialized()
        assert world.gather(torch.arange(3)).tolist() == [[0, 1, 2]]
        assert world.gather_objects({"loss": 1}) == [{"loss": 1}]
        model = torch.nn.Linear(1, 1)
        assert world.wrap_model(model) is model
        world.wait()  # for nobody
