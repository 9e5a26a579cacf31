"""Training: one readable loop over a plan of steps, on one process or on many."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint, save_checkpoint, weights_sha256
from flexiast.convnet import ConvNet
from flexiast.data.dataset import preview
from flexiast.errors import FlexiastError, ModelError, UsageError
from flexiast.evaluation.evaluate import PatchResult, Windows, evaluate
from flexiast.files import write_atomically
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast.training.batches import Backgrounds, Batches, LogMels
from flexiast.training.distributed import SINGLE_PROCESS, World
from flexiast.training.journal import Journal
from flexiast.training.recipe import Recipe, Training
from flexiast.training.sampling import plan
from flexiast.training.transfer import transfer_weights

SAVE_EVERY = 250
"""Steps between two saves of the state that --resume continues from."""

RECORD_EVERY = 50
"""Steps between two lines of losses in metrics.jsonl."""

MEASURED_CLIPS = 10_000
"""Normalisation and median length are known to a thousandth from so many; more might have to be decoded again."""

Model = FlexiAST | ConvNet

CLIPS, SIZES = "the labels of the clips", "the sizes of the steps, which --init changes"
"""What a resumed run is told by besides its settings."""

FOLLOW_FROM_CLIPS = {"steps", SIZES, "spec.frontend.mean", "spec.frontend.std"}
"""Change with the clips, and so explain nothing where those changed."""

LEAST_STEPS = 3_000
"""A small data set is seen until the network has had this many steps; fewer teach little."""


@dataclass(frozen=True)
class Progress:
    """What the loop reports after each step."""

    number: int
    total: int
    patch: PatchSize
    loss: float
    results: list[PatchResult] | None = None
    """Validation results, after the steps that measured them."""


def epochs_of(training: Training, clips: int) -> int:
    """Epochs of a run over so many clips."""
    return training.epochs or max(100, -(-LEAST_STEPS * training.batch_size // max(1, clips)))


def sample(clips: int, most: int = MEASURED_CLIPS) -> list[int]:
    """Clips to measure a data set by: all, or as many as tell the same, evenly spaced."""
    return np.unique(np.linspace(0, clips - 1, min(clips, most)).astype(int)).tolist()


def make_spec(frontend: FrontendSpec, log_mels: LogMels, **fields: Any) -> Spec:
    """A spec whose normalisation is measured on the training audio at its own speed."""
    total, squares, count = 0.0, 0.0, 0
    for clip in sample(len(log_mels)):
        log_mel = log_mels(clip, len(log_mels.speeds) // 2).astype(np.float64)
        total, squares, count = total + log_mel.sum(), squares + (log_mel**2).sum(), count + log_mel.size
    mean = float(total / count)
    std = math.sqrt(max(squares / count - mean**2, 1e-6))
    spec = Spec.validate_fields(frontend=frontend.model_copy(update={"mean": mean, "std": std}), **fields)
    if spec.network.kind == "transformer":
        spec.check_patch(spec.base_patch)
    return spec


def build_model(spec: Spec) -> Model:
    """The network of a spec, freshly initialised."""
    return ConvNet(spec) if spec.network.kind == "convolutional" else FlexiAST(spec)


class TorchClassifier:
    """A PyTorch model seen as a Classifier."""

    def __init__(self, model: Model) -> None:
        self._model = model.eval()

    @property
    def spec(self) -> Spec:
        return self._model.spec

    @torch.inference_mode()
    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        device = next(self._model.parameters()).device
        logits: Float = self._model(torch.from_numpy(features).to(device), patch).float().cpu().numpy()
        return logits


def load_model(checkpoint: Checkpoint) -> Model:
    """The PyTorch model of a checkpoint, ready to evaluate, on a GPU where there is one."""
    model = build_model(checkpoint.spec)
    _load(model, checkpoint.weights)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


UNLIKELY = 40.0
"""Nat below the likeliest class, where a teacher has no class for nothing."""


class Teacher:
    """A frozen model whose answers a run learns from; it may have another normalisation, size and width."""

    def __init__(self, model: Model, student: Spec, patch: PatchSize | None) -> None:
        theirs, ours = model.spec, student
        self.nothing_class = theirs.nothing_class
        same = theirs.nothing_class == ours.nothing_class
        self._nothing = "keep" if same else "add" if ours.nothing_class else "drop"
        if theirs.labels != ours.labels or theirs.task != ours.task:
            strange = preview(sorted(set(theirs.labels) ^ set(ours.labels))) or "their order or the task"
            raise ModelError(
                f"a teacher, which knows {preview(theirs.labels)}, knows other labels than the data "
                f"(differing: {strange}); train it on the same"
            )
        for name in FrontendSpec.model_fields:
            told, needed = getattr(theirs.frontend, name), getattr(ours.frontend, name)
            if name not in {"mean", "std"} and told != needed:
                raise ModelError(
                    f"the teacher hears through another front end or window: {name} {told}, the run has {needed}; "
                    "give the run the teacher's, or train a teacher with the run's"
                )
        self._model = model.eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.ndim == 4:  # a convnet's: a sixth less time on a CPU
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._patch = theirs.check_patch(patch or theirs.base_patch)
        self._scale = ours.frontend.std / theirs.frontend.std
        removed = ours.frontend.remove_bin_means  # and the mean of all bins with them
        self._shift = 0.0 if removed else (ours.frontend.mean - theirs.frontend.mean) / (2 * theirs.frontend.std)
        self._floors = Frontend(ours.frontend).floor, Frontend(theirs.frontend).floor

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """The student's features [batch, window_frames, mels] → logits [batch, classes]."""
        ours, theirs = self._floors
        features = torch.where(features == ours, theirs, features * self._scale + self._shift)
        logits: Tensor = self._model(features, self._patch).float()
        if self._nothing == "add":  # as sure as float32 is that something sounds: it is asked of such clips alone
            return torch.cat((logits, logits.amax(dim=1, keepdim=True) - UNLIKELY), dim=1)
        return logits[:, :-1] if self._nothing == "drop" else logits


