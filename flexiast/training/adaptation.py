"""A model learns from verdicts: its head gets rows for what was heard wrongly here. Needs torch.

The network was trained on far more sounds than a household judges in a month, and the false alarms of a place are a few
things that repeat: its door, its coffee machine. They have nothing in common but that they are no label, so one row for
nothing cannot hold them. Each gets a row of its own near its embeddings (as the sub-centres of ArcFace), and a sound of
a label that was taken for another gets one too. Rows that were there stay as they are, so what no new row is near is
answered as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flexiast.arrays import Double, Float
from flexiast.checkpoint import Checkpoint
from flexiast.errors import DataError
from flexiast.evaluation.evaluate import Classifier
from flexiast.frontend import Frontend
from flexiast.head import join_rows
from flexiast.networks import Embedder, load_model
from flexiast.spec import PatchSize, Spec
from flexiast.training.augment import SILENCE, gain
from flexiast.training.augment import place as cut_window
from flexiast.training.batches import Backgrounds, LogMels
from flexiast.training.judged_sounds import FEWEST_SOUNDS, JudgedSound, cut_windows
from flexiast.training.linear_head import ITERATIONS, LinearHead
from flexiast.training.recipe import Augment

DATA_GMAC = 1_000.0
"""Of the embeddings of data that hold the old labels: less than a minute of one core, at 25 GMAC a second"""
BACKGROUND_SHARE = 0.4
"""Of the data, where there is background"""
BREAKING_SHARE = 1 / 3
"""Of the background, that breaks off within the window, as clips and recordings do"""
GAIN_DB = 5.0
"""By which a sound is louder or softer at one size than at the next: tomorrow it is nearer, or farther away"""

SOUNDS_A_ROW, MOST_ROWS = 3, 8
"""A class gets a row for so many sounds that were heard wrongly, and no more rows than these at once"""
CLUSTER_ROUNDS = 20

RECALLED, RECALLED_SCORE = 12, 0.85
"""Embeddings that are made up of each class where no data are there, and the mean score that the old head gives them"""
ABSENT_BIAS = -30.0
"""Of the row for nothing in a model that had no such class: it answers as before until it gets more rows"""

AUGMENT = Augment(speed=0.0)
"""Of the log-mels of data: the clips as they are"""

BATCH = 16
"""Windows embedded at once"""
NO_SOUNDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Lesson:
    """What is learnt from: verdicts, and data that a model knows already and is to answer as before."""

    log_mels: LogMels
    """Of clips in which a label sounds"""
    targets: Float
    """[clips, classes]"""
    probabilities: Double
    """Of drawing each clip [clips]"""
    backgrounds: Backgrounds | None
    """In which none sounds"""
    verdicts: Sequence[JudgedSound] = field(default=())


@dataclass(frozen=True)
class Anchor:
    """How strongly the old model holds the new one."""

    verdict_share: float
    """Of the loss: the verdicts'. The data's, or what is recalled of them, is the rest."""
    penalty: float
    """On the squared length of a new row, each feature in units of its spread: how far it may reach"""
    right_weight: float
    """Of a sound of a label beside one of nothing"""
    recalls: bool
    """Whether the old model's own rows stand for all classes, not only for those that the data lack"""


WITH_DATA, WITHOUT_DATA = Anchor(0.2, 1e-2, 1.0, recalls=False), Anchor(0.5, 3e-2, 2.0, recalls=True)


SHARES = (1.0, 0.5, 0.25)
"""Of the verdicts' own share of the loss, tried in turn until the model answers as well as before"""


class Examples(NamedTuple):
    """Embeddings and what they are."""

    embeddings: Float
    """[examples, width]"""
    targets: Float
    """[examples, classes], 0 to 1"""
    sounds: NDArray[np.int64]
    """Which sound each was cut from [examples]"""


def adapt_head(
    start: Checkpoint,
    patches: Sequence[PatchSize],
    lesson: Lesson,
    anchor: Anchor,
    *,
    accepts: Callable[[Checkpoint], bool] = lambda _: True,
    seed: int = 0,
) -> Checkpoint:
    """The start with more rows in its head, learnt at these patch sizes.

    Verdicts that spoil what is known weigh less: until ``accepts`` the result, or ``SHARES`` ends. A model of one label
    a clip whose head has no class for nothing gets one. Raises DataError where nothing is to be learnt from.
    """
    start = add_nothing_class(start)
    embedder = Embedder(load_model(start))
    data = embed_data(embedder, start.spec, patches, lesson, seed)
    verdicts = embed_verdicts(embedder, start.spec, patches, lesson.verdicts, seed)
    if not len(verdicts.embeddings):
        raise DataError("there are no verdicts to learn from; judge some events with `flexiast review`")
    for share in SHARES:
        adapted = fit_rows(
            start, verdicts, data, replace(anchor, verdict_share=anchor.verdict_share * share), seed=seed
        )
        if accepts(adapted):
            break
    return adapted


