"""Tokens of the last window used again: what a network loses whose first blocks hear only a piece of the window.

python -m benchmarks.token_reuse sounds esc50/metadata.csv --val-fold 4 [--epochs 4] [--blocks 0,2,4]

Windows overlap. If the first blocks attend within pieces of 0.48 s (two columns of patches at 24 × 24), and their
positions are relative to the piece, the tokens of a piece are the same in every window that holds it: with a step of
one piece only the newest one is computed. The blocks after them, the CLS token and the positions in the window come as
before. Such a network is another one, so each is trained: from the model's weights, taught by the model itself, at one
size, on the clips that are not in the fold. With no block (0) it is the control: the same training, all windows whole.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import heading
from flexiast.checkpoint import load_checkpoint
from flexiast.data.clips import Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows, summarize
from flexiast.frontend import Frontend
from flexiast.model import Block, FlexiAST, patchify
from flexiast.networks import load_model
from flexiast.spec import MLP_RATIO, PatchSize
from flexiast.training.batches import Batches, LogMels
from flexiast.training.recipe import Augment, Training
from flexiast.training.sampling import Plan
from flexiast_runtime.catalog import find_checkpoint

PATCH = PatchSize(24, 24)
PIECE = 2
"""Columns of patches"""
BATCH = 32
LEARNING_RATE = 3e-4
TEACHER_WEIGHT = 0.5


class Reusing:
    """A model whose first blocks attend within pieces."""

    def __init__(self, model: FlexiAST, blocks: int) -> None:
        self.model, self.blocks = model, blocks

    def __call__(self, features: Tensor) -> Tensor:
        """Features [batch, frames, mels] → logits [batch, classes]"""
        model = self.model
        if not self.blocks:
            logits: Tensor = model(features, PATCH)
            return logits
        kernel, flat = model.embedding.resize(PATCH)
        rows = -(-features.shape[2] // PATCH.mels)
        positions = torch.unflatten(flat, 0, (rows, -1))  # [rows, columns, width]
        columns = positions.shape[1]
        own = positions[:, torch.arange(columns) % PIECE]  # those of the first piece, in every piece
        patches = patchify(features, PATCH, model.embedding.padding) @ kernel.flatten(1).T + model.embedding.bias
        tokens = torch.unflatten(patches, 1, (rows, columns)) + own
        whole = columns // PIECE * PIECE
        pieces = [tokens[:, :, start : start + PIECE] for start in range(0, whole, PIECE)]
        heard = self._hear(torch.cat(pieces))  # all pieces of all clips are one batch
        parts = [torch.unflatten(part, 1, (rows, PIECE)) for part in heard.chunk(len(pieces))]
        if whole < columns:
            parts.append(torch.unflatten(self._hear(tokens[:, :, whole:]), 1, (rows, columns - whole)))
        tokens = (torch.cat(parts, dim=2) + (positions - own)).flatten(1, 2)
        prefix = model.prefix()
        tokens = torch.cat((prefix.expand(len(tokens), -1, -1), tokens), dim=1)
        for block in model.blocks[self.blocks : -1]:
            tokens = block(tokens)
        pooled: Tensor = model.norm(model.blocks[-1](tokens, queries=len(prefix))).mean(dim=1)
        embedding: Tensor = model.head_norm(pooled) if model.spec.network.head_norm else pooled
        named: Tensor = model.head(embedding)
        return named

    def _hear(self, piece: Tensor) -> Tensor:
        """Tokens [batch, rows, columns, width] → [batch, rows · columns, width] after the first blocks"""
        tokens = piece.flatten(1, 2)
        for block in self.model.blocks[: self.blocks]:
            assert isinstance(block, Block)
            tokens = block(tokens)
        return tokens

    def count_macs(self) -> float:
        """Multiply-accumulates of the blocks in a window, one piece after the last one."""
        spec = self.model.spec
        patches = self.model.embedding.resize(PATCH)[1].shape[0]
        rows = -(-spec.frontend.mel_bins // PATCH.mels)
        columns = patches // rows
        prefix, total = spec.network.prefix_tokens, 0.0
        for number in range(spec.network.depth):
            if number < self.blocks:  # the newest piece, and the one at the end that is not whole
                fresh = [rows * PIECE] + ([rows * (columns % PIECE)] if columns % PIECE else [])
                total += sum(_count_block(spec.network.width, one, one) for one in fresh)
            else:
                heard = prefix + patches
                asking = prefix if number == spec.network.depth - 1 else heard
                total += _count_block(spec.network.width, heard, asking)
        return total


def _count_block(width: int, heard: int, asking: int) -> float:
    keys = 2 * heard * width**2 + 2 * asking * heard * width  # keys, values; attention and mixing
    return keys + (2 + 2 * MLP_RATIO) * asking * width**2  # queries, projection, feed-forward


def train(reusing: Reusing, teacher: FlexiAST, clips: Dataset, waveforms: Sequence[np.ndarray], epochs: int) -> float:
    """→ CPU seconds"""
    spec = teacher.spec
    augment = Augment(mix_share=0.5, mix_alpha=1.0, mix_from=0.0)
    training = Training(patches=(PATCH,), batch_size=BATCH, augment=augment)
    log_mels = LogMels(waveforms, spec.frontend, augment)
    targets = clips.targets(spec.labels)
    targets = np.pad(targets, ((0, 0), (0, spec.classes - targets.shape[1])))
    plan = Plan(spec, training, len(waveforms), epochs, started=True)
    batches = Batches(log_mels, targets, spec, training, plan)
    model = reusing.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, len(plan), pct_start=0.1)
    begun = time.process_time()
    for number in range(len(plan)):
        features, target = (torch.from_numpy(each) for each in batches[number])
        with torch.autocast("cpu", torch.bfloat16):
            logits = reusing(features).float()
            with torch.no_grad():
                answer = teacher(features, PATCH).float().log_softmax(dim=1)
        taught = F.kl_div(logits.log_softmax(dim=1), answer, log_target=True, reduction="batchmean")
        loss = (1 - TEACHER_WEIGHT) * F.cross_entropy(logits, target) + TEACHER_WEIGHT * taught
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return time.process_time() - begun


@torch.no_grad()
def measure(reusing: Reusing, windows: Windows, targets: np.ndarray) -> float:
    found = [
        reusing(torch.from_numpy(windows[start : start + BATCH])).numpy() for start in range(0, len(windows), BATCH)
    ]
    logits = windows.clip_mean(np.concatenate(found))
    return summarize(reusing.model.spec, PATCH, logits, targets).metric


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_reuse")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-fold")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--blocks", type=lambda text: [int(part) for part in text.split(",")], default=[0, 2, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(find_checkpoint(given.model))
    teacher = load_model(checkpoint).eval()
    assert isinstance(teacher, FlexiAST)
    spec = teacher.spec
    dataset = read_dataset(given.data, given.val_fold).labelled
    clips, waveforms, _ = load_waveforms(dataset.split("train"), spec.frontend.sample_rate_hz)
    aside, aside_waveforms, _ = load_waveforms(dataset.split("val"), spec.frontend.sample_rate_hz)
    windows, targets = Windows(aside_waveforms, Frontend(spec.frontend)), aside.targets(spec.labels)
    heading(f"{given.model} at {PATCH}, {given.epochs} epochs each")
    whole = Reusing(teacher, 0)
    print("| first blocks within a piece | before training | after | multiply-accumulates | CPU s |")
    print("|---|---|---|---|---|")
    for blocks in given.blocks:
        torch.manual_seed(0)
        model = load_model(checkpoint)
        assert isinstance(model, FlexiAST)
        reusing = Reusing(model.eval(), blocks)
        before = measure(reusing, windows, targets)
        seconds = train(reusing, teacher, clips, waveforms, given.epochs)
        after, cost = measure(reusing, windows, targets), reusing.count_macs() / whole.count_macs()
        print(f"| {blocks} | {100 * before:.1f} % | {100 * after:.1f} % | {cost:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
