"""What a trained model loses when it hears only the tokens that its CLS token attends to, without training for it.

python -m benchmarks.token_pruning sounds esc50/metadata.csv --val-fold 4

After a block only the tokens with the most attention of that block's CLS token go on, as in EViT (arXiv 2202.07800).
Prints the validation accuracy and the multiply-accumulates of what is left, for each block and share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexiast.checkpoint import load_checkpoint
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows, summarize
from flexiast.frontend import Frontend
from flexiast.model import Block, FlexiAST
from flexiast.networks import load_model
from flexiast.spec import MLP_RATIO, PatchSize, parse_patches
from flexiast_runtime.catalog import find_checkpoint

BLOCKS = (3, 4, 5)
SHARES = (0.7, 0.5, 0.25, 0.15)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_pruning")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--val-fold")
    parser.add_argument("--patch-sizes", type=parse_patches, default=(PatchSize(16, 16),))
    given = parser.parse_args()
    model = load_model(load_checkpoint(find_checkpoint(given.model))).eval()
    assert isinstance(model, FlexiAST)
    spec = model.spec
    clips = read_dataset(given.data, given.val_fold).labelled.split("val")
    clips, waveforms, _ = load_waveforms(clips, spec.frontend.sample_rate_hz)
    windows, targets = Windows(waveforms, Frontend(spec.frontend)), clips.targets(spec.labels)
    depth = spec.network.depth
    print(f"{'patch':>7} {'after block':>12} {'tokens kept':>12} {'accuracy, %':>12} {'MAC':>6}")
    for patch in given.patch_sizes:
        for block, share in [(depth, 1.0), *((b, s) for b in BLOCKS if b < depth for s in SHARES)]:
            found = [
                embed_pruned(model, torch.from_numpy(windows[start : start + BATCH]), patch, block, share)
                for start in range(0, len(windows), BATCH)
            ]
            with torch.no_grad():
                logits = windows.clip_mean(np.concatenate([model.head(part).numpy() for part in found]))
            accuracy = summarize(spec, patch, logits, targets).metric
            cost = count_macs(model, patch, block, share) / count_macs(model, patch, depth, 1.0)
            print(f"{patch!s:>7} {block:12} {share:12.0%} {100 * accuracy:12.1f} {cost:6.2f}", flush=True)


@torch.no_grad()
def embed_pruned(model: FlexiAST, features: Tensor, patch: PatchSize, after: int, share: float) -> Tensor:
    """Features [batch, frames, mels] → embedding [batch, width]; ``share`` of the patches pass the block ``after``."""
    prefix = model.prefix()
    tokens = model.embedding(features, patch)
    tokens = torch.cat((prefix.expand(len(tokens), -1, -1), tokens), dim=1)
    for number, block in enumerate(model.blocks[:-1], 1):
        assert isinstance(block, Block)
        attention = read_cls_attention(block, tokens)[:, len(prefix) :] if number == after else None
        tokens = block(tokens)
        if attention is not None and share < 1:
            keep = round(share * attention.shape[1])
            chosen = attention.topk(keep, dim=1).indices + len(prefix)
            patches = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat((tokens[:, : len(prefix)], patches), dim=1)
    pooled: Tensor = model.norm(model.blocks[-1](tokens, queries=len(prefix))).mean(dim=1)
    return model.head_norm(pooled) if model.spec.network.head_norm else pooled


def read_cls_attention(block: Block, tokens: Tensor) -> Tensor:
    """Tokens [batch, tokens, width] → attention of the first one to each [batch, tokens], the mean over heads."""
    width = tokens.shape[2] // block.heads
    q, k, _ = block.qkv(block.norm1(tokens)).unflatten(2, (3, block.heads, width)).unbind(2)
    scores = torch.einsum("bhw,bthw->bht", q[:, 0], k) / width**0.5
    return scores.softmax(dim=2).mean(dim=1)


def count_macs(model: FlexiAST, patch: PatchSize, after: int, share: float) -> float:
    """Multiply-accumulates of the blocks."""
    network, tokens = model.spec.network, model.embedding.resize(patch)[1].shape[0]
    width, total = network.width, 0.0
    for number in range(1, network.depth + 1):
        heard = network.prefix_tokens + tokens * (share if number > after else 1.0)
        asking = network.prefix_tokens if number == network.depth else heard
        total += 2 * heard * width**2 + 2 * asking * heard * width  # keys, values; attention and mixing
        total += (2 + 2 * MLP_RATIO) * asking * width**2  # queries, projection, feed-forward
    return total


if __name__ == "__main__":
    main()
