"""Alternatives to the patch embedding, to measure what it is worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexiast.model import FlexiAST, PatchEmbedding, patchify
from flexiast.patching import PatchMatrices, patch_matrices, resize_matrix
from flexiast.spec import PatchSize, ResizeSpec, Spec


class Bilinear(PatchEmbedding):
    """The kernel resized as an image is, with the same antialias: the paper's rival of PI-resize."""

    def matrices(self, patch: PatchSize) -> PatchMatrices:
        base, resize = self.spec.base_patch, self.spec.resize
        return patch_matrices(self.spec, patch)._replace(
            kernel_mels=resize_matrix(base.mels, patch.mels, resize),
            kernel_frames=resize_matrix(base.frames, patch.frames, resize),
        )


class Stretched(PatchEmbedding):
    """Positions stretched over the grid, wherever the patches' centres are."""

    def matrices(self, patch: PatchSize) -> PatchMatrices:
        rows, columns = self.spec.grid(patch)
        return _stretched(self.spec, patch, rows, columns)


class Cropped(PatchEmbedding):
    """As the public code: what a patch does not divide is cut off, and positions are stretched as if nothing were."""

    def forward(self, features: Tensor, patch: PatchSize) -> Tensor:
        columns, rows = features.shape[1] // patch.frames, features.shape[2] // patch.mels
        kernel, positions = self.resize(patch)
        cropped = features[:, : columns * patch.frames, : rows * patch.mels]
        return patchify(cropped, patch, self.padding) @ kernel.flatten(1).T + (self.bias + positions)

    def matrices(self, patch: PatchSize) -> PatchMatrices:
        frontend = self.spec.frontend
        rows, columns = frontend.mel_bins // patch.mels, frontend.window_frames // patch.frames
        return _stretched(self.spec, patch, rows, columns)


def _stretched(spec: Spec, patch: PatchSize, rows: int, columns: int) -> PatchMatrices:
    base_rows, base_columns = spec.base_grid
    return patch_matrices(spec, patch)._replace(
        position_mels=resize_matrix(base_rows, rows, ResizeSpec()),
        position_frames=resize_matrix(base_columns, columns, ResizeSpec()),
    )


def with_embedding(embedding: type[PatchEmbedding]) -> Callable[[Spec], FlexiAST]:
    """A builder of models that differ in their embedding only, initialised alike."""

    def build(spec: Spec) -> FlexiAST:
        model = FlexiAST(spec)
        state = torch.get_rng_state()
        rival = embedding(spec)
        torch.set_rng_state(state)  # the training that follows draws as it would without this second embedding
        rival.load_state_dict(model.embedding.state_dict())
        model.embedding = rival
        return model

    return build


VARIANTS: dict[str, Callable[[Spec], FlexiAST]] = {
    "bilinear": with_embedding(Bilinear),
    "stretched": with_embedding(Stretched),
    "cropped": with_embedding(Cropped),
}
