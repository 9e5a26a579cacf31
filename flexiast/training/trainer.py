"""Training: one readable loop over a plan of steps, on one process or on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint, save_checkpoint
from flexiast.data.remote_shards import ClipShards
from flexiast.data.targets import Targets
from flexiast.errors import FlexiastError, ModelError, UsageError
from flexiast.evaluation.evaluate import PatchResult, Windows
from flexiast.model import FlexiAST
from flexiast.networks import Model, build_model, load_weights, weights_of
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast.training.batches import Backgrounds, Batches, ErrorsAsItems, LogMels, Track
from flexiast.training.distillation import Teachers, distillation_loss
from flexiast.training.distributed import SINGLE_PROCESS, World
from flexiast.training.embedding_targets import EmbeddingTargets, build_student, embedding_loss
from flexiast.training.journal import Journal
from flexiast.training.optimizer import make_optimizer, schedule
from flexiast.training.recipe import Recipe, Training
from flexiast.training.run_state import Position, RunState, run_identity, validation_digest
from flexiast.training.sampling import Plan, sample_evenly
from flexiast.training.transfer import transfer_weights
from flexiast.training.validation import choose_steps, is_affordable, measure

SAVE_EVERY = 250
"""Steps between two saves of the state that --resume continues from."""

RECORD_EVERY = 50
"""Steps between two lines of losses in metrics.jsonl."""

SCORES_WEIGHT = 0.1
"""Of the cross-entropies of a teacher's scores, summed over its labels: next to the squared error of its embedding,
which is 1 at the start, that of YAMNet's 521 labels is then about as large."""

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