def add_nothing_class(start: Checkpoint) -> Checkpoint:
    """The same model with a class for nothing that scores 0, if it can have one and has none."""
    spec = start.spec
    if spec.nothing_class or spec.task != "single":
        return start
    first = len(spec.labels)
    head = {
        "head.weight": np.insert(start.weights["head.weight"], first, 0.0, axis=0),
        "head.bias": np.insert(start.weights["head.bias"], first, np.float32(ABSENT_BIAS)),
    }
    return replace(start, spec=spec.model_copy(update={"nothing_class": True}), weights=start.weights | head)


def embed_verdicts(
    embedder: Classifier, spec: Spec, patches: Sequence[PatchSize], verdicts: Sequence[JudgedSound], seed: int = 0
) -> Examples:
    """All windows of the sounds at all sizes; raises ValueError for a label that the model lacks."""
    frontend, classes = Frontend(spec.frontend), spec.classes
    embeddings, targets, sounds = [np.empty((0, spec.network.width), np.float32)], [np.empty((0, classes))], [NO_SOUNDS]
    for number, judged in enumerate(verdicts):
        rng = np.random.default_rng((seed, number))
        windows = cut_windows(judged, frontend, rng)
        target = np.zeros(classes)
        if judged.label is not None:
            target[spec.labels.index(judged.label)] = 1
        elif spec.nothing_class:
            target[-1] = 1
        for patch in patches:
            # A bin's mean is taken over all frames: those that were missing sound as the room.
            log_mels = [frontend.normalise(gain(each, GAIN_DB, rng)) for each in windows]
            features = [frontend.finish(each, slice(0, len(each))) for each in log_mels]
            embeddings.append(_embed_in_batches(embedder, np.stack(features).astype(np.float32), patch))
            targets.append(np.tile(target, (len(windows), 1)))
            sounds.append(np.full(len(windows), number))
    return Examples(np.concatenate(embeddings), np.concatenate(targets).astype(np.float32), np.concatenate(sounds))


def embed_data(
    embedder: Classifier, spec: Spec, patches: Sequence[PatchSize], lesson: Lesson, seed: int = 0
) -> Examples:
    """Clips and backgrounds as they are, at all sizes; none where the lesson has no clips.

    Louder, noisier or mixed ones would stand for sounds that the old head does not know either, and new rows would
    spare those as well.
    """
    frontend, rng, classes = Frontend(spec.frontend), np.random.default_rng(seed), spec.classes
    frames, gmac = spec.frontend.window_frames, sum(map(spec.gmac, patches))
    most = min(int(np.count_nonzero(lesson.probabilities)), round((1 - BACKGROUND_SHARE) * DATA_GMAC / gmac))
    if not most:
        return Examples(np.empty((0, spec.network.width), np.float32), np.empty((0, classes), np.float32), NO_SOUNDS)
    chosen = rng.choice(len(lesson.log_mels), most, replace=False, p=lesson.probabilities / lesson.probabilities.sum())
    targets = np.zeros((most, classes), np.float32)
    targets[:, : lesson.targets.shape[1]] = lesson.targets[chosen]  # the model may just have got a class for nothing
    pairs = [cut_window(lesson.log_mels(int(clip), 0), frames, 0.0, rng) for clip in chosen]
    if lesson.backgrounds is not None:
        count = round(most * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE))
        pairs += [_draw_background(lesson.backgrounds, frames, rng) for _ in range(count)]
        nothing = np.zeros((count, classes), np.float32)
        nothing[:, len(spec.labels) :] = 1
        targets = np.concatenate((targets, nothing))
    features = np.stack([frontend.finish(frontend.normalise(log_mel), real) for log_mel, real in pairs])
    embeddings = [_embed_in_batches(embedder, features, patch) for patch in patches]
    return Examples(
        np.concatenate(embeddings), np.tile(targets, (len(patches), 1)), np.arange(len(targets) * len(patches))
    )


def _draw_background(backgrounds: Backgrounds, frames: int, rng: np.random.Generator) -> tuple[Float, slice]:
    """A window [frames, mels] and where it sounds."""
    log_mel = backgrounds(frames, rng).copy()
    end = int(rng.integers(1, frames)) if frames > 1 and rng.random() < BREAKING_SHARE else frames
    log_mel[end:] = SILENCE
    return log_mel, slice(0, end)


def _embed_in_batches(embedder: Classifier, features: Float, patch: PatchSize) -> Float:
    parts = [embedder.logits(features[first : first + BATCH], patch) for first in range(0, len(features), BATCH)]
    return np.concatenate(parts)