class _ErrorsAsItems:
    """Batches whose errors come out of a worker process as they are, where torch would make a traceback of them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Float, Float] | FlexiastError:
        try:
            return self._batches[step]
        except FlexiastError as error:
            return error


class Trainer:
    """A run in a folder: ``checkpoint.safetensors`` is the best so far, ``last.safetensors`` what resume reads."""

    def __init__(
        self,
        run: Path,
        spec: Spec,
        recipe: Recipe,
        log_mels: LogMels,
        targets: Float,
        *,
        world: World = SINGLE_PROCESS,
        start: Checkpoint | None = None,
        teachers: Sequence[Model] = (),
        probabilities: Double | None = None,
        backgrounds: Backgrounds | None = None,
        compiled: bool = False,
        bf16: bool = False,
        build: Callable[[Spec], Model] = build_model,
    ) -> None:
        self.run, self.spec, self.recipe, self.world = run, spec, recipe, world
        self.precision = torch.bfloat16 if bf16 or world.device.type == "cuda" else torch.float32
        self._training = recipe.training
        if spec.network.kind == "transformer":
            for patch in self._training.patches:
                spec.check_patch(patch)
        elif self._training.patches != (spec.base_patch,):
            raise UsageError(f"a convnet has no patch sizes; train it with --patch-sizes {spec.base_patch}")
        torch.manual_seed(self._training.seed)  # equal weights on every rank
        self.model = build(spec).to(world.device)
        if start is not None:
            _load(self.model, transfer_weights(start, spec))
        self.ema = build(spec).to(world.device).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        if compiled and isinstance(self.model, FlexiAST):
            for block in self.model.blocks:
                block.compile(dynamic=True)  # one code for every number of tokens
        self._averaged = world.wrap_model(self.model)
        known = {weights_sha256(Checkpoint(teacher.spec, weights_of(teacher))): teacher for teacher in teachers}
        if len(known) < len(teachers):
            raise UsageError("two teachers are the same; give each once")
        self._taught_by = sorted(known)  # their order is of no matter
        asked_at = self._training.distill.teacher_patch
        self._teachers = [Teacher(known[one].to(world.device), spec, asked_at) for one in self._taught_by]
        self._optimizer = _optimizer(self.model, self._training)
        self._targets, self._log_mels, self._probabilities = targets, log_mels, probabilities
        self._backgrounds = backgrounds
        epochs = epochs_of(self._training, len(log_mels))
        self.plan = plan(spec, self._training, len(log_mels), epochs, started=start is not None)
        self.step = 0
        self.best = -1.0
        self._measured_on = ""
        self.stopping = False
        self._asked_to_stop = False

    @property
    def total(self) -> int:
        return len(self.plan)

    def steps(
        self, validation: Windows, targets: Float, journal: Journal | None, *, workers: int = 0
    ) -> Iterator[Progress]:
        """Train to the end, yielding after each step; measures, keeps the best and saves on the way.

        The leading rank has the journal, and it alone writes. Raises ModelError when the run was measured on other
        clips before it was resumed, for its best so far could not be compared.
        """
        measured_on = _digest(validation, targets)
        if self._measured_on not in {"", measured_on}:
            raise ModelError(
                f"{self.run} was measured on other clips or labels; resume with the same validation data, "
                "or train into another folder"
            )
        self._measured_on = measured_on
        count = self._training.evaluations
        measured = {round(self.total * (i + 1) / count) for i in range(count)}
        losses: dict[str, list[float]] = {}
        for features, target in self._batches(workers):
            patch = self.plan[self.step].patch
            loss = self._train_step(features, target)
            losses.setdefault(str(patch), []).append(loss)
            self.step += 1
            results = self._measure(validation, targets) if self.step in measured else None
            if journal is not None:
                if self.step % RECORD_EVERY == 0:
                    journal.record(self.step, {"loss": {name: float(np.mean(seen)) for name, seen in losses.items()}})
                    losses.clear()
                if results:
                    self._keep_best(results, journal)
                if results or self.step % SAVE_EVERY == 0:
                    self._save_state()
            yield Progress(self.step, self.total, patch, loss, results)
            if self.stopping:
                break
        if journal is not None:
            self._save_state()
            journal.close()
        self.world.wait()

    def stop(self) -> None:
        """End after the next step that all ranks agree on; the state is saved, so that resume continues from there."""
        self._asked_to_stop = True  # one that stopped by itself would leave the others waiting for it

    def _batches(self, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The share that this rank has of every step left, prepared ahead by worker processes where there are some."""
        for batch in self._loader(workers):
            if isinstance(batch, FlexiastError):
                raise batch
            yield batch

    def _loader(self, workers: int) -> Iterable[tuple[Tensor, Tensor] | FlexiastError]:
        batches = Batches(
            self._log_mels,
            self._targets,
            self.spec,
            self._training,
            self.plan,
            probabilities=self._probabilities,
            backgrounds=self._backgrounds,
            rank=self.world.rank,
            ranks=self.world.ranks,
        )
        return DataLoader(
            cast(Any, _ErrorsAsItems(batches)),
            sampler=range(self.step, self.total),
            batch_size=None,
            num_workers=workers,
            pin_memory=self.world.device.type == "cuda",
        )

    def _train_step(self, features: Tensor, target: Tensor) -> float:
        patch, _, clips, progress = self.plan[self.step]
        device = self.world.device
        features, target = features.to(device, non_blocking=True), target.to(device, non_blocking=True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.learning_rate * schedule(progress, self._training.warmup_share)
        self.model.train()
        torch.manual_seed(hash((self._training.seed, self.step, self.world.rank)))  # tokens that are dropped
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            loss = self._loss(features, target, patch).sum() / clips
        (loss * self.world.ranks).backward()  # type: ignore[no-untyped-call]  # the ranks' mean of gradients becomes their sum, that of the whole step
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average()
        return self._all_reduce_loss(loss, patch)

    def _loss(self, features: Tensor, target: Tensor, patch: PatchSize) -> Tensor:
        """Loss of each clip [batch]."""
        training, distill, task = self._training, self._training.distill, self.spec.task
        logits = self._averaged(features, patch, training.max_tokens).float()
        loss = label_loss(logits, target, task, training.label_smoothing)
        if self._teachers:  # the mean of their logits: they are wrong at different clips
            answers = torch.stack([teacher(features) for teacher in self._teachers]).mean(dim=0)
            divergence = distillation_loss(logits, answers, task, distill.temperature)
            weight = torch.where(asked(target, self.spec, self._teachers), distill.teacher_weight, 0.0)
            loss = torch.lerp(loss, divergence, weight)
        coarsest = min(training.patches, key=self.spec.tokens)
        if distill.in_place_weight and patch != coarsest:
            coarse = self._averaged(features, coarsest, training.max_tokens).float()
            loss = loss + distill.in_place_weight * distillation_loss(
                coarse, logits.detach(), task, distill.temperature
            )
        return loss

    def _all_reduce_loss(self, loss: Tensor, patch: PatchSize) -> float:
        """The loss of the whole step; one rank that was told to stop stops all.

        Raises ModelError when the loss is not finite, or when the ranks are not at the same step and patch size.
        """
        said = torch.tensor([self.step, *patch, self._asked_to_stop], dtype=torch.float64, device=loss.device)
        everyone = self.world.gather(torch.cat((said, loss.detach().double()[None])))
        if not (everyone[:, :3] == said[:3]).all():
            raise ModelError(f"the ranks do not train the same step and patch size: {everyone[:, :3].tolist()}")
        self.stopping = bool(everyone[:, 3].any())
        value = float(everyone[:, 4].sum())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.step} (patch {patch}); train again with a lower --learning-rate"
            )
        return value

    @torch.no_grad()
    def _average(self) -> None:
        """EMA of the weights; young averages forget faster, so that they do not remember the initialisation."""
        decay = min(self._training.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for ours, theirs in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            ours.copy_(theirs)  # batch norm's statistics are averages already

    def _measure(self, validation: Windows, targets: Float) -> list[PatchResult]:
        """Validation results of all sizes; each rank measures some of them."""
        mine = self._training.patches[self.world.rank :: self.world.ranks]
        results = evaluate(TorchClassifier(self.ema), validation, targets, mine)
        found = {result.patch_size: result for share in self.world.gather_objects(results) for result in share}
        return [found[patch] for patch in self._training.patches]

    def _keep_best(self, results: list[PatchResult], journal: Journal) -> None:
        mean = float(np.mean([result.merit for result in results]))
        figures = {"metric": {str(result.patch_size): result.metric for result in results}}
        if found := {str(r.patch_size): r.specificity for r in results if r.specificity is not None}:
            figures["specificity"] = found
        journal.record(self.step, figures)
        if mean <= self.best:
            return
        self.best = mean
        validation = [result.document() for result in results]
        record = journal.describe({"step": self.step, "steps": self.total, "validation": validation})
        save_checkpoint(self.run / "checkpoint.safetensors", Checkpoint(self.spec, weights_of(self.ema), record))

    def _save_state(self) -> None:
        import safetensors.torch

        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
        metadata = {"step": str(self.step), "best": repr(self.best), "measured_on": self._measured_on}
        metadata["run"] = json.dumps(self._identity())
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
        try:
            differing = _diff_settings(json.loads(metadata["run"]), self._identity())
            if CLIPS in differing:
                differing = [name for name in differing if name not in FOLLOW_FROM_CLIPS]
            step, best, measured_on = int(metadata["step"]), float(metadata["best"]), metadata["measured_on"]
            if not differing:
                self._load_state(tensors)
        except (KeyError, ValueError, RuntimeError) as error:  # the last is torch's, for names or shapes that differ
            raise ModelError(f"{path} lacks parts of this run's state; train again into another folder") from error
        if differing:
            raise ModelError(
                f"{path} is of a run with other data or settings (differing: {preview(differing)}); "
                "resume with the same ones, or train into another folder"
            )
        self.step, self.best, self._measured_on = step, best, measured_on

    def _load_state(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(_strip_prefix("model.", tensors))
        self.ema.load_state_dict(_strip_prefix("ema.", tensors))
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip_prefix("adam.", tensors).items():
            index, key = name.split(".", 1)
            adam.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        for index in (index for group in groups for index in group["params"]):
            if adam.get(index, {}).keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise KeyError(f"adam.{index}")
        self._optimizer.load_state_dict({"state": adam, "param_groups": groups})

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that saved its state."""
        spec, recipe = (json.loads(value.model_dump_json()) for value in (self.spec, self.recipe))
        return {"spec": spec, "recipe": recipe, "steps": self.total, "teachers": self._taught_by} | self._course

    @cached_property
    def _course(self) -> dict[str, str]:
        """Hashes of what the steps learn from, which settings alone do not tell."""
        sizes = np.array([(*step.patch, step.clips) for step in self.plan])
        background = {}
        if self._backgrounds is not None:
            background = {"the background": sha256(repr(self._backgrounds.identity).encode()).hexdigest()}
        return {
            CLIPS: sha256(self._targets.tobytes()).hexdigest(),
            SIZES: sha256(sizes.tobytes()).hexdigest(),
        } | background


def _digest(windows: Windows, targets: Float) -> str:
    """Hash of labels, and of enough windows to tell other clips by."""
    digest = sha256(targets.tobytes())
    for number in sample(len(windows), 32):
        digest.update(windows[number : number + 1].tobytes())
    return digest.hexdigest()


def _diff_settings(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the settings in which two trees of JSON differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [name]
    inner = (
        _diff_settings(one.get(key), other.get(key), f"{name}.{key}" if name else key) for key in sorted({*one, *other})
    )
    return [found for names in inner for found in names]


def schedule(progress: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the learning rate."""
    if progress < warmup_share:
        return (progress + 0.01 * warmup_share) / (1.01 * warmup_share)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share)))


