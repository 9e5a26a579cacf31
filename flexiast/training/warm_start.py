"""A run that begins with ears: which checkpoint to start from, and a head on its frozen embeddings. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint
from flexiast.data.targets import LabelTargets, Targets
from flexiast.errors import ModelError, UsageError
from flexiast.evaluation.evaluate import Windows, classify
from flexiast.frontend import Frontend
from flexiast.networks import Embedder, load_model
from flexiast.spec import LOG_FLOOR, PatchSize, Spec
from flexiast.training.batches import Backgrounds, Batches, LogMels
from flexiast.training.linear_head import compute_statistics, cross_validate, fit_head
from flexiast.training.recipe import Training
from flexiast.training.sampling import Plan
from flexiast.training.transfer import transfer_weights

COMPARED_CLIPS = 300
"""By which starts are compared: enough to tell them apart, and seconds of computing."""

COMPARED_TOKENS = 70
"""At the finest size of so many tokens at the most: embeddings of all sizes are much alike."""

HEAD_GMAC = 150.0
"""Of the embeddings that a head is fitted to: five seconds of one core, at 30 GMAC a second."""

MOST_VIEWS = 6
"""Of each clip, each cut, filtered and sized anew."""


def compare_starts(
    candidates: Mapping[str, tuple[Checkpoint, Spec]], waveforms: Sequence[Float], targets: LabelTargets
) -> dict[str, float]:
    """Cross-validated metric of a linear head on each candidate's frozen embeddings; misfits are left out.

    Each candidate comes with the spec that the run would have from it; ``targets`` are [clips, labels].
    """
    chosen = _choose_clips(targets)
    longest = max((spec.frontend.window_samples for _, spec in candidates.values()), default=1)
    clips, labels = [cut_loudest(waveforms[clip], longest) for clip in chosen], targets[chosen]
    found = {}
    for name, (candidate, spec) in candidates.items():
        try:
            start = _carry_over(candidate, spec)
        except (ModelError, UsageError):  # another network, another front end, or a base patch beyond the window
            continue
        windows = Windows(clips, Frontend(spec.frontend))
        embeddings = classify(Embedder(load_model(start)), windows, _choose_size(spec))
        found[name] = cross_validate(windows.clip_mean(embeddings), labels, spec.task)
    return found


def compare_statistics(spec: Spec, log_mels: LogMels, targets: LabelTargets) -> float:
    """Cross-validated metric of the average spectrum, on the clips that starts are compared by.

    Mean and spread of each mel bin, without the level: a louder clip has the same timbre.
    """
    chosen = _choose_clips(targets)
    statistics = compute_statistics(log_mels, chosen, spec.frontend.window_frames)
    means = statistics[:, : spec.frontend.mel_bins]  # a view
    filled = means > np.log(LOG_FLOOR) + 1  # some of the lowest filters are empty, whatever the level
    means -= means.sum(axis=1, keepdims=True, where=filled) / np.maximum(1, filled.sum(axis=1, keepdims=True))
    means[~filled] = 0
    return cross_validate(statistics, targets[chosen], spec.task)


def _choose_clips(targets: LabelTargets) -> list[int]:
    """Up to ``COMPARED_CLIPS`` of the clips, of every class about as many."""
    classes = targets.find_first()
    rank = np.empty(len(targets), np.int64)
    for number in np.unique(classes):
        mine = np.flatnonzero(classes == number)
        rank[mine] = np.random.default_rng(0).permutation(len(mine))
    return sorted(np.argsort(rank, kind="stable")[:COMPARED_CLIPS].tolist())


def cut_loudest(waveform: Float, samples: int) -> Float:
    """So many samples around the loudest of a longer clip [samples], which would take minutes to compare whole."""
    start = int(np.abs(waveform - waveform.mean()).argmax()) - samples // 2
    start = min(max(start, 0), max(len(waveform) - samples, 0))
    return waveform[start : start + samples]


def _carry_over(candidate: Checkpoint, spec: Spec) -> Checkpoint:
    """The candidate as a run's spec would have it; a head for other labels is zero."""
    spec.check_patch(spec.base_patch)
    shape = (spec.classes, spec.network.width)
    head = {"head.weight": np.zeros(shape, np.float32), "head.bias": np.zeros(spec.classes, np.float32)}
    return Checkpoint(spec, head | transfer_weights(candidate, spec))


def _choose_size(spec: Spec) -> PatchSize:
    fitting = [patch for patch in spec.trained_patches if spec.fits(patch)]
    small = [patch for patch in fitting if spec.tokens(patch) <= COMPARED_TOKENS]
    return max(small, key=spec.tokens) if small else min(fitting, key=spec.tokens)


def fit_start(
    start: Checkpoint,
    spec: Spec,
    training: Training,
    log_mels: LogMels,
    targets: Targets,
    *,
    probabilities: Double | None = None,
    backgrounds: Backgrounds | None = None,
) -> Checkpoint:
    """The start with a head for the run's labels, fitted to its frozen embeddings of augmented clips at all sizes.

    Examples are made as a run's are, so that the head knows background and every place in the window; but they are not
    masked, filtered or louder: frozen embeddings tell such clips apart less well than a network that learns.
    """
    carried = _carry_over(start, spec)
    plain = training.augment.model_copy(update={"masks": 0, "gain_db": 0.0, "filter_db": 0.0, "mix_from": 1.0})
    drawn = training.model_copy(update={"augment": plain, "batch_growth": 0.0, "base_first": 0.0})
    mean_gmac = float(np.mean([spec.gmac(patch) for patch in training.patches]))
    views = int(np.clip(HEAD_GMAC / (mean_gmac * len(log_mels)), 1, MOST_VIEWS))
    most = max(1, round(HEAD_GMAC / (mean_gmac * training.batch_size)))
    # Progress 0 keeps clips unmixed.
    steps = tuple(step._replace(progress=0.0) for step in Plan(spec, drawn, len(log_mels), views, started=True)[:most])
    batches = Batches(log_mels, targets, spec, drawn, steps, probabilities=probabilities, backgrounds=backgrounds)
    embedder = Embedder(load_model(carried))
    embeddings, answers = [], []
    for number, step in enumerate(steps):
        features, target = batches[number]
        embeddings.append(embedder.logits(features, step.patch))
        answers.append(target[:, : spec.classes])
    head = fit_head(np.concatenate(embeddings), np.concatenate(answers), spec.task, clips=len(log_mels))
    return Checkpoint(spec, carried.weights | {"head.weight": head.weight, "head.bias": head.bias})
