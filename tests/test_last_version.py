"""What the version before the rooms wrote (commit 96c07e5) still loads, and means the same.

``tests/kept`` holds a run that was stopped half-way, the checkpoint of the same run at its end, the answers that its
model gave, and settings. The sounds, eight tones, are made here as they were then. For bundles see ``test_shipped.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.errors import ModelError
from flexiast.evaluation.evaluate import Windows
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize
from flexiast.training.batches import LogMels
from flexiast.training.journal import Journal
from flexiast.training.recipe import Recipe
from flexiast.training.trainer import Trainer
from flexiast_cli.app import app

KEPT = Path(__file__).parent / "kept"
TONES_HZ = (2000, 2100, 2200, 2300, 200, 220, 240, 260)
TARGETS = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(KEPT / "whole" / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def waveforms(checkpoint: Checkpoint) -> list[Float]:
    frontend = checkpoint.spec.frontend
    times = np.arange(frontend.window_samples) / frontend.sample_rate_hz
    return [(0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32) for hz in TONES_HZ]


def test_a_checkpoint_gives_the_answers_that_it_gave(checkpoint: Checkpoint, waveforms: list[Float]) -> None:
    features = Frontend(checkpoint.spec.frontend).window(waveforms[0])[None]
    model = TorchClassifier(load_model(checkpoint))
    for patch, logits in json.loads((KEPT / "answers.json").read_text("utf-8")).items():
        # Sums of float32 in another order on another machine: 1e-6 of logits near 0.5, and ten times that for safety.
        np.testing.assert_allclose(model.logits(features, PatchSize.parse(patch))[0], logits, atol=1e-5)


def resumed(run: Path, checkpoint: Checkpoint, waveforms: list[Float], **changes: object) -> Trainer:
    shutil.copytree(KEPT / "run", run)
    recipe = Recipe.model_validate_json(json.dumps(checkpoint.info["recipe"]))
    training = recipe.training.model_copy(update=changes)
    recipe = recipe.model_copy(update={"training": training})
    log_mels = LogMels(waveforms, checkpoint.spec.frontend, training.augment)
    trainer = Trainer(run, checkpoint.spec, recipe, log_mels, TARGETS)
    trainer.resume()
    return trainer


def test_a_run_that_was_stopped_is_resumed_to_its_end(
    checkpoint: Checkpoint, waveforms: list[Float], tmp_path: Path
) -> None:
    trainer = resumed(tmp_path / "run", checkpoint, waveforms)
    assert (trainer.step, trainer.total) == (6, 12)
    half = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    validation = Windows(waveforms[::2], Frontend(checkpoint.spec.frontend))
    list(trainer.steps(validation, TARGETS[::2], Journal(trainer.run, {}, step=trainer.step)))
    # The old version treated digital silence otherwise when it varied a clip, so the weights are near, not equal: six
    # steps at this learning rate move them by 0.02 and more, the difference was 0.001.
    end = load_checkpoint(trainer.run / "checkpoint.safetensors").weights
    for name, value in checkpoint.weights.items():
        np.testing.assert_allclose(end[name], value, atol=0.01)
    assert (
        max(float((value.detach() - half[name]).abs().max()) for name, value in trainer.model.named_parameters()) > 0.02
    )


def test_a_run_with_other_settings_is_still_refused(
    checkpoint: Checkpoint, waveforms: list[Float], tmp_path: Path
) -> None:
    """Only settings that are newer than the run have their defaults; those that it had are compared."""
    with pytest.raises(ModelError, match=r"\(differing: recipe.training.weight_decay\)"):
        resumed(tmp_path / "one", checkpoint, waveforms, weight_decay=0.1)
    augment = Recipe().training.augment.model_copy(update={"noise_share": 0.5, "background_share": 0.1})
    with pytest.raises(ModelError, match=r"\(differing: recipe.training.augment.background_share\)"):
        resumed(tmp_path / "two", checkpoint, waveforms, augment=augment)


def test_settings_are_understood() -> None:
    """Each option that could be set then, with a value that it took."""
    path = KEPT / "flexiast.toml"
    result = CliRunner().invoke(app, ["config", "validate", str(path)])
    assert result.exit_code == 0, result.output
    assert f"{path}: 41 settings, all can be used" in result.output
