"""Learning from other models: frozen teachers, and the loss that compares answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flexiast.checkpoint import Checkpoint, weights_sha256
from flexiast.errors import ModelError, UsageError
from flexiast.frontend import Frontend
from flexiast.networks import Model, weights_of
from flexiast.spec import FrontendSpec, PatchSize, Spec
from flexiast.text import preview

UNLIKELY_NAT = 40.0
"""So far below the likeliest class nothing stands where a teacher has no class for it: float32 makes a score of 0."""


class Teacher:
    """A frozen model from whose answers a run learns. Its normalisation, size and width may differ from the run's."""

    def __init__(self, model: Model, student: Spec, patch: PatchSize | None) -> None:
        """``patch`` is the size at which it answers, its base size by default.

        Raises ModelError for a teacher with other labels, another task or another front end.
        """
        _check_teacher(model.spec, student)
        theirs, ours = model.spec, student
        same = theirs.nothing_class == ours.nothing_class
        self._nothing = "keep" if same else "add" if ours.nothing_class else "drop"
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
        if self._nothing == "add":  # `Teachers` uses such answers only for clips in which a label sounds
            return torch.cat((logits, logits.amax(dim=1, keepdim=True) - UNLIKELY_NAT), dim=1)
        return logits[:, :-1] if self._nothing == "drop" else logits


class Teachers:
    """All teachers of a run. Their answer is the mean of their logits: they are wrong at different clips."""

    def __init__(self, models: Sequence[Model], student: Spec, patch: PatchSize | None, device: torch.device) -> None:
        """Raises UsageError where two are the same model, and ModelError for one that the run cannot learn from."""
        known = {weights_sha256(Checkpoint(model.spec, weights_of(model))): model for model in models}
        if len(known) < len(models):
            raise UsageError("two teachers are the same; give each once")
        self.hashes = sorted(known)
        """Of their weights. The order in which teachers are given does not matter."""
        self._teachers = [Teacher(known[one].to(device), student, patch) for one in self.hashes]
        self._labels = len(student.labels)

    def __len__(self) -> int:
        return len(self._teachers)

    def answer(self, features: Tensor) -> Tensor:
        """The student's features [batch, window_frames, mels] → logits [batch, classes]."""
        return torch.stack([teacher(features) for teacher in self._teachers]).mean(dim=0)

    def can_answer(self, target: Tensor) -> Tensor:
        """Clips [batch] whose answers count: those in which a label sounds.

        In a background nothing sounds, whatever a teacher takes it for: its false events must not be learnt.
        """
        return target[:, : self._labels].sum(dim=1) > 0


def distillation_loss(logits: Tensor, teacher: Tensor, task: str, temperature: float) -> Tensor:
    """Divergence (KL) of the answers from the teacher's [batch, classes], both at the temperature → [batch].

    Multiplying by the temperature squared keeps the size of the gradients (Hinton et al., arXiv 1503.02531).
    """
    logits, teacher = logits / temperature, teacher / temperature
    if task == "single":
        divergence = F.kl_div(F.log_softmax(logits, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True)
        return temperature**2 * divergence.sum(dim=1)
    answers = torch.sigmoid(teacher)
    entropy = F.binary_cross_entropy_with_logits(teacher, answers, reduction="none")
    cross = F.binary_cross_entropy_with_logits(logits, answers, reduction="none")
    return temperature**2 * (cross - entropy).mean(dim=1)


def _check_teacher(theirs: Spec, ours: Spec) -> None:
    """Raise ModelError unless both have the same labels, task, front end and window; normalisation may differ."""
    if theirs.labels != ours.labels or theirs.task != ours.task:
        strange = preview(sorted(set(theirs.labels) ^ set(ours.labels))) or "their order or the task"
        raise ModelError(
            f"a teacher, which knows {preview(theirs.labels)}, knows other labels than the data "
            f"(differing: {strange}); train it on the same"
        )
    for name in FrontendSpec.model_fields:
        given, needed = getattr(theirs.frontend, name), getattr(ours.frontend, name)
        if name not in {"mean", "std"} and given != needed:
            raise ModelError(
                f"the teacher has another front end or window: {name} {given}, the run has {needed}; "
                "give the run the teacher's, or train a teacher with the run's"
            )
