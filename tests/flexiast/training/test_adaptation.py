"""A head that learns from verdicts: what changes, what must not, and what it does with little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flexiast.checkpoint import Checkpoint, check_weights, weight_shapes
from flexiast.errors import DataError
from flexiast.frontend import Frontend
from flexiast.networks import Embedder, TorchClassifier, load_model
from flexiast.spec import NetworkSpec, PatchSize, Spec
from flexiast.training.adaptation import (
    AUGMENT,
    MOST_ROWS,
    RECALLED_SCORE,
    SHARES,
    WITH_DATA,
    WITHOUT_DATA,
    Anchor,
    Examples,
    Lesson,
    adapt_head,
    add_nothing_class,
    classify_embeddings,
    embed_verdicts,
    fit_rows,
    recall_examples,
)
from flexiast.training.batches import LogMels
from flexiast.training.judged_sounds import JudgedSound

Float = NDArray[np.float32]
BuildSpec = Callable[..., Spec]

WIDTH, LENGTH = 16, 4.0
PATCHES = (PatchSize(16, 16), PatchSize(32, 32))
ANCHORS = [pytest.param(WITH_DATA, id="with data"), pytest.param(WITHOUT_DATA, id="without")]


def random_checkpoint(spec: Spec, seed: int = 1) -> Checkpoint:
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in weight_shapes(spec).items()
    }
    for name in weights:
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1  # else every norm would take most of the signal
    return Checkpoint(spec, weights)


def place(rng: np.random.Generator, centre: Float, count: int) -> Float:
    """Embeddings near a centre, all of one length, as a layer norm leaves them."""
    points = centre + rng.normal(scale=0.25, size=(count, WIDTH))
    return (LENGTH * points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Four labels in a space of embeddings, a head that knows them, and nuisances that it takes for labels."""

    def __init__(self, build_spec: BuildSpec, task: str = "single", *, nothing: bool = True) -> None:
        self.rng = np.random.default_rng(0)
        labels = ("a", "b", "c", "d")
        self.spec = build_spec(labels=labels, task=task, nothing_class=nothing)
        axes = LENGTH * np.linalg.qr(self.rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
        self.sounds = axes[:4]
        self.silence = axes[4]
        self.nuisances = [0.75 * axes[number] + 0.65 * axes[5 + number] for number in range(3)]
        rows = axes[: self.spec.classes] / LENGTH * 2.5
        bias = np.zeros(self.spec.classes, np.float32) if task == "single" else np.full(4, -5, np.float32)
        self.start = Checkpoint(
            self.spec, random_checkpoint(self.spec).weights | {"head.weight": rows, "head.bias": bias}
        )

    def examples(self, centres: list[tuple[Float, int | None]], sounds: int = 6, windows: int = 5) -> Examples:
        """Some sounds of each centre with the class that it is; of several windows each."""
        points = [place(self.rng, centre, sounds * windows) for centre, _ in centres]
        targets = np.zeros((len(centres), sounds * windows, self.spec.classes), np.float32)
        for number, (_, truth) in enumerate(centres):
            if truth is not None:
                targets[number, :, truth] = 1
        order = np.arange(len(centres) * sounds).repeat(windows)
        return Examples(np.concatenate(points), targets.reshape(-1, self.spec.classes), order)

    def labelled(self) -> Examples:
        return self.examples([(centre, number) for number, centre in enumerate(self.sounds)], sounds=20)


def accuracy(checkpoint: Checkpoint, examples: Examples) -> float:
    answers = classify_embeddings(checkpoint, examples.embeddings).argmax(axis=1)
    return float(np.mean(answers == examples.targets.argmax(axis=1)))


# ----- what it learns


@pytest.mark.parametrize("anchor", ANCHORS)
def test_false_alarms_of_several_kinds_go_and_no_label_with_them(build_spec: BuildSpec, anchor: Anchor) -> None:
    world = World(build_spec)
    wrong = [(centre, 4) for centre in world.nuisances]
    verdicts, tomorrow, known = world.examples(wrong), world.examples(wrong), world.labelled()
    assert accuracy(world.start, tomorrow) < 0.1
    data = known if anchor is WITH_DATA else Examples(*(part[:0] for part in known))
    learnt = fit_rows(world.start, verdicts, data, anchor)
    assert accuracy(learnt, tomorrow) > (0.95 if anchor is WITH_DATA else 0.85)  # what is recalled is a guess
    assert accuracy(learnt, world.labelled()) >= accuracy(world.start, world.labelled()) - 0.02
    assert 3 <= len(learnt.spec.extra_rows) <= MOST_ROWS
    assert set(learnt.spec.extra_rows) == {4}


def test_labels_that_the_data_lack_are_not_forgotten(build_spec: BuildSpec) -> None:
    world = World(build_spec)
    wrong = [(0.7 * world.sounds[2] + 0.7 * world.nuisances[0], 4)]  # near a label of which no data tell
    verdicts, data = world.examples(wrong, sounds=20), world.examples([(world.sounds[0], 0)], sounds=40)
    learnt = fit_rows(world.start, verdicts, data, WITH_DATA)
    assert accuracy(learnt, world.examples(wrong)) > 0.9
    assert accuracy(learnt, world.labelled()) >= accuracy(world.start, world.labelled()) - 0.02


def test_a_sound_that_was_taken_for_another_label_gets_its_own(build_spec: BuildSpec) -> None:
    world = World(build_spec)
    verdicts, tomorrow = (world.examples([(world.nuisances[0], 2)]) for _ in range(2))
    learnt = fit_rows(world.start, verdicts, world.labelled(), WITH_DATA)
    assert accuracy(world.start, tomorrow) < 0.1
    assert accuracy(learnt, tomorrow) > 0.9
    assert set(learnt.spec.extra_rows) == {2}


def test_of_several_labels_a_clip_false_alarms_go_without_a_class_for_nothing(build_spec: BuildSpec) -> None:
    world = World(build_spec, task="multi", nothing=False)
    verdicts, tomorrow = (world.examples([(world.nuisances[0], None)]) for _ in range(2))
    learnt = fit_rows(world.start, verdicts, world.labelled(), WITH_DATA)
    before, after = (classify_embeddings(each, tomorrow.embeddings)[:, 0] for each in (world.start, learnt))
    assert (before > 0).mean() > 0.9
    assert (after > 0).mean() < 0.1
    assert accuracy(learnt, world.labelled()) > 0.95
    assert learnt.spec == world.start.spec


# ----- what must not change


@pytest.mark.parametrize("anchor", ANCHORS)
def test_rows_that_are_there_stay_to_the_bit(build_spec: BuildSpec, anchor: Anchor) -> None:
    """Also those of an evening before."""
    world, learnt = World(build_spec), None
    for nuisance in world.nuisances[:2]:
        before = learnt or world.start
        learnt = fit_rows(before, world.examples([(nuisance, 4)]), world.labelled(), anchor)
        for name, value in before.weights.items():
            assert np.array_equal(learnt.weights[name][: len(value)], value)
        check_weights(__file__, learnt.weights, learnt.spec)  # type: ignore[arg-type]  # named in messages only
        assert learnt.spec.head_rows > before.spec.head_rows
    tomorrow = world.examples([(nuisance, 4) for nuisance in world.nuisances[:2]])
    assert accuracy(learnt, tomorrow) > 0.85  # the first is not forgotten


def test_what_was_answered_rightly_adds_nothing(build_spec: BuildSpec) -> None:
    world = World(build_spec)
    assert fit_rows(world.start, world.labelled(), world.labelled(), WITH_DATA) == world.start


def test_the_same_seed_learns_the_same(build_spec: BuildSpec) -> None:
    world = World(build_spec)
    verdicts, data = world.examples([(centre, 4) for centre in world.nuisances]), world.labelled()
    one, other = (fit_rows(world.start, verdicts, data, WITH_DATA, seed=3) for _ in range(2))
    assert all(np.array_equal(one.weights[name], value) for name, value in other.weights.items())


def test_a_model_gets_a_class_for_nothing_that_changes_no_answer(build_spec: BuildSpec) -> None:
    world = World(build_spec, nothing=False)
    more = add_nothing_class(world.start)
    points = world.labelled().embeddings
    logits = classify_embeddings(more, points)
    np.testing.assert_array_equal(logits[:, :4], classify_embeddings(world.start, points))
    assert (logits[:, 4] < logits[:, :4].max(axis=1) - 25).all()  # a score of e⁻²⁵
    assert add_nothing_class(more) is more
    multi = World(build_spec, task="multi", nothing=False).start
    assert add_nothing_class(multi) is multi


# ----- what stands for data that are not there


def test_recalled_sounds_are_what_the_old_head_says_they_are(build_spec: BuildSpec) -> None:
    world = World(build_spec)
    given = world.labelled().embeddings
    recalled = recall_examples(world.start, given, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(recalled.embeddings, axis=1), LENGTH, rtol=1e-5)  # as long as those given
    logits = classify_embeddings(world.start, recalled.embeddings).astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = (scores * recalled.targets).sum(axis=1).reshape(world.spec.classes, -1).mean(axis=1)
    np.testing.assert_allclose(own, RECALLED_SCORE, atol=0.01)  # thirty halvings, float32


# ----- from sounds to a checkpoint


def judge_tone(label: str | None, hz: float, seed: int) -> JudgedSound:
    rng = np.random.default_rng(seed)
    tone = 0.3 * np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000)
    waveform = rng.normal(scale=0.001, size=24_000)
    waveform[4_000:20_000] += tone
    return JudgedSound(waveform.astype(np.float32), slice(4_000, 20_000), label)