def fit_rows(start: Checkpoint, verdicts: Examples, data: Examples, anchor: Anchor, *, seed: int = 0) -> Checkpoint:
    """The start with rows for the verdicts that it gets wrong; those that its head has are kept to the bit.

    Of a model of several labels a clip, for which nothing is no class, they move as well: more rows make a label only
    likelier.
    """
    spec, rng = start.spec, np.random.default_rng(seed)
    centres, classes = _choose_rows(start, verdicts, rng)
    if not classes and spec.task == "single":
        return start
    recalled = recall_examples(start, verdicts.embeddings, rng)
    if not anchor.recalls:  # data may lack labels, which would be forgotten
        given = data.targets.max(axis=0, initial=0) > 0
        chosen = [number for number, target in enumerate(recalled.targets) if not given[target.argmax()]]
        recalled = Examples(recalled.embeddings[chosen], recalled.targets[chosen], recalled.sounds[chosen])
    data = Examples(
        np.concatenate((data.embeddings, recalled.embeddings)),
        np.concatenate((data.targets, recalled.targets)),
        np.concatenate((data.sounds, recalled.sounds)),
    )
    weights = _weigh(verdicts, data, spec, anchor)
    embeddings = np.concatenate((verdicts.embeddings, data.embeddings))
    targets = np.concatenate((verdicts.targets, data.targets))
    change, rows = _fit(start, centres, classes, (embeddings, targets, weights), anchor.penalty)
    weight, bias = start.weights["head.weight"], start.weights["head.bias"]
    if change is not None:
        owners = [*range(spec.classes), *spec.extra_rows]
        weight, bias = weight + change.weight[owners], bias + change.bias[owners]
    head = {"head.weight": np.concatenate((weight, rows.weight)), "head.bias": np.concatenate((bias, rows.bias))}
    spec = spec.model_copy(update={"extra_rows": (*spec.extra_rows, *classes)})
    return replace(start, spec=spec, weights=start.weights | head)


def classify_embeddings(checkpoint: Checkpoint, embeddings: Float) -> Float:
    """Embeddings [examples, width] → logits [examples, classes]."""
    rows = embeddings @ checkpoint.weights["head.weight"].T + checkpoint.weights["head.bias"]
    return join_rows(rows, checkpoint.spec)


def recall_examples(start: Checkpoint, embeddings: Float, rng: np.random.Generator) -> Examples:
    """Made-up embeddings of every class, for want of sounds.

    A class's row points to where its sounds lie, and a layer norm keeps all embeddings about as long as those given.
    The others' spread stands for what varies within a class.
    """
    spec, mean = start.spec, embeddings.mean(axis=0)
    spread = np.cov(embeddings, rowvar=False, bias=True)
    spread = 0.8 * spread + 0.2 * np.trace(spread) / len(spread) * np.eye(len(spread))
    variances, axes = np.linalg.eigh(spread)
    root = (axes * np.sqrt(variances)) @ axes.T
    length = np.linalg.norm(embeddings, axis=1).mean()
    rows = start.weights["head.weight"][: spec.classes].astype(np.float64)
    directions = (rows - rows.mean(axis=0)) @ root
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    found = []
    for number, direction in enumerate(directions):
        noise = mean + rng.normal(size=(RECALLED, len(mean))) @ root
        noise -= np.outer(noise @ direction, direction)
        near, far = 0.0, 8 * length
        for _ in range(30):
            along = (near + far) / 2
            points = noise + along * direction
            points *= length / np.linalg.norm(points, axis=1, keepdims=True)
            logits = classify_embeddings(start, points.astype(np.float32))
            near, far = (along, far) if _score(logits, spec)[:, number].mean() < RECALLED_SCORE else (near, along)
        found.append(points)
    targets = np.repeat(np.eye(spec.classes, dtype=np.float32), RECALLED, axis=0)
    return Examples(np.concatenate(found).astype(np.float32), targets, np.arange(len(targets)))


def _score(logits: Float, spec: Spec) -> Float:
    tensor = torch.from_numpy(logits)
    scores: Float = (tensor.softmax(dim=1) if spec.task == "single" else tensor.sigmoid()).numpy()
    return scores


