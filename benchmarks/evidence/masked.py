"""A start without labels: masked spectrogram modelling, in the manner of SimMIM (arXiv 2111.09886).

Most patches are hidden and the network says what they held, at a patch size drawn anew in each step. What it says is
always a patch of the base size, so one decoder serves all sizes: the hidden patch is resized to that size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexiast.checkpoint import Checkpoint
from flexiast.model import FlexiAST, patchify
from flexiast.networks import weights_of
from flexiast.patching import resize_matrix
from flexiast.spec import PatchSize, Spec
from flexiast.training.batches import Batches, LogMels
from flexiast.training.optimizer import schedule
from flexiast.training.recipe import Training
from flexiast.training.sampling import Plan

HIDDEN = 0.6
"""Share of the patches that are hidden."""


class Masked(nn.Module):
    """Features and a patch size → mean squared error over the hidden patches, each normalised by itself."""

    def __init__(self, model: FlexiAST) -> None:
        super().__init__()
        self.model = model
        network, base = model.spec.network, model.spec.base_patch
        self.hidden = nn.Parameter(torch.zeros(network.width))
        self.decoder = nn.Linear(network.width, base.mels * base.frames)

    def forward(self, features: Tensor, patch: PatchSize) -> Tensor:
        model, embedding = self.model, self.model.embedding
        patches = patchify(features, patch, embedding.padding)
        kernel, positions = embedding.resize(patch)
        hide = torch.rand(patches.shape[:2]) < HIDDEN
        content = torch.where(hide[..., None], self.hidden, patches @ kernel.flatten(1).T)
        tokens = content + embedding.bias + positions
        prefix = model.prefix()
        tokens = torch.cat((prefix.expand(len(tokens), -1, -1), tokens), dim=1)
        for block in model.blocks:
            tokens = block(tokens)
        said = self.decoder(model.norm(tokens)[:, len(prefix) :][hide])
        return (said - self._at_base(patches[hide], patch)).square().mean()

    def _at_base(self, patches: Tensor, patch: PatchSize) -> Tensor:
        """Patches [n, mels · frames] → the same resized to the base size, of zero mean and unit variance."""
        spec = self.model.spec
        along_mels, along_frames = (
            torch.tensor(resize_matrix(size, base, spec.resize), dtype=torch.float32)
            for size, base in zip(patch, spec.base_patch, strict=True)
        )
        resized = (along_mels @ patches.reshape(len(patches), *patch) @ along_frames.T).flatten(1)
        return (resized - resized.mean(1, keepdim=True)) / (resized.std(1, keepdim=True) + 1e-3)


def masked_start(spec: Spec, training: Training, log_mels: LogMels) -> Checkpoint:
    """A network that was trained to say what was hidden, on the same clips, sizes and number of epochs as the run."""
    torch.manual_seed(training.seed)
    masked = Masked(FlexiAST(spec))
    augment = training.augment.model_copy(update={"mix_share": 0.0, "masks": 0})
    training = training.model_copy(update={"augment": augment})
    assert training.epochs is not None  # every experiment says how long it is
    steps = Plan(spec, training, len(log_mels), training.epochs)
    nothing = torch.zeros(len(log_mels), 0).numpy()
    batches = Batches(log_mels, nothing, spec, training, steps)
    optimizer = torch.optim.AdamW(masked.parameters(), lr=training.learning_rate, betas=(0.9, 0.98))
    for number, step in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * schedule(step.progress, training.warmup_share)
        loss = masked(torch.from_numpy(batches[number][0]), step.patch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(masked.parameters(), 1.0)
        optimizer.step()
        if number % 500 == 0:
            print(f"  masked: step {number} of {len(steps)}, error {loss.item():.3f}", flush=True)
    headless = spec.model_copy(update={"labels": ()})
    weights = {name: value for name, value in weights_of(masked.model).items() if not name.startswith("head.")}
    return Checkpoint(headless, weights)
