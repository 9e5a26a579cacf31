"""What every foreign AST needs to become a checkpoint: the spec around its weights, the positions in their grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, check_weights
from flexiast.errors import FlexiastError, ModelError, UsageError
from flexiast.importing.weights import WeightFile
from flexiast.spec import MAX_WINDOW_SAMPLES, FrontendSpec, PatchSize, Spec, describe

M = TypeVar("M", bound=BaseModel)

TAPER_SAMPLES, HOP_SAMPLES = 400, 160
"""AST's, and a front end's defaults."""
MAX_FRAMES = 1 + (MAX_WINDOW_SAMPLES - TAPER_SAMPLES) // HOP_SAMPLES


@dataclass(frozen=True)
class ImportOptions:
    """What a file of weights leaves open and the user says; None where nothing was said."""

    labels: tuple[str, ...] | None = None
    task: Literal["single", "multi"] | None = None
    mean: float | None = None
    std: float | None = None
    frames: int | None = None
    stride: PatchSize | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for values that no model can have."""
        for name, wanted, usable in (
            ("mean", "a number", self.mean is None or math.isfinite(self.mean)),
            ("std", "a number above 0", self.std is None or 0 < self.std < math.inf),
            ("frames", f"1 to {MAX_FRAMES:,}", self.frames is None or 1 <= self.frames <= MAX_FRAMES),
        ):
            if not usable:
                raise UsageError(f"--{name} {getattr(self, name)} cannot be used; give {wanted}")

    @property
    def fault(self) -> type[FlexiastError]:
        """Of shapes that do not fit: what was told of them cannot be, else the source is damaged."""
        return ModelError if self.frames is None and self.stride is None else UsageError

    def refuse(self, source: Path, reason: str, *names: str) -> None:
        """Raise UsageError when one of these was said although the source leaves it no room."""
        for name in names:
            if getattr(self, name) is not None:
                raise UsageError(f"--{name} cannot be used with {source}: {reason}; leave it out")


def checkpoint_of(file: WeightFile, spec: Spec, weights: dict[str, Float], kind: str) -> Checkpoint:
    """The checkpoint with a note of its origin; raises ModelError when its weights are not what the spec says."""
    check_weights(file.path, weights, spec)
    name = "/".join(file.path.resolve().parts[-2:]) if kind == "transformers" else file.path.name
    return Checkpoint(spec, weights, {"imported": {"format": kind, "file": name, "sha256": file.sha256}})


def fold_weights(path: Path, raw: dict[str, Float], spec: Spec, given: ImportOptions) -> dict[str, Float]:
    """Weights as a checkpoint holds them: kernel of one channel, positions a grid, prefix tokens with theirs."""
    weights = {name: value for name, value in raw.items() if name not in {"positions", "embedding.weight"}}
    kernel, positions, width = raw["embedding.weight"], raw["positions"], spec.network.width
    expected = (1, spec.tokens(spec.base_patch), width)
    if positions.shape != expected:
        raise given.fault(f"{path} has positions of shape {positions.shape}, its patches and strides make {expected}")
    if kernel.ndim != 4 or any(weights[name].size != width for name in ("cls", "distillation") if name in weights):
        raise ModelError(f"{path} has a patch kernel or tokens of another shape than a transformer {width} wide")
    prefix, grid = np.split(positions[0], [spec.network.prefix_tokens])
    weights |= {
        name: weights[name].reshape(-1) + position
        for name, position in zip(("cls", "distillation"), prefix, strict=False)
    }
    weights["embedding.kernel"] = kernel.sum(axis=1)  # one channel, or the three of pictures: all hear the same
    weights["embedding.positions"] = grid.reshape(*spec.base_grid, width)
    return weights


def ast_frontend(source: Path, frames: int, mel_bins: int, mean: float, std: float) -> FrontendSpec:
    """AST's front end with a window of so many frames."""
    window = TAPER_SAMPLES + (frames - 1) * HOP_SAMPLES
    return valid(source, FrontendSpec, window_samples=window, mel_bins=mel_bins, mean=mean, std=std)


def base_stride_of(frontend: FrontendSpec, patch: PatchSize, stride: PatchSize) -> PatchSize | None:
    """None where patches tile the window: then other sizes lose nothing of it."""
    tiled = frontend.mel_bins % patch.mels == 0 and frontend.window_frames % patch.frames == 0
    return None if tiled and stride == patch else stride


def build_spec(source: Path, given: ImportOptions, **fields: Any) -> Spec:
    """The spec; raises ``given.fault`` for one that cannot be."""
    try:
        spec = Spec(**fields)
        spec.check_patch(spec.base_patch)
    except ValidationError as error:
        raise given.fault(f"{source} cannot be imported: {describe(error)}") from error
    except UsageError as error:
        raise given.fault(f"{source} cannot be imported: {error}") from error
    return spec


def valid(source: Path, kind: type[M], **fields: Any) -> M:
    """A value made of what a file says, so that a bad one is the file's fault; raises ModelError."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise ModelError(f"{source} cannot be imported: {describe(error)}") from error
