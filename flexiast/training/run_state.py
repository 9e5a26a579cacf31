"""What ``--resume`` continues from: ``last.safetensors`` holds a run's weights, its optimiser and where it stood."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flexiast.arrays import Float
from flexiast.data.targets import Targets, hash_targets
from flexiast.errors import ModelError
from flexiast.evaluation.evaluate import Windows
from flexiast.extras import require
from flexiast.files import write_atomically
from flexiast.networks import Model
from flexiast.spec import Spec
from flexiast.text import preview
from flexiast.training.batches import Backgrounds
from flexiast.training.recipe import Recipe
from flexiast.training.sampling import Plan, sample_evenly

STATE_FILE = "last.safetensors"

CLIPS, SIZES, BACKGROUND = "the labels of the clips", "the sizes of the steps, which --init changes", "the background"
"""Names of the hashes in an identity. They are stored in files and shown in messages."""

FOLLOW_FROM_CLIPS = {"steps", SIZES, "spec.frontend.mean", "spec.frontend.std"}
"""Change whenever the clips change, so a message that names the clips leaves them out."""

SIZES_HASH = "plan:"
"""Begins the hash of the sizes since it is of what the plan follows from; before, it was of every step."""

ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW keeps of each parameter."""

DIGEST_WINDOWS = 32
"""Validation windows that are hashed: enough to tell other clips by."""


class Position(NamedTuple):
    """Where a run stands."""

    step: int = 0
    """Steps done."""
    best: float = -1.0
    """Best mean over the patch sizes so far; -1 before the first measurement."""
    stale: int = 0
    """Measurements since the best one."""
    measured_on: str = ""
    """``validation_digest`` of the clips on which it was measured; empty before the first call of ``Trainer.steps``."""
    is_due: bool = False
    """Whether the measurement of this step was stopped, so that it is still to be made."""
    new_settings: tuple[str, ...] = ()
    """Settings that the version which saved the run did not have. They have their defaults."""