def no_data(spec: Spec, verdicts: list[JudgedSound]) -> Lesson:
    empty = LogMels([], spec.frontend, AUGMENT)
    return Lesson(empty, np.zeros((0, spec.classes), np.float32), np.zeros(0), None, verdicts)


def test_a_network_learns_at_all_sizes_from_sounds_alone(build_spec: BuildSpec) -> None:
    spec = build_spec(98, 32, network=NetworkSpec(width=16, depth=1, heads=2), labels=("high", "low", "mid"))
    start, frontend = random_checkpoint(spec), Frontend(spec.frontend)
    verdicts = [
        judge_tone(None, 3_000, 0),
        judge_tone(None, 3_000, 1),
        judge_tone(None, 3_000, 2),
        judge_tone("low", 200, 3),
    ]
    learnt = adapt_head(start, PATCHES, no_data(spec, verdicts), WITHOUT_DATA)
    assert learnt.spec.nothing_class
    window = frontend.window(judge_tone(None, 3_000, 9).waveform[4_000:])[None]
    for patch in PATCHES:
        answers = TorchClassifier(load_model(learnt)).logits(window, patch)
        assert answers.argmax() == 3, patch


def test_verdicts_weigh_less_until_the_model_is_accepted(build_spec: BuildSpec) -> None:
    spec = build_spec(98, 32, network=NetworkSpec(width=16, depth=1, heads=2), nothing_class=True)
    clips = [judge_tone("low", hz, 5).waveform for hz in (200, 210, 3_000, 3_100)]
    targets = np.eye(3, dtype=np.float32)[[1, 1, 0, 0]]
    data = Lesson(LogMels(clips, spec.frontend, AUGMENT), targets, np.full(4, 0.25), None, [judge_tone(None, 800, 1)])
    tried: list[Checkpoint] = []

    def accepts(adapted: Checkpoint) -> bool:
        tried.append(adapted)
        return len(tried) == accepted_try

    start, scores = random_checkpoint(spec), []
    verdicts = embed_verdicts(Embedder(load_model(start)), spec, PATCHES, data.verdicts)
    for accepted_try in (1, 2, len(SHARES) + 1):
        tried.clear()
        learnt = adapt_head(start, PATCHES, data, WITH_DATA, accepts=accepts)
        assert learnt is tried[-1]
        assert len(tried) == min(accepted_try, len(SHARES))
        logits = classify_embeddings(learnt, verdicts.embeddings)
        scores.append(float(torch.from_numpy(logits).softmax(dim=1)[:, -1].mean()))
    assert scores[0] > scores[1] > scores[2], "the less a verdict weighs, the less sure the model is of it"


def test_data_are_heard_beside_the_verdicts(build_spec: BuildSpec) -> None:
    spec = build_spec(98, 32, network=NetworkSpec(width=16, depth=1, heads=2), nothing_class=True)
    clips = [judge_tone("low", hz, 5).waveform for hz in (200, 210, 3_000, 3_100)]
    targets = np.eye(3, dtype=np.float32)[[1, 1, 0, 0]]
    data = Lesson(LogMels(clips, spec.frontend, AUGMENT), targets, np.full(4, 0.25), None, [judge_tone(None, 800, 1)])
    learnt = adapt_head(random_checkpoint(spec), PATCHES, data, WITH_DATA)
    check_weights(__file__, learnt.weights, learnt.spec)  # type: ignore[arg-type]  # named in messages only


def test_without_verdicts_there_is_nothing_to_learn(build_spec: BuildSpec) -> None:
    spec = build_spec(98, 32)
    with pytest.raises(DataError, match="no verdicts to learn from; judge some events with `flexiast review`"):
        adapt_head(random_checkpoint(spec), PATCHES, no_data(spec, []), WITHOUT_DATA)
