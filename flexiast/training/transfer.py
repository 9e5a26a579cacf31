"""Weights of one model as the start of another: other classes, another window, another base size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.errors import ModelError
from flexiast.patching import axes, pi_resize_matrix, resize_matrix, sampling_matrix
from flexiast.spec import NetworkSpec, ResizeSpec, Spec, Value

SAME_FRONTEND = ("sample_rate_hz", "mel_bins", "taper_samples", "hop_samples", "low_hz", "high_hz", "preemphasis")


def transfer_weights(source: Checkpoint, spec: Spec) -> dict[str, Float]:
    """The weights of ``source`` that ``spec`` can use, in its shapes; what is left out starts anew.

    Blocks are taken as they are. The kernel is PI-resized to the new base size and the positions are sampled at its
    patches' centres, as ``source`` itself would at that size, so that both answer alike there. Positions are stretched
    along time for a longer window. The head is kept when the labels are the same; a class for nothing that the source
    lacks starts anew. Raises ModelError for a network or a front end that cannot be carried over.
    """
    check_transfer(source.spec, spec)
    weights = dict(source.weights)
    if spec.network.kind == "transformer":
        weights["embedding.kernel"] = _kernel(weights["embedding.kernel"], source.spec, spec)
        weights["embedding.positions"] = _positions(weights["embedding.positions"], source.spec, spec)
    if source.spec.labels == spec.labels and "head.weight" in weights:
        weights |= _head(weights, source.spec, spec)
    if source.spec.labels != spec.labels:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    return weights


def changes(source: Spec, spec: Spec) -> list[str]:
    """Descriptions of what ``transfer_weights`` changes or starts anew."""
    notes = []
    if spec.network.kind == "transformer":
        if source.base_patch != spec.base_patch:
            notes.append(f"kernel PI-resized from {source.base_patch} to {spec.base_patch}")
        if source.stride(source.base_patch) != spec.stride(spec.base_patch):
            notes.append("positions interpolated at the centres of the new patches")
        if _is_longer(source, spec):
            notes.append("positions stretched along time for a longer window")
    if source.pcen != spec.pcen:
        notes.append("its weights meet other input: " + ("PCEN" if spec.pcen else "log-mels without PCEN"))
    if source.labels != spec.labels:
        notes.append("head started anew for other labels")
    elif source.nothing_class != spec.nothing_class:
        notes.append("a class for nothing added" if spec.nothing_class else "its class for nothing dropped")
    if source.labels == spec.labels and source.extra_rows:
        notes.append(f"what it had learnt from verdicts dropped ({len(source.extra_rows)} rows of its head)")
    return notes


def check_transfer(source: Spec, spec: Spec) -> None:
    """Raise ModelError where one network or front end cannot continue the other."""
    for name, theirs, ours in _find_differences(source.network, spec.network, tuple(NetworkSpec.model_fields)):
        raise ModelError(
            f"the start is a network of {name} {theirs}, the run's has {ours}; "
            "leave --model, or the recipe's size, out to continue the start's"
        )
    for name, theirs, ours in _find_differences(source.frontend, spec.frontend, SAME_FRONTEND):
        raise ModelError(
            f"the start was trained with {name} {theirs}, the run has {ours}; its weights do not fit such features"
        )


def _find_differences(one: Value, other: Value, names: tuple[str, ...]) -> Iterator[tuple[str, object, object]]:
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in names)
    return (pair for pair in pairs if pair[1] != pair[2])


def _head(weights: dict[str, Float], source: Spec, spec: Spec) -> dict[str, Float]:
    """The head [classes, width] and its bias, one row a class, with a class for nothing where the run has one."""
    shared = source.classes if source.nothing_class == spec.nothing_class else len(source.labels)
    head = {name: weights[name][:shared] for name in ("head.weight", "head.bias")}
    if spec.nothing_class and not source.nothing_class:
        return {name: np.concatenate((value, np.zeros_like(value[:1]))) for name, value in head.items()}
    return head


def _kernel(kernel: Float, source: Spec, spec: Spec) -> Float:
    """[width, mels, frames] at one base size → at another."""
    mels, frames = (
        pi_resize_matrix(old, new, spec.resize) for old, new in zip(source.base_patch, spec.base_patch, strict=True)
    )
    return (mels @ kernel @ frames.T).astype(np.float32)


def _positions(positions: Float, source: Spec, spec: Spec) -> Float:
    """[rows, columns, width] of one base grid → of another."""
    (rows, columns), (new_rows, new_columns) = (axes(each, each.base_patch) for each in (source, spec))
    stride = source.stride(spec.base_patch)  # the source's own at that size, also where the run's patches overlap less
    mels = sampling_matrix(rows, new_rows.centres, stride.mels)
    if _is_longer(source, spec):  # stretched, as AST does, not repeated
        frames = resize_matrix(columns.patches, new_columns.patches, ResizeSpec())
    else:
        frames = sampling_matrix(columns, new_columns.centres, stride.frames)
    return np.einsum("rb,cd,bdw->rcw", mels, frames, positions).astype(np.float32)


def _is_longer(source: Spec, spec: Spec) -> bool:
    return spec.frontend.window_frames > source.frontend.window_frames
