"""Training: one readable loop, every step a pure function of (weights, seed, step).

Patch size, batch and augmentation of a step are drawn from (seed, step) alone. So a resumed run continues to the same
weights, every rank of a distributed run would draw the same patch size, and no generator state is ever saved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

import flexiast
from flexiast.augment import mixup, random_window, spec_augment
from flexiast.checkpoint import Checkpoint, save_checkpoint
from flexiast.data import Dataset
from flexiast.errors import ModelError, UsageError
from flexiast.evaluate import PatchResult, Windows, evaluate
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.spec import FrontendSpec, Patch, PatchSize, Spec, Value

Float = NDArray[np.float32]

ALL_PATCHES = tuple(PatchSize(size, size) for size in (8, 10, 12, 16, 20, 24, 30, 32, 40, 48))
"""The sizes of the paper."""

SAVE_EVERY = 250
"""Steps between two saves of the state that --resume continues from."""


class Settings(Value):
    """What decides a run besides its data; kept in the checkpoint and compared on resume."""

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = 0.05
    warmup_share: float = 0.04
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.4
    mixup_share: float = 0.3
    """Share of the steps that mix, once the coarse stage is over: mixing from the first step stalls learning."""
    ema_decay: float = 0.998
    evaluations: int = Field(default=8, ge=1)
    """How often the validation split is measured; the best mean over all patch sizes is kept."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    patches: tuple[Patch, ...] = ALL_PATCHES


@dataclass(frozen=True)
class Step:
    """What the loop reports after each step."""

    number: int
    total: int
    patch: PatchSize
    loss: float
    results: list[PatchResult] | None = None
    """Validation results, after the steps that measured them."""


