"""The flexible audio spectrogram transformer: ViT blocks on log-mel patches, any patch size from one set of weights.

Pre-norm transformer with a CLS token. Only the patch kernel and the positions depend on the patch size; both are kept
at their base size and pass through the constant matrices of ``patching`` in every forward, so gradients of every
size reach the one stored copy. Importing this module needs torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexiast.frontend import Frontend
from flexiast.patching import patch_matrices
from flexiast.spec import MLP_RATIO, PatchSize, Spec


class FlexiAST(nn.Module):
    """Features [batch, frames, mels] and a patch size → logits [batch, classes]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.network.width
        self.embedding = PatchEmbedding(spec)
        self.cls = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.network.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.classes)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, patch: PatchSize) -> Tensor:
        """Features [batch, window_frames, mels] → logits [batch, classes] at this patch size."""
        tokens = self.embedding(features, patch)
        tokens = torch.cat((self.cls.expand(len(tokens), 1, -1), tokens), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


class PatchEmbedding(nn.Module):
    """Features → tokens: the grid's patches times the resized kernel, plus bias and interpolated positions."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.floor = Frontend(spec.frontend).floor
        width, base = spec.network.width, spec.base_patch
        # At std 0.02, ViT's habit, patches drown in the positions and nothing is learnt from scratch: the kernel
        # gets its fan-in (1/16 at base 16 × 16) and the positions a fifth of a token's unit variance.
        self.kernel = nn.Parameter(torch.randn(width, *base) / (base.mels * base.frames) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.randn(*spec.base_grid, width) * 0.2)

    def forward(self, features: Tensor, patch: PatchSize) -> Tensor:
        """Features [batch, window_frames, mels] → tokens [batch, rows · columns, width]."""
        kernel, positions = self.resized(patch)
        tokens = patchify(features, patch, self.floor) @ kernel.flatten(1).T
        return tokens + (self.bias + positions)

    def resized(self, patch: PatchSize) -> tuple[Tensor, Tensor]:
        """Kernel [width, mels, frames] and positions [rows · columns, width] of a patch size, differentiable."""
        with torch.autocast(self.kernel.device.type, enabled=False):  # bf16 would cost 3e-4 of the kernel
            p_mels, p_frames, r_mels, r_frames = (
                torch.tensor(matrix, dtype=self.kernel.dtype, device=self.kernel.device)
                for matrix in patch_matrices(self.spec, patch)
            )
            kernel = p_mels @ self.kernel @ p_frames.T
            positions = torch.einsum("rb,cd,bdw->rcw", r_mels, r_frames, self.positions)
        return kernel, positions.flatten(0, 1)


def patchify(features: Tensor, patch: PatchSize, floor: float) -> Tensor:
    """Features [batch, frames, mels] → patches [batch, rows · columns, mels · frames of a patch].

    What a patch does not divide is padded with the floor: nothing is cropped. Rows run over mel, columns over time.
    """
    batch, frames, mels = features.shape
    padded = F.pad(features, (0, -mels % patch.mels, 0, -frames % patch.frames), value=floor)
    columns, rows = padded.shape[1] // patch.frames, padded.shape[2] // patch.mels
    grid = padded.reshape(batch, columns, patch.frames, rows, patch.mels)
    return grid.permute(0, 3, 1, 4, 2).reshape(batch, rows * columns, patch.mels * patch.frames)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = spec.network.width
        self.heads = spec.network.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, MLP_RATIO * width)
        self.contract = nn.Linear(MLP_RATIO * width, width)
        for linear in (self.qkv, self.projection, self.expand, self.contract):
            nn.init.trunc_normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)
        for linear in (self.projection, self.contract):  # the residual stream keeps its variance at any depth
            linear.weight.data *= (linear.in_features / width * 2 * spec.network.depth) ** -0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] → the same shape."""
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.projection(mixed)
        hidden: Tensor = self.contract(F.gelu(self.expand(self.norm2(tokens))))
        return tokens + hidden