def _choose_rows(start: Checkpoint, verdicts: Examples, rng: np.random.Generator) -> tuple[Float, tuple[int, ...]]:
    """Where new rows begin [rows, width], and the class of each: clusters of the windows that are answered wrongly."""
    logits, truths = classify_embeddings(start, verdicts.embeddings), verdicts.targets.argmax(axis=1)
    if start.spec.task == "single":
        wrong = logits.argmax(axis=1) != truths
    else:
        wrong = (logits[np.arange(len(logits)), truths] < 0) & verdicts.targets.any(axis=1)
    centres, classes = [np.empty((0, verdicts.embeddings.shape[1]), np.float32)], []
    for number in np.unique(truths[wrong]):
        mine = wrong & (truths == number)
        sounds = len(np.unique(verdicts.sounds[mine]))
        if number < len(start.spec.labels) and sounds < FEWEST_SOUNDS:
            continue
        found = _cluster(verdicts.embeddings[mine], min(MOST_ROWS, -(-sounds // SOUNDS_A_ROW)), rng)
        centres.append(found)
        classes += [int(number)] * len(found)
    return np.concatenate(centres), tuple(classes)


def _cluster(points: Float, count: int, rng: np.random.Generator) -> Float:
    """k-means: points [points, width] → at most ``count`` centres, begun as far apart as k-means++ would."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < count:
        distances = _measure_distances(points, centres).min(axis=1)
        if distances.max() <= 1e-6:
            break
        centres = np.concatenate((centres, points[[rng.choice(len(points), p=distances / distances.sum())]]))
    for _ in range(CLUSTER_ROUNDS):
        nearest = _measure_distances(points, centres).argmin(axis=1)
        centres = np.stack([points[nearest == number].mean(axis=0) for number in np.unique(nearest)])
    return centres


def _measure_distances(points: Float, centres: Float) -> Double:
    """Squared [points, centres]."""
    one, other = points.astype(np.float64), centres.astype(np.float64)
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * one @ other.T
    return np.maximum(squares, 0)


def _weigh(verdicts: Examples, data: Examples, spec: Spec, anchor: Anchor) -> Float:
    """Of each example: a sound weighs the same whatever its length. All together are 1."""
    own = 1 / np.bincount(verdicts.sounds)[verdicts.sounds]
    right = verdicts.targets[:, : len(spec.labels)].any(axis=1)
    own *= np.where(right, anchor.right_weight, 1.0)
    share = anchor.verdict_share if len(data.embeddings) else 1.0
    known = np.full(len(data.embeddings), (1 - share) / max(1, len(data.embeddings)))
    return np.concatenate((share * own / own.sum(), known)).astype(np.float32)


def _fit(
    start: Checkpoint, centres: Float, classes: Sequence[int], examples: tuple[Float, Float, Float], penalty: float
) -> tuple[LinearHead | None, LinearHead]:
    """What is added to each class's rows, None for nothing at all, and the new rows of ``classes``.

    Both are those of the least loss on embeddings, targets and weights: the cross-entropy and ``penalty`` times their
    squared length. New rows begin as detectors of their centres.
    """
    spec, (embeddings, targets, weights) = start.spec, examples
    mean, spread = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
    x, y, share = (torch.from_numpy(each) for each in ((embeddings - mean) / spread, targets, weights))
    old = torch.from_numpy(classify_embeddings(start, embeddings))
    begin = torch.from_numpy((centres - mean) / spread)
    rows, bias = begin / begin.shape[1], -begin.square().mean(dim=1) / 2
    change, moved = torch.zeros(spec.classes, x.shape[1]), torch.zeros(spec.classes)
    free = [rows, bias] if spec.task == "single" else [rows, bias, change, moved]
    for tensor in free:
        tensor.requires_grad_()
    columns = [torch.tensor([row for row, each in enumerate(classes) if each == one]) for one in range(spec.classes)]
    optimizer = torch.optim.LBFGS(free, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def join(own: Tensor, new: Tensor) -> Tensor:
        parts = [
            torch.logsumexp(torch.cat((own[:, [number]], new[:, mine]), dim=1), dim=1) if len(mine) else own[:, number]
            for number, mine in enumerate(columns)
        ]
        return torch.stack(parts, dim=1)

    def evaluate_loss() -> float:
        optimizer.zero_grad()
        logits = join(old + x @ change.T + moved, x @ rows.T + bias)
        if spec.task == "single":
            losses = F.cross_entropy(logits, y, reduction="none")
        else:
            losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(dim=1)
        loss = share @ losses + penalty * (rows.square().sum() + change.square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(evaluate_loss)  # type: ignore[no-untyped-call]
    added = _unscale(rows, bias, mean, spread)
    return (None if spec.task == "single" else _unscale(change, moved, mean, spread)), added


def _unscale(rows: Tensor, bias: Tensor, mean: Float, spread: Float) -> LinearHead:
    """Rows of standardised features as rows of the features themselves."""
    weight = rows.detach().numpy() / spread
    return LinearHead(weight.astype(np.float32), (bias.detach().numpy() - weight @ mean).astype(np.float32))