def asked(target: Tensor, spec: Spec, teachers: Sequence[Teacher]) -> Tensor:
    """Of which clips [batch] teachers are asked: of those with a label, and of nothing if all have a class for it."""
    if all(teacher.nothing_class for teacher in teachers):
        return torch.ones(len(target), dtype=torch.bool, device=target.device)
    return target[:, : len(spec.labels)].sum(dim=1) > 0


def label_loss(logits: Tensor, target: Tensor, task: str, smoothing: float) -> Tensor:
    """Cross-entropy with targets that may be shares [batch, classes], or binary ones summed up to a mean → [batch]."""
    if task == "single":
        return F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)


def distillation_loss(logits: Tensor, teacher: Tensor, task: str, temperature: float) -> Tensor:
    """Divergence (KL) of the answers from the teacher's [batch, classes], both at the temperature → [batch].

    Times the temperature squared, so that its gradients keep their size (Hinton et al., arXiv 1503.02531).
    """
    logits, teacher = logits / temperature, teacher / temperature
    if task == "single":
        divergence = F.kl_div(F.log_softmax(logits, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True)
        return temperature**2 * divergence.sum(dim=1)
    answers = torch.sigmoid(teacher)
    entropy = F.binary_cross_entropy_with_logits(teacher, answers, reduction="none")
    cross = F.binary_cross_entropy_with_logits(logits, answers, reduction="none")
    return temperature**2 * (cross - entropy).mean(dim=1)


def weights_of(model: Model) -> dict[str, Float]:
    """Name → float32 array of every weight; batch norm's counters are none."""
    floats = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    return {name: value.detach().float().cpu().numpy() for name, value in floats.items()}


def _optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW; norms, biases, kernel and positions do not decay."""
    matrices = [p for p in model.parameters() if p.ndim in {2, 4}]  # linear layers and convolutions
    others = [p for p in model.parameters() if p.ndim not in {2, 4}]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98))


def _load(model: Model, weights: Mapping[str, Float]) -> None:
    """Weights of a checked checkpoint or part of them; the others, and batch norm's counters, stay as they are."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
