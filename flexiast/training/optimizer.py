"""How fast each weight learns: AdamW, its schedule, and less for the blocks below. Needs torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from flexiast.model import FlexiAST
from flexiast.training.recipe import Training


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW; norms, biases, kernel and positions do not decay. Lower blocks learn at a share of the rate."""
    by_share: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        by_share.setdefault(_rate_share(name, model, training.layer_decay), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for share, parameters in by_share.items():
        matrices = [p for p in parameters if p.ndim in {2, 4}]  # linear layers and convolutions
        others = [p for p in parameters if p.ndim not in {2, 4}]
        groups.append({"params": matrices, "weight_decay": training.weight_decay, "rate_share": share})
        groups.append({"params": others, "weight_decay": 0.0, "rate_share": share})
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98), fused=True)


def _rate_share(name: str, model: nn.Module, layer_decay: float) -> float:
    """Of the learning rate that a parameter has: 1 for the head, less by ``layer_decay`` with each block below it."""
    if layer_decay == 1 or not isinstance(model, FlexiAST):
        return 1.0
    depth = len(model.blocks)
    if name.startswith("blocks."):
        return float(layer_decay ** (depth - int(name.split(".")[1])))
    return float(layer_decay ** (depth + 1)) if name.startswith(("embedding.", "cls", "distillation")) else 1.0


def schedule(progress: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the learning rate."""
    if progress < warmup_share:
        return (progress + 0.01 * warmup_share) / (1.01 * warmup_share)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share)))
