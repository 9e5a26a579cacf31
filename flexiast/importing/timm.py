"""Weights with timm's names: AST and FlexiAST as their authors publish them, ViT and DeiT."""

from __future__ import annotations

import math
import re

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint
from flexiast.errors import ModelError, UsageError
from flexiast.importing.shape import (
    ImportOptions,
    ast_frontend,
    base_stride_of,
    build_spec,
    checkpoint_of,
    fold_weights,
    valid,
)
from flexiast.importing.weights import Names, WeightFile, layers, pairs
from flexiast.patching import resize_matrix
from flexiast.spec import ALL_PATCHES, FrontendSpec, NetworkSpec, PatchSize, ResizeSpec

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
"""AST's own, of AudioSet's log-mels."""
AUDIOSET_FRAMES = 1024
MEL_BINS = 128
TIMM_EPSILON, TORCH_EPSILON = 1e-6, 1e-5
"""Of the layer norms inside timm's transformers, and of AST's head, which is plain PyTorch."""
TIMM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
"""Width → heads of ViT-Ti, S, B and L: nothing in their weights tells."""

TIMM_BLOCK: Names = {
    "norm1": ("norm1",),
    "qkv": ("attn.qkv",),
    "projection": ("attn.proj",),
    "norm2": ("norm2",),
    "expand": ("mlp.fc1",),
    "contract": ("mlp.fc2",),
}


def import_ast(file: WeightFile, given: ImportOptions, *, flexible: bool) -> Checkpoint:
    """AST, or FlexiAST, whose file says nothing of its sizes: those of its paper are noted as trained."""
    if given.labels is None or given.task is None:
        raise UsageError(
            f"{file.path} names neither its labels nor its task; tell them with --labels FILE (one a line, or "
            "AudioSet's class_labels_indices.csv) and --task single or --task multi"
        )
    top = "" if flexible else "v."
    positions = "pos_embed.pos_embed" if flexible else "v.pos_embed"
    names, network = _timm(file, "v.", head_norm=True)
    names |= pairs({"embedding": (f"{top}patch_embed.proj",), "head_norm": ("mlp_head.0",), "head": ("mlp_head.1",)})
    names["positions"] = (positions,)
    # What timm's own head would answer, and in FlexiAST what its embedding was copied from, is never asked.
    ignored = ("v.head.", "v.head_dist.", *(("v.patch_embed.", "v.pos_embed") if flexible else ()))
    raw = file.rename_weights(names, ignored)
    if len(raw["head.weight"]) != len(given.labels):
        raise UsageError(f"{len(given.labels)} labels were given, {file.path} has {len(raw['head.weight'])} classes")
    patch, count = _kernel_size(file, raw), _position_count(file, raw, network)
    if flexible:
        given.refuse(file.path, "FlexiAST's patches do not overlap", "stride")
    frames = given.frames
    if flexible and frames is None:
        frames = count // (MEL_BINS // patch.mels) * patch.frames
    frontend = ast_frontend(file.path, frames or AUDIOSET_FRAMES, MEL_BINS, *_normalisation(given))
    stride = patch if flexible else given.stride or _stride(file, frontend, patch, count)
    spec = build_spec(
        file.path,
        given,
        frontend=frontend,
        base_patch=patch,
        base_stride=base_stride_of(frontend, patch, stride),
        trained_patches=_list_fitting_patches(frontend) if flexible else (patch,),
        resize=ResizeSpec(antialias=not flexible),  # FlexiAST resizes kernels without, and learnt with them
        network=network,
        task=given.task,
        labels=given.labels,
    )
    weights = fold_weights(file.path, raw, spec, given)
    # The head's norm has an epsilon of its own. Scaling what it normalises by s does to (x − x̄) / √(σ² + ε) what
    # ε / s² in place of ε would do, and the norm before it can carry the scale.
    scale = np.float32(math.sqrt(TIMM_EPSILON / TORCH_EPSILON))
    weights |= {name: weights[name] * scale for name in ("norm.weight", "norm.bias")}
    return checkpoint_of(file, spec, weights, "flexiast" if flexible else "ast")