class RunState:
    """The tensors of a run that are saved and restored: the model, its moving average and the optimiser's moments."""

    def __init__(self, run: Path, model: Model, average: Model, optimizer: torch.optim.AdamW) -> None:
        self.path = run / STATE_FILE
        self._model, self._average, self._optimizer = model, average, optimizer

    def save(self, position: Position, identity: dict[str, Any]) -> None:
        """Write the file whole, or leave the old one."""
        safetensors = require("safetensors.torch", "train")
        tensors = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self._average.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        metadata = {"step": str(position.step), "best": repr(position.best), "measured_on": position.measured_on}
        metadata |= {"stale": str(position.stale), "due": str(int(position.is_due))}
        metadata["run"] = json.dumps(identity)
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.path, safetensors.save(contiguous, metadata))

    def load(self, identity: dict[str, Any], plan: Plan) -> Position:
        """Restore the tensors and return where the run stood; ``plan`` is part of the identity.

        Raises ModelError for a missing or damaged file, and for one of a run with another identity.
        """
        metadata, tensors = self._read()
        try:
            saved = _read_identity(metadata["run"], identity, plan)
            differing = list(_diff_settings(saved, identity))
            new = tuple(_list_new_settings(json.loads(metadata["run"]), saved))
            stale = int(metadata.get("stale", "0"))  # version 0.1 before early stopping
            due = metadata.get("due") == "1"
            position = Position(
                int(metadata["step"]), float(metadata["best"]), stale, metadata["measured_on"], due, new
            )
            if not differing:
                self._restore(tensors, position.step)
        except (KeyError, ValueError, RuntimeError) as error:  # the last is torch's, for names or shapes that differ
            raise ModelError(f"{self.path} lacks parts of this run's state; train again into another folder") from error
        if CLIPS in differing:
            differing = [name for name in differing if name not in FOLLOW_FROM_CLIPS]
        if differing:
            raise ModelError(
                f"{self.path} is of a run with other data or settings (differing: {preview(differing)}); "
                "resume with the same ones, or train into another folder"
            )
        return position

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Metadata and tensors of the file."""
        safetensors = require("safetensors", "train")
        if not self.path.is_file():
            raise ModelError(f"{self.path} does not exist, so there is nothing to resume; train without --resume first")
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                names = file.keys()
                return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(f"{self.path} cannot be read: {error}; train again into another folder") from error

    def _restore(self, tensors: dict[str, Tensor], step: int) -> None:
        self._model.load_state_dict(_strip_prefix("model.", tensors))
        self._average.load_state_dict(_strip_prefix("ema.", tensors))
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip_prefix("adam.", tensors).items():
            index, key = name.split(".", 1)
            adam.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        for index in (index for group in groups for index in group["params"]):
            if step and adam.get(index, {}).keys() != ADAM_STATE:  # before the first step there is none
                raise KeyError(f"adam.{index}")
        self._optimizer.load_state_dict({"state": adam, "param_groups": groups})


def run_identity(
    spec: Spec,
    recipe: Recipe,
    plan: Plan,
    targets: Targets,
    teachers: Sequence[str],
    backgrounds: Backgrounds | None,
    ranks: int | None = None,
) -> dict[str, Any]:
    """What a resumed run must have in common with the one that saved its state, as JSON.

    ``targets`` are [clips, classes], ``teachers`` hashes of their weights. ``ranks`` is given where the clips of a step
    depend on how many processes share them.
    """
    settings = {name: json.loads(value.model_dump_json()) for name, value in (("spec", spec), ("recipe", recipe))}
    settings |= {"steps": len(plan), "teachers": list(teachers)} | ({} if ranks is None else {"ranks": ranks})
    return settings | _data_fingerprint(plan, targets, backgrounds)


def _read_identity(text: str, expected: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The identity in a file. Settings that are newer than the file have their defaults.

    Sizes hashed step by step, as earlier versions did, are compared step by step: 30 µs each.
    """
    identity = json.loads(text)
    for name, kind in (("spec", Spec), ("recipe", Recipe)):
        identity[name] = json.loads(kind.model_validate_json(json.dumps(identity[name])).model_dump_json())
    is_old = not identity[SIZES].startswith(SIZES_HASH) and identity["steps"] == len(plan)
    if is_old and identity[SIZES] == _hash_each_size(plan):
        identity[SIZES] = expected[SIZES]
    return dict(identity)


def _hash_each_size(plan: Plan) -> str:
    return sha256(np.array([(*step.patch, step.clips) for step in plan]).tobytes()).hexdigest()


def _data_fingerprint(plan: Plan, targets: Targets, backgrounds: Backgrounds | None) -> dict[str, str]:
    """Hashes of what the steps learn from, which the settings alone do not determine."""
    sizes = SIZES_HASH + sha256(plan.identity.encode()).hexdigest()
    hashes = {CLIPS: hash_targets(targets), SIZES: sizes}
    if backgrounds is not None:
        hashes[BACKGROUND] = sha256(repr(backgrounds.identity).encode()).hexdigest()
    return hashes


def validation_digest(windows: Windows, targets: Float) -> str:
    """Hash of labels [clips, classes] and of enough windows to tell other clips by."""
    digest = sha256(targets.tobytes())
    for number in sample_evenly(len(windows), DIGEST_WINDOWS):
        digest.update(windows[number : number + 1].tobytes())
    return digest.hexdigest()


def _diff_settings(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Names of the settings in which two trees of JSON differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield name
        return
    for key in sorted({*one, *other}):
        yield from _diff_settings(one.get(key), other.get(key), f"{name}.{key}" if name else key)


def _list_new_settings(older: Any, newer: Any, name: str = "") -> Iterator[str]:
    """Names of the settings in ``newer`` that ``older`` does not have."""
    if not (isinstance(older, dict) and isinstance(newer, dict)):
        return
    for key, value in newer.items():
        full = f"{name}.{key}" if name else key
        if key in older:
            yield from _list_new_settings(older[key], value, full)
        else:
            yield full


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