def make_spec(frontend: FrontendSpec, log_mels: LogMels, **fields: Any) -> Spec:
    """A spec whose normalisation is measured on the training audio at its own speed."""
    total, squares, count = 0.0, 0.0, 0
    for clip in sample_evenly(len(log_mels)):
        log_mel = log_mels(clip, len(log_mels.speeds) // 2).astype(np.float64)
        total, squares, count = total + log_mel.sum(), squares + (log_mel**2).sum(), count + log_mel.size
    mean = float(total / count)
    std = math.sqrt(max(squares / count - mean**2, 1e-6))
    spec = Spec.validate_fields(frontend=frontend.model_copy(update={"mean": mean, "std": std}), **fields)
    if spec.network.kind == "transformer":
        spec.check_patch(spec.base_patch)
    return spec


class Trainer:
    """A run in a folder: ``checkpoint.safetensors`` is the best so far, ``last.safetensors`` what resume reads."""

    def __init__(
        self,
        run: Path,
        spec: Spec,
        recipe: Recipe,
        log_mels: LogMels,
        targets: Targets,
        *,
        world: World = SINGLE_PROCESS,
        start: Checkpoint | None = None,
        teachers: Sequence[Model] = (),
        probabilities: Double | None = None,
        backgrounds: Backgrounds | None = None,
        compiled: bool = False,
        bf16: bool = False,
        embeddings: EmbeddingTargets | None = None,
        learn_scores: bool = False,
        measure_start: bool = False,
        shards: ClipShards | None = None,
        build: Callable[[Spec], Model] = build_model,
    ) -> None:
        """``targets`` are [clips, classes], ``probabilities`` [clips] those of drawing each clip.

        ``embeddings`` are learnt next to them. With ``learn_scores`` the targets are a teacher's scores, not labels.
        With ``measure_start`` the start, whose head must be the run's, is measured too, and kept if nothing is better.
        ``shards`` are where the clips lie if that is an object store.

        Raises UsageError for patch sizes that the model cannot have and for two equal teachers, and ModelError for a
        start or a teacher that does not fit the run.
        """
        self.run, self.spec, self.recipe, self.world = run, spec, recipe, world
        self.precision = torch.bfloat16 if bf16 or world.device.type == "cuda" else torch.float32
        self._training = recipe.training
        _check_patches(spec, self._training)
        torch.manual_seed(self._training.seed)  # equal weights on every rank
        if embeddings is not None:
            prior = targets[:].mean(axis=0) if learn_scores else None
            build = partial(build_student, width=len(embeddings.weights), prior=prior)
            targets = np.concatenate((targets[:], embeddings.values), axis=1)
            self._embedding_weights = torch.from_numpy(embeddings.weights).to(world.device)
        self._learn_scores, self._starts_measured = learn_scores, measure_start
        self.model = build(spec).to(world.device)
        if start is not None:
            load_weights(self.model, transfer_weights(start, spec))
        self.ema = build(spec).to(world.device).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        if compiled and isinstance(self.model, FlexiAST):
            for block in self.model.blocks:
                block.compile(dynamic=True)  # one code for every number of tokens
        self._replicated = world.wrap_model(self.model)
        self._teachers = Teachers(teachers, spec, self._training.distill.teacher_patch, world.device)
        self._optimizer = make_optimizer(self.model, self._training)
        self._state = RunState(run, self.model, self.ema, self._optimizer)
        self._targets, self._log_mels, self._probabilities = targets, log_mels, probabilities
        self._embedding_width = 0 if embeddings is None else len(embeddings.weights)
        self._backgrounds, self._shards = backgrounds, shards
        epochs = epochs_of(self._training, len(log_mels))
        self.plan = Plan(spec, self._training, len(log_mels), epochs, started=start is not None)
        self.step, self.best, self._stale, self._measured_on, self._is_due, _ = Position()
        self.stopping = False
        self._stop_requested = False

    @property
    def total(self) -> int:
        return len(self.plan)

    @cached_property
    def learning_gmac(self) -> float:
        """Of the forward passes of the whole run."""
        cost = self._training.clip_gmac(self.spec)
        return sum(step.clips * cost[step.patch] for step in self.plan)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: not even the measurement after the last step."""
        return self.ended_early or (self.step == self.total and not self._is_due)

    @property
    def ended_early(self) -> bool:
        """Whether the run is over before its last step: measurements no longer rise, or cannot rise any more."""
        patience, perfect = self._training.patience, self._starts_measured and self.best == 1
        return patience is not None and (self._stale >= patience or perfect)

    def resume(self) -> tuple[str, ...]:
        """Continue from ``last.safetensors``; raises ModelError when it is of another run.

        Returns the settings that the version which saved it did not have. They have their defaults.
        """
        position = self._state.load(self._identity, self.plan)
        self.step, self.best, self._stale, self._measured_on, self._is_due, new_settings = position
        return new_settings

    def stop(self) -> None:
        """End after the step at hand, of several ranks after the next that all agree on, and within a measurement.

        The state is saved, so that resume continues from there.
        """
        self._stop_requested = True  # a rank that stopped alone would leave the others waiting for it
        self.stopping = self.stopping or self.world.ranks == 1

    def steps(
        self, validation: Windows, targets: Float, journal: Journal | None, *, workers: int = 0, track: Track = iter
    ) -> Iterator[Progress]:
        """Train to the end, yielding after each step; measures, keeps the best and saves on the way.

        ``track`` sees the clips that are transformed before worker processes begin. The leading rank has the journal,
        and it alone writes. Raises ModelError when the run was measured on other clips before it was resumed, because
        its best so far could not be compared.
        """
        self._check_validation(validation, targets)
        measuring_gmac = len(validation) * sum(self.spec.gmac(patch) for patch in self._training.patches)
        measured = choose_steps(self._training, self.total, self.learning_gmac, measuring_gmac)
        losses: dict[str, list[float]] = {}
        is_first = self._starts_measured and self.best < 0 and is_affordable(self.learning_gmac, measuring_gmac)
        if (is_first or self._is_due) and (results := self._validate(validation, targets, journal)):
            yield Progress(self.step, self.total, self.plan[max(0, self.step - 1)].patch, math.nan, results)
        for features, target in () if self.ended_early or self.stopping else self._batches(workers, track):
            patch = self.plan[self.step].patch
            loss = self._train_step(features, target)
            losses.setdefault(str(patch), []).append(loss)
            self.step += 1
            if journal is not None and self.step % RECORD_EVERY == 0:
                journal.record(self.step, {"loss": {name: float(np.mean(each)) for name, each in losses.items()}})
                losses.clear()
            results = self._validate(validation, targets, journal) if self.step in measured else None
            if journal is not None and (results or self.step % SAVE_EVERY == 0):
                self._save_state()
            yield Progress(self.step, self.total, patch, loss, results)
            if self.stopping or self.ended_early:
                break
        if journal is not None:
            self._save_state()
            if self.best < 0:  # stopped before anything was measured
                self._save_checkpoint([], journal)
            journal.close()
        self.world.wait()

    def _check_validation(self, validation: Windows, targets: Float) -> None:
        """Raise ModelError unless a resumed run is measured on the clips that it was measured on before."""
        measured_on = validation_digest(validation, targets)
        if self._measured_on not in {"", measured_on}:
            raise ModelError(
                f"{self.run} was measured on other clips or labels; resume with the same validation data, "
                "or train into another folder"
            )
        self._measured_on = measured_on

    def _batches(self, workers: int, track: Track = iter) -> Iterator[tuple[Tensor, Tensor]]:
        """The rank's share of every step left, prepared ahead by worker processes where there are some."""
        batches = Batches(
            self._log_mels,
            self._targets,
            self.spec,
            self._training,
            self.plan,
            probabilities=self._probabilities,
            backgrounds=self._backgrounds,
            embedding_width=self._embedding_width,
            rank=self.world.rank,
            ranks=self.world.ranks,
            shards=self._shards,
        )
        if workers:
            self._log_mels.fill(lambda clips: takewhile(lambda _: not self._stop_requested, track(clips)))
        loader: Iterable[tuple[Tensor, Tensor] | FlexiastError] = DataLoader(
            cast(Any, ErrorsAsItems(batches)),
            sampler=range(self.step, self.total),
            batch_size=None,
            num_workers=workers,
            pin_memory=self.world.device.type == "cuda",
        )
        for batch in loader:
            if isinstance(batch, FlexiastError):
                raise batch
            yield batch

    def _train_step(self, features: Tensor, target: Tensor) -> float:
        patch, _, clips, progress = self.plan[self.step]
        device = self.world.device
        features, target = features.to(device, non_blocking=True), target.to(device, non_blocking=True)
        for group in self._optimizer.param_groups:
            rate = self._training.learning_rate * schedule(progress, self._training.warmup_share)
            group["lr"] = rate * group["rate_share"]
        self.model.train()
        torch.manual_seed(hash((self._training.seed, self.step, self.world.rank)))  # tokens that are dropped
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            loss = self._loss(features, target, patch).sum() / clips
        # The ranks' mean of gradients becomes their sum, which is the gradient of the whole step.
        (loss * self.world.ranks).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._update_average()
        return self._all_reduce_loss(loss, patch)

    def _loss(self, features: Tensor, target: Tensor, patch: PatchSize) -> Tensor:
        """Loss of each clip [batch]."""
        training, distill, task = self._training, self._training.distill, self.spec.task
        answers = self._replicated(features, patch, training.max_tokens).float()
        parts = [self.spec.classes, answers.shape[1] - self.spec.classes]
        (logits, embedding), (target, learnt) = (torch.split(each, parts, dim=1) for each in (answers, target))
        loss = label_loss(logits, target, task, training.label_smoothing)
        if self._learn_scores:
            loss = loss * (SCORES_WEIGHT * len(self.spec.labels))
        if embedding.shape[1]:
            loss = loss + distill.embedding_weight * embedding_loss(embedding, learnt, self._embedding_weights)
        if len(self._teachers):
            divergence = distillation_loss(logits, self._teachers.answer(features), task, distill.temperature)
            weight = torch.where(self._teachers.can_answer(target), distill.teacher_weight, 0.0)
            loss = torch.lerp(loss, divergence, weight)
        coarsest = min(training.patches, key=self.spec.tokens)
        if distill.in_place_weight and patch != coarsest:
            coarse = self._replicated(features, coarsest, training.max_tokens)[:, : self.spec.classes].float()
            loss = loss + distill.in_place_weight * distillation_loss(
                coarse, logits.detach(), task, distill.temperature
            )
        return loss

    def _all_reduce_loss(self, loss: Tensor, patch: PatchSize) -> float:
        """The loss of the whole step. If one rank was asked to stop, all stop.

        Raises ModelError when the loss is not finite, or when the ranks are not at the same step and patch size.
        """
        own = torch.tensor([self.step, *patch, self._stop_requested], dtype=torch.float64, device=loss.device)
        everyone = self.world.gather(torch.cat((own, loss.detach().double()[None])))
        if not (everyone[:, :3] == own[:3]).all():
            raise ModelError(f"the ranks do not train the same step and patch size: {everyone[:, :3].tolist()}")
        self.stopping = self.stopping or bool(everyone[:, 3].any())
        value = float(everyone[:, 4].sum())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.step} (patch {patch}); train again with a lower --learning-rate"
            )
        return value

    @torch.no_grad()
    def _update_average(self) -> None:
        """Moving average of the weights (EMA). A young one decays faster, so that it forgets the initialisation."""
        decay = min(self._training.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for ours, theirs in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            ours.copy_(theirs)  # batch norm's statistics are averages already

    def _validate(self, validation: Windows, targets: Float, journal: Journal | None) -> list[PatchResult] | None:
        """Measure all sizes and keep the weights if they are the best; None where the run was stopped meanwhile."""
        patches = self._training.patches
        results = measure(self.ema, validation, targets, patches, self.world, lambda: self._stop_requested)
        self._is_due = results is None
        if results is None:
            self.stopping = True
            return None
        improved = self._update_best(results)
        if journal is not None:
            self._record(results, journal, improved=improved)
        return results

    def _update_best(self, results: list[PatchResult]) -> bool:
        """Whether these results are the best so far, on average over the sizes. Every rank has the same answer.

        Of equal ones the later are: their network has trained on more variations of the clips. But a start with a
        fitted head is left only for what is better: ten steps on the sample sounds of the tutorial were as right on the
        validation clips, and found worse events in a stream.
        """
        mean = float(np.mean([result.merit for result in results]))
        improved = mean > self.best or (mean == self.best and not self._starts_measured)
        self._stale = 0 if mean > self.best else self._stale + 1
        self.best = max(mean, self.best)
        return improved

    def _record(self, results: list[PatchResult], journal: Journal, *, improved: bool) -> None:
        """Write results into the journal, and the checkpoint that they belong to if they are the best so far."""
        figures = {"metric": {str(result.patch_size): result.metric for result in results}}
        if found := {str(r.patch_size): r.specificity for r in results if r.specificity is not None}:
            figures["specificity"] = found
        journal.record(self.step, figures)
        if improved:
            self._save_checkpoint(results, journal)

    def _save_checkpoint(self, results: list[PatchResult], journal: Journal) -> None:
        validation = [result.document() for result in results]
        record = journal.describe({"step": self.step, "steps": self.total, "validation": validation})
        save_checkpoint(self.run / "checkpoint.safetensors", Checkpoint(self.spec, weights_of(self.ema), record))

    def _save_state(self) -> None:
        position = Position(self.step, self.best, self._stale, self._measured_on, self._is_due)
        self._state.save(position, self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Hashing the targets of a large data set takes seconds, so it is done once."""
        ranks = None if self._shards is None else self.world.ranks
        return run_identity(
            self.spec, self.recipe, self.plan, self._targets, self._teachers.hashes, self._backgrounds, ranks
        )


def _check_patches(spec: Spec, training: Training) -> None:
    """Raise UsageError for patch sizes that do not fit the window, or that a convnet does not have."""
    if spec.network.kind == "transformer":
        for patch in training.patches:
            spec.check_patch(patch)
    elif training.patches != (spec.base_patch,):
        raise UsageError(f"a convnet has no patch sizes; train it with --patch-sizes {spec.base_patch}")


def label_loss(logits: Tensor, target: Tensor, task: str, smoothing: float) -> Tensor:
    """Cross-entropy with targets that may be shares [batch, classes], or binary ones summed up to a mean → [batch]."""
    if task == "single":
        return F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
