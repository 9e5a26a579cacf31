"""The flexible audio spectrogram transformer: ViT blocks on log-mel patches, any patch size from one set of weights.

Pre-norm transformer with a CLS token and, in imported ones, a distillation token. Only the patch kernel and the
positions depend on the patch size; both are kept at their base size and pass through the constant matrices of
``patching`` in every forward, so gradients of every size reach the one stored copy. Importing this module needs torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexiast.head import tabulate_rows
from flexiast.patching import PatchMatrices, patch_matrices
from flexiast.pcen import padding_value
from flexiast.pcen_torch import PCEN
from flexiast.spec import MLP_RATIO, NetworkSpec, PatchSize, Spec


class FlexiAST(nn.Module):
    """Features [batch, frames, mels] and a patch size → logits [batch, classes]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        network = spec.network
        self.embedding = PatchEmbedding(spec)
        self.cls = nn.Parameter(torch.randn(network.width) * 0.02)
        if network.prefix_tokens == 2:
            self.distillation = nn.Parameter(torch.randn(network.width) * 0.02)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(network.depth))
        self.norm = _norm(network)
        if network.head_norm:
            self.head_norm = _norm(network)
        self.head = nn.Linear(network.width, spec.head_rows)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        """Features [batch, window_frames, mels] → logits [batch, classes] at this patch size."""
        return self.classify(self.embed(features, patch, keep))

    def classify(self, embedding: Tensor) -> Tensor:
        """Embedding [batch, width] → logits [batch, classes]."""
        logits: Tensor = self.head(embedding)
        if not self.spec.extra_rows:
            return logits
        table, missing = (torch.from_numpy(each).to(logits.device) for each in tabulate_rows(self.spec))
        return (logits[:, table] + missing).logsumexp(dim=2)

    def embed(self, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        """Features [batch, window_frames, mels] → embedding [batch, width], what the head names.

        While training, only ``keep`` patches of each clip are heard, drawn from torch's default generator, where there
        are more (patchout, PaSST, arXiv 2110.05069).
        """
        tokens = self.embedding(features, patch)
        if self.training and keep is not None and keep < tokens.shape[1]:
            tokens = drop_tokens(tokens, keep)
        prefix = self.prefix()
        tokens = torch.cat((prefix.expand(len(tokens), -1, -1), tokens), dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        pooled: Tensor = self.norm(self.blocks[-1](tokens, queries=len(prefix))).mean(dim=1)
        return self.head_norm(pooled) if self.spec.network.head_norm else pooled

    def prefix(self) -> Tensor:
        """Tokens that stand before the patches [prefix tokens, width]."""
        return torch.stack((self.cls, self.distillation) if self.spec.network.prefix_tokens == 2 else (self.cls,))


class PatchEmbedding(nn.Module):
    """Features → tokens: the grid's patches times the resized kernel, plus bias and interpolated positions."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.pcen = PCEN(spec.frontend) if spec.pcen else nn.Identity()
        self.padding = padding_value(spec)
        width, base = spec.network.width, spec.base_patch
        # At std 0.02, ViT's habit, patches drown in the positions and nothing is learnt from scratch: the kernel
        # gets its fan-in (1/16 at base 16 × 16). Positions begin as sinusoids: neighbours start alike, which random
        # ones would have to learn.
        self.kernel = nn.Parameter(torch.randn(width, *base) / (base.mels * base.frames) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.6 * sinusoids(*spec.base_grid, width))

    def forward(self, features: Tensor, patch: PatchSize) -> Tensor:
        """Features [batch, window_frames, mels] → tokens [batch, rows · columns, width]."""
        kernel, positions = self.resize(patch)
        stride = None if self.spec.base_stride is None else self.spec.stride(patch)
        tokens = patchify(self.pcen(features), patch, self.padding, stride) @ kernel.flatten(1).T
        return tokens + (self.bias + positions)

    def matrices(self, patch: PatchSize) -> PatchMatrices:
        """How kernel and positions become those of a patch size; experiments replace it."""
        return patch_matrices(self.spec, patch)

    def resize(self, patch: PatchSize) -> tuple[Tensor, Tensor]:
        """Kernel [width, mels, frames] and positions [rows · columns, width] of a patch size, differentiable."""
        with torch.autocast(self.kernel.device.type, enabled=False):  # bf16 would cost 3e-4 of the kernel
            p_mels, p_frames, r_mels, r_frames = (
                torch.tensor(matrix, dtype=self.kernel.dtype, device=self.kernel.device)
                for matrix in self.matrices(patch)
            )
            kernel = p_mels @ self.kernel @ p_frames.T
            positions = torch.einsum("rb,cd,bdw->rcw", r_mels, r_frames, self.positions)
        return kernel, positions.flatten(0, 1)


def sinusoids(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of unit variance [rows, columns, width]: half the width tells the row, half the column.

    Wavelengths rise geometrically from 2π to 64 · 2π patches.
    """
    count = -(-width // 4)
    rates = 64 ** (-torch.arange(count) / count)

    def encode_axis(length: int) -> Tensor:
        angles = torch.arange(length)[:, None] * rates
        return 2**0.5 * torch.cat((angles.sin(), angles.cos()), dim=1)

    shape = (rows, columns, 2 * count)
    both = torch.cat((encode_axis(rows)[:, None].expand(shape), encode_axis(columns)[None].expand(shape)), dim=2)
    return both[..., :width]


def patchify(features: Tensor, patch: PatchSize, padding: float, stride: PatchSize | None = None) -> Tensor:
    """Features [batch, frames, mels] → patches [batch, rows · columns, mels · frames of a patch].

    What a patch does not divide is padded with this value: nothing is cropped. With a stride patches overlap and only
    whole ones count. Rows run over mel, columns over time.
    """
    if stride is None:
        _, frames, mels = features.shape
        features = F.pad(features, (0, -mels % patch.mels, 0, -frames % patch.frames), value=padding)
        stride = patch
    grid = features.unfold(1, patch.frames, stride.frames).unfold(2, patch.mels, stride.mels)
    return grid.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)


def drop_tokens(tokens: Tensor, keep: int) -> Tensor:
    """Tokens [batch, tokens, width] → [batch, keep, width], each clip's own choice, all choices equally likely."""
    chosen = torch.rand(tokens.shape[:2], device=tokens.device).topk(keep, dim=1).indices
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention [batch, heads, tokens, width of a head]; on a CPU in float32 also where all else is bfloat16.

    The backward pass of PyTorch's CPU kernel takes four times as long in bfloat16.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float())


def _norm(network: NetworkSpec) -> nn.LayerNorm:
    return nn.LayerNorm(network.width, eps=network.norm_epsilon)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width = spec.network.width
        self.heads = spec.network.heads
        self.norm1 = _norm(spec.network)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = _norm(spec.network)
        self.expand = nn.Linear(width, MLP_RATIO * width)
        self.contract = nn.Linear(MLP_RATIO * width, width)
        for linear in (self.qkv, self.projection, self.expand, self.contract):
            nn.init.trunc_normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)
        for linear in (self.projection, self.contract):  # the residual stream keeps its variance at any depth
            linear.weight.data *= (linear.in_features / width * 2 * spec.network.depth) ** -0.5

    def forward(self, tokens: Tensor, queries: int | None = None) -> Tensor:
        """Tokens [batch, tokens, width] → the first ``queries`` of them [batch, queries, width], all by default.

        All of them answer with keys and values, so those that ask become what they would among all.
        """
        width = tokens.shape[2]
        heads = self.heads, width // self.heads  # no -1: a rank's share of a step may have no clips
        normed = self.norm1(tokens)
        weights, biases = (torch.tensor_split(part, (width,)) for part in (self.qkv.weight, self.qkv.bias))
        q = F.linear(normed[:, :queries], weights[0], biases[0])
        q = q.reshape(*q.shape[:2], *heads)
        k, v = F.linear(normed, weights[1], biases[1]).reshape(*normed.shape[:2], 2, *heads).permute(2, 0, 3, 1, 4)
        mixed = _attend(q.transpose(1, 2), k, v).transpose(1, 2).flatten(2)
        tokens = tokens[:, :queries] + self.projection(mixed)
        hidden: Tensor = self.contract(F.gelu(self.expand(self.norm2(tokens))))
        return tokens + hidden