def import_vit(file: WeightFile, given: ImportOptions) -> Checkpoint:
    """Without its head, whose classes are pictures; positions cut or stretched to the audio's grid, as AST does."""
    given.refuse(file.path, "its classes are no sounds, so it is a start for training without any", "labels", "task")
    names, network = _timm(file, "", head_norm=False)
    names |= pairs({"embedding": ("patch_embed.proj",)})
    names["positions"] = ("pos_embed",)
    raw = file.rename_weights(names, ("head.", "head_dist.", "pre_logits."))
    patch, count = _kernel_size(file, raw), _position_count(file, raw, network)
    side = math.isqrt(count)
    if side**2 != count:
        raise ModelError(f"{file.path} has {count} positions, which are not those of a square picture")
    spec = build_spec(
        file.path,
        given,
        frontend=ast_frontend(file.path, given.frames or AUDIOSET_FRAMES, MEL_BINS, *_normalisation(given)),
        base_patch=patch,
        base_stride=given.stride,
        trained_patches=(patch,),
        network=network,
        task="single",  # a start has no labels, so the task means nothing yet
        labels=(),
    )
    prefix, grid = np.split(raw["positions"][0], [network.prefix_tokens])
    mels, frames = (_fit_axis(side, target) for target in spec.base_grid)
    resized = np.einsum("rb,cd,bdw->rcw", mels, frames, grid.reshape(side, side, -1)).reshape(-1, network.width)
    raw["positions"] = np.concatenate((prefix, resized))[None].astype(np.float32)
    return checkpoint_of(file, spec, fold_weights(file.path, raw, spec, given), "vit")


def _timm(file: WeightFile, top: str, *, head_norm: bool) -> tuple[Names, NetworkSpec]:
    """Names of blocks, last norm and prefix tokens under ``top``, and the network that they make."""
    blocks = {match[1] for name in file.weights if (match := re.match(rf"{top}blocks\.(\d+)\.", name))}
    distilled = f"{top}dist_token" in file.weights
    width = file.weights.get(f"{top}norm.bias", np.empty(0)).size
    if width not in TIMM_HEADS:
        raise ModelError(
            f"{file.path} has a last norm of {width} values, and the number of heads cannot be told from that; "
            f"widths {', '.join(map(str, TIMM_HEADS))} can be imported"
        )
    names = layers(f"{top}blocks", TIMM_BLOCK, len(blocks)) | pairs({"norm": (f"{top}norm",)})
    names["cls"] = (f"{top}cls_token",)
    if distilled:
        names["distillation"] = (f"{top}dist_token",)
    network = valid(
        file.path,
        NetworkSpec,
        width=width,
        depth=len(blocks),
        heads=TIMM_HEADS[width],
        prefix_tokens=1 + distilled,
        norm_epsilon=TIMM_EPSILON,
        head_norm=head_norm,
    )
    return names, network


def _kernel_size(file: WeightFile, raw: dict[str, Float]) -> PatchSize:
    shape = raw["embedding.weight"].shape
    if len(shape) != 4 or not 1 <= min(shape[2:]) <= max(shape[2:]) <= MEL_BINS:
        raise ModelError(f"{file.path} has a patch kernel of shape {shape}, expected [width, channels, mels, frames]")
    return PatchSize(*shape[2:])


def _position_count(file: WeightFile, raw: dict[str, Float], network: NetworkSpec) -> int:
    """Positions of patches."""
    shape = raw["positions"].shape
    if len(shape) != 3 or shape[0] != 1 or shape[1] <= network.prefix_tokens or shape[2] != network.width:
        raise ModelError(f"{file.path} has positions of shape {shape}, expected [1, tokens, {network.width}]")
    return int(shape[1]) - network.prefix_tokens


def _stride(file: WeightFile, frontend: FrontendSpec, patch: PatchSize, count: int) -> PatchSize:
    """The one stride, equal on both axes, at which whole patches of a window are as many as the positions."""
    frames, mels = frontend.window_frames, frontend.mel_bins
    fitting = [
        stride
        for stride in range(1, min(patch) + 1)
        if (1 + (mels - patch.mels) // stride) * (1 + (frames - patch.frames) // stride) == count
    ]
    if len(fitting) != 1:
        raise UsageError(
            f"{file.path} has {count} positions, and {len(fitting) or 'no'} strides make as many patches of "
            f"{mels} mel bins x {frames} frames; tell the frames of a window with --frames, the stride with --stride"
        )
    return PatchSize(fitting[0], fitting[0])


def _normalisation(given: ImportOptions) -> tuple[float, float]:
    """Mean and standard deviation as given, both or none; AudioSet's, as AST's own, if none."""
    if (given.mean is None) != (given.std is None):
        raise UsageError("--mean and --std belong together; give both or none")
    return (AUDIOSET_MEAN, AUDIOSET_STD) if given.mean is None or given.std is None else (given.mean, given.std)


def _list_fitting_patches(frontend: FrontendSpec) -> tuple[PatchSize, ...]:
    return tuple(size for size in ALL_PATCHES if size.frames <= frontend.window_frames)


def _fit_axis(source: int, target: int) -> Double:
    """[target, source]: the middle of a longer axis, linear interpolation of a shorter one, without antialias."""
    start = source // 2 - target // 2
    if target <= source:
        return np.eye(source)[start : start + target]
    return resize_matrix(source, target, ResizeSpec(antialias=False))