def draw(seed: int, purpose: Literal["patch", "batch", "augment"], step: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments."""
    return np.random.default_rng((seed, ("patch", "batch", "augment").index(purpose), step))


def active_patches(spec: Spec, patches: Sequence[PatchSize], progress: float) -> list[PatchSize]:
    """Coarse to fine: the sizes that are drawn from at this share of the run.

    A coarse step costs a tenth of a fine one and teaches most of what the fine ones need, so sizes with at most 0.4 of
    the base patch's tokens go first, those up to the base's join at 0.3, finer ones at 0.6.
    """
    base = spec.tokens(spec.base_patch)
    limit = 0.4 * base if progress < 0.3 else base if progress < 0.6 else math.inf
    return [patch for patch in patches if spec.tokens(patch) <= limit] or [min(patches, key=spec.tokens)]


def draw_patch(spec: Spec, settings: Settings, step: int, total: int) -> PatchSize:
    """The patch size of one step, equal on every rank and after every resume."""
    active = active_patches(spec, settings.patches, step / total)
    return active[draw(settings.seed, "patch", step).integers(len(active))]


def make_spec(frontend: FrontendSpec, waveforms: Sequence[Float], **fields: Any) -> Spec:
    """A spec whose normalisation is measured on the training audio."""
    raw = Frontend(frontend)
    total, squares, count = 0.0, 0.0, 0
    for waveform in waveforms:
        log_mel = raw.log_mel(waveform).astype(np.float64)
        total, squares, count = total + log_mel.sum(), squares + (log_mel**2).sum(), count + log_mel.size
    if not count:
        raise UsageError("no clip is long enough for one frame")
    mean = float(total / count)
    std = math.sqrt(max(squares / count - mean**2, 1e-6))
    spec = Spec.checked(frontend=frontend.model_copy(update={"mean": mean, "std": std}), **fields)
    spec.check_patch(spec.base_patch)
    return spec


class Batches:
    """Step → (features [batch, window_frames, mels], targets [batch, classes]), a pure function of (seed, step)."""

    def __init__(self, waveforms: Sequence[Float], targets: Float, spec: Spec, settings: Settings) -> None:
        self._waveforms, self._targets, self._settings = waveforms, targets, settings
        self._frontend = Frontend(spec.frontend)
        self.steps_per_epoch = max(1, len(waveforms) // settings.batch_size)

    def __call__(self, step: int, *, mix: bool) -> tuple[Tensor, Tensor]:
        settings, spec = self._settings, self._frontend.spec
        epoch, place = divmod(step, self.steps_per_epoch)
        order = draw(settings.seed, "batch", epoch).permutation(len(self._waveforms))
        chosen = order[place * settings.batch_size : (place + 1) * settings.batch_size]
        rng = draw(settings.seed, "augment", step)
        waveforms = np.stack([random_window(self._waveforms[clip], spec.window_samples, rng) for clip in chosen])
        targets = self._targets[chosen]
        if mix and rng.random() < settings.mixup_share:
            waveforms, targets = mixup(waveforms, targets, rng, settings.mixup_alpha)
        features = torch.from_numpy(np.stack([self._frontend(waveform) for waveform in waveforms]))
        torch.manual_seed(int(rng.integers(2**63)))  # torchaudio masks from torch's own generator
        return spec_augment(features, self._frontend.floor), torch.from_numpy(targets)


class TorchClassifier:
    """A PyTorch model seen as a Classifier."""

    def __init__(self, model: FlexiAST) -> None:
        self._model = model.eval()

    @property
    def spec(self) -> Spec:
        return self._model.spec

    @torch.inference_mode()
    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        device = self._model.cls.device
        logits: Float = self._model(torch.from_numpy(features).to(device), patch).float().cpu().numpy()
        return logits


def load_model(checkpoint: Checkpoint) -> FlexiAST:
    """The PyTorch model of a checkpoint, ready to evaluate."""
    model = FlexiAST(checkpoint.spec)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in checkpoint.weights.items()})
    return model.eval()


class Trainer:
    """A run in a folder: ``checkpoint.safetensors`` is the best so far, ``last.safetensors`` what resume reads."""

    def __init__(self, run: Path, spec: Spec, settings: Settings, train: Dataset, waveforms: Sequence[Float]) -> None:
        self.run, self.spec, self.settings = run, spec, settings
        for patch in settings.patches:
            spec.check_patch(patch)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.model = FlexiAST(spec).to(self._device)
        self.ema = FlexiAST(spec).to(self._device).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        matrices = [p for p in self.model.parameters() if p.ndim == 2]  # norms, biases, kernel, positions do not decay
        others = [p for p in self.model.parameters() if p.ndim != 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self._batches = Batches(waveforms, train.targets(spec.labels), spec, settings)
        self.total = settings.epochs * self._batches.steps_per_epoch
        self.step = 0
        self.best = -1.0
        self.stopping = False

    def steps(self, validation: Windows, targets: Float, info: dict[str, Any]) -> Iterator[Step]:
        """Train to the end, yielding after each step; measures, keeps the best and saves on the way."""
        measured = {round(self.total * (i + 1) / self.settings.evaluations) for i in range(self.settings.evaluations)}
        while self.step < self.total and not self.stopping:
            patch, loss = self._train_step()
            self.step += 1
            results = None
            if self.step in measured:
                results = evaluate(TorchClassifier(self.ema), validation, targets, self.settings.patches)
                self._keep_best(results, info)
            if self.step in measured or self.step % SAVE_EVERY == 0:
                self._save_state()
            yield Step(self.step, self.total, patch, loss, results)
        self._save_state()

    def stop(self) -> None:
        """End after the step at work; the state is saved, so that resume continues from there."""
        self.stopping = True

    def _train_step(self) -> tuple[PatchSize, float]:
        settings = self.settings
        patch = draw_patch(self.spec, settings, self.step, self.total)
        features, target = self._batches(self.step, mix=self.step > 0.3 * self.total)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._schedule()
        self.model.train()
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self.model(features.to(self._device), patch).float()
            loss = self._loss(logits, target.to(self._device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.step} (patch {patch}); train again with a lower --learning-rate"
            )
        return patch, value

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to zero, as a share of the learning rate."""
        warmup = max(1, round(self.settings.warmup_share * self.total))
        if self.step < warmup:
            return (self.step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(1, self.total - warmup)))

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.spec.task == "single":
            return F.cross_entropy(logits, target, label_smoothing=self.settings.label_smoothing)
        return F.binary_cross_entropy_with_logits(logits, target)

    @torch.no_grad()
    def _average(self) -> None:
        """EMA of the weights; young averages forget faster, so that they do not remember the initialisation."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def _keep_best(self, results: list[PatchResult], info: dict[str, Any]) -> None:
        mean = float(np.mean([result.metric for result in results]))
        if mean <= self.best:
            return
        self.best = mean
        record = info | {
            "step": self.step,
            "steps": self.total,
            "settings": json.loads(self.settings.model_dump_json()),
            "validation": [json.loads(result.model_dump_json(exclude_none=True)) for result in results],
            "versions": {"flexiast": flexiast.__version__, "torch": torch.__version__, "numpy": np.__version__},
        }
        save_checkpoint(self.run / "checkpoint.safetensors", Checkpoint(self.spec, weights_of(self.ema), record))

    def _save_state(self) -> None:
        import safetensors.torch

        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
        metadata = {"step": str(self.step), "best": repr(self.best), "run": self._identity()}
        content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
        write_atomically(self.run / "last.safetensors", content)

    def resume(self) -> None:
        """Continue from ``last.safetensors``; raises ModelError when it is of another run."""
        import safetensors

        path = self.run / "last.safetensors"
        if not path.is_file():
            raise ModelError(f"{path} does not exist, so there is nothing to resume; train without --resume first")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}; train again into another folder") from error
        if metadata.get("run") != self._identity():
            raise ModelError(
                f"{path} is of a run with other data or settings; "
                "resume with the same ones, or train into another folder"
            )
        try:
            self.model.load_state_dict(_under("model.", tensors))
            self.ema.load_state_dict(_under("ema.", tensors))
        except RuntimeError as error:  # torch's word for names or shapes that differ
            raise ModelError(f"{path} lacks weights of this run; train again into another folder") from error
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("adam.", tensors).items():
            index, key = name.split(".", 1)
            adam.setdefault(int(index), {})[key] = value
        state = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": adam, "param_groups": state["param_groups"]})
        self.step, self.best = int(metadata["step"]), float(metadata["best"])

    def _identity(self) -> str:
        return json.dumps(
            [json.loads(self.spec.model_dump_json()), json.loads(self.settings.model_dump_json()), self.total]
        )


def weights_of(model: FlexiAST) -> dict[str, Float]:
    """Name → float32 array of every weight."""
    return {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
