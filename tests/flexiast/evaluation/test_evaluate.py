"""Metrics against brute force; what a clip's logits are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.errors import DataError
from flexiast.evaluation import evaluate as evaluation
from flexiast.evaluation.evaluate import PatchResult, Windows, average_precision, classify, evaluate, score
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec

Float = NDArray[np.float32]
Specs = Callable[..., Spec]


@dataclass(frozen=True)
class BandClassifier:
    """The smallest true classifier: is the loudest bin in the upper or the lower half, whatever the patch?"""

    spec: Spec

    def logits(self, features: Float, patch: PatchSize) -> Float:
        rows, _ = self.spec.grid(patch)  # the patch size leaves its mark, so that sizes cannot be mixed up
        lower, upper = np.split(features.mean(axis=1), 2, axis=1)
        return np.stack((upper.max(axis=1), lower.max(axis=1)), axis=1) * np.float32(rows)


# ----- average precision


def slow_average_precision(scores: list[int], target: list[bool]) -> float:
    """For each positive: of all that score as high or higher, the share of positives."""
    precisions = []
    for own, positive in zip(scores, target, strict=True):
        if positive:
            above = [hit for other, hit in zip(scores, target, strict=True) if other >= own]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)


RANKINGS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30).filter(
    lambda ranking: any(positive for _, positive in ranking)
)


@given(RANKINGS)
def test_average_precision_is_brute_force_with_ties_too(ranking: list[tuple[int, bool]]) -> None:
    scores, target = (list(column) for column in zip(*ranking, strict=True))
    fast = average_precision(np.array(scores, np.float32), np.array(target, np.float32))
    assert fast == pytest.approx(slow_average_precision(scores, target), abs=1e-12)  # float64 means of ratios


@given(RANKINGS, st.randoms(use_true_random=False))
def test_average_precision_does_not_depend_on_the_order_of_clips(
    ranking: list[tuple[int, bool]], random: object
) -> None:
    shuffled = list(ranking)
    random.shuffle(shuffled)
    values = [
        average_precision(np.array([s for s, _ in pairs], np.float32), np.array([t for _, t in pairs], np.float32))
        for pairs in (ranking, shuffled)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_a_constant_score_is_worth_the_share_of_positives() -> None:
    target = np.array([1, 0, 0, 0], np.float32)
    assert average_precision(np.zeros(4, np.float32), target) == 0.25


# ----- scores of a task


def test_accuracy_is_the_share_of_clips_whose_best_class_is_right() -> None:
    logits = np.array([[2, 1, 0], [0, 3, 1], [5, 4, 9], [1, 0, 0]], np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    assert score(logits, targets, "single") == 0.5


def test_mean_average_precision_leaves_out_classes_that_never_occur() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 4)).astype(np.float32)
    targets = (rng.random((20, 4)) < 0.3).astype(np.float32)
    targets[:, 2] = 0
    expected = np.mean([slow_average_precision(logits[:, c].tolist(), (targets[:, c] > 0).tolist()) for c in (0, 1, 3)])
    assert score(logits, targets, "multi") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_right_logits_score_one_and_reversed_ones_do_not(task: str) -> None:
    targets = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    assert score(targets, targets, task) == 1.0
    assert score(-targets, targets, task) < 0.5


# ----- windows and clips


def test_a_clip_has_the_windows_of_its_features(build_spec: Specs) -> None:
    frontend = Frontend(build_spec().frontend)
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(size=samples).astype(np.float32) for samples in (16_000, 40_000, 300, 16_001, 16_160)]
    clips = Windows(waveforms, frontend)
    held = [frontend.spec.windows_in(len(waveform)) for waveform in waveforms]
    assert held == [[98], [98, 98, 52], [0], [98], [98, 1]]
    cut = [
        frontend.pad(frontend(waveform)[98 * number : 98 * (number + 1)])
        for waveform, clip in zip(waveforms, held, strict=True)
        for number in range(len(clip))
    ]
    np.testing.assert_allclose(clips[:], cut, rtol=0, atol=1e-5)  # frames in chunks of other sizes


class Counted(list[Float]):
    """Waveforms that count how often one is read."""

    read = 0

    def __getitem__(self, index: Any) -> Any:
        self.read += 1
        return super().__getitem__(index)


@given(st.data(), st.integers(0, 9))
def test_windows_beyond_the_memory_are_computed_to_the_same_values(
    build_spec: Specs, data: st.DataObject, room: int
) -> None:
    frontend, rng = Frontend(build_spec().frontend), np.random.default_rng(0)
    waveforms = Counted(rng.normal(size=samples).astype(np.float32) for samples in (300, 40_000, 16_000, 33_000))
    whole = Windows(waveforms, frontend, memory_bytes=10**9)
    few = Windows(waveforms, frontend, memory_bytes=room * 98 * 128 * 4)
    assert len(few) == len(whole) == 8
    start = data.draw(st.integers(0, 7))
    chosen = slice(start, data.draw(st.integers(start + 1, 8)))
    waveforms.read = 0
    expected = whole[chosen]
    assert waveforms.read == 0
    assert np.array_equal(few[chosen], expected)
    assert (waveforms.read > 0) is (chosen.stop > room)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_a_clips_logits_are_the_mean_over_its_windows(build_spec: Specs, counts: list[int]) -> None:
    silence = [np.zeros(240 + 160 * 98 * count, np.float32) for count in counts]  # whole windows of 98 frames
    clips = Windows(silence, Frontend(build_spec().frontend))
    logits = np.random.default_rng(0).normal(size=(sum(counts), 3)).astype(np.float32)
    starts = np.cumsum([0, *counts])
    expected = [logits[start:end].mean(axis=0) for start, end in pairwise(starts)]
    np.testing.assert_allclose(clips.clip_mean(logits), expected, atol=1e-6)  # float32 sums of up to four


def test_a_window_counts_as_much_as_it_holds_of_its_clip(build_spec: Specs) -> None:
    frontend = Frontend(build_spec().frontend)
    clips = Windows([np.zeros(240 + 160 * frames, np.float32) for frames in (98 + 2, 98)], frontend)
    logits = np.array([[1.0], [5.0], [7.0]], np.float32)
    np.testing.assert_allclose(clips.clip_mean(logits), [[(98 * 1.0 + 2 * 5.0) / 100], [7.0]], rtol=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=5).filter(any), st.floats(35, 90))
def test_windows_without_anything_audible_are_left_out(
    build_spec: Specs, sounding: list[bool], quiet_db: float
) -> None:
    """A recording of some windows of a room, and of others in which something sounds."""
    rng = np.random.default_rng(0)
    loudness = np.repeat([1.0 if one else 10 ** (-quiet_db / 20) for one in sounding], 160 * 98)
    recording = np.concatenate((rng.uniform(-0.5, 0.5, len(loudness)) * loudness, np.zeros(240)))
    recording = (recording + 0.1).astype(np.float32)  # the offset tells nothing
    frontend = Frontend(build_spec().frontend)
    clips = Windows([recording], frontend)
    expected = [frontend.window(recording[160 * 98 * number :]) for number, one in enumerate(sounding) if one]
    np.testing.assert_array_equal(clips[:], expected)
    logits = rng.normal(size=(sum(sounding), 3)).astype(np.float32)
    np.testing.assert_allclose(clips.clip_mean(logits), [logits.mean(axis=0)], atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_batches_do_not_change_logits(build_spec: Specs, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = BandClassifier(build_spec())
    features = np.random.default_rng(0).normal(size=(7, 98, 128)).astype(np.float32)
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", batch_tokens)
    for patch in (PatchSize(8, 8), PatchSize(48, 48)):
        assert np.array_equal(classify(classifier, features, patch), classifier.logits(features, patch))


# ----- the whole


@dataclass(frozen=True)
class TwoTones:
    """Clips of a high or a low tone over noise, of one to three windows, and what they are."""

    spec: Spec

    @cached_property
    def targets(self) -> Float:
        return np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]

    @cached_property
    def waveforms(self) -> list[Float]:
        rng = np.random.default_rng(0)
        made = []
        for index, target in enumerate(self.targets):
            times = np.arange(16_000 * (1 + index % 3)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * (5_000 if target[0] else 200) * times)
            made.append((tone + rng.normal(scale=1e-3, size=len(times))).astype(np.float32))
        return made


def test_every_patch_size_is_measured_with_its_cost(build_spec: Specs) -> None:
    tones = TwoTones(build_spec())
    patches = [PatchSize(8, 8), PatchSize(16, 32)]
    results = evaluate(
        BandClassifier(tones.spec), Windows(tones.waveforms, Frontend(tones.spec.frontend)), tones.targets, patches
    )
    assert [result.patch_size for result in results] == patches
    assert [result.tokens for result in results] == [tones.spec.tokens(patch) for patch in patches]
    assert [result.gmac for result in results] == [tones.spec.gmac(patch) for patch in patches]
    assert [result.accuracy for result in results] == [1.0, 1.0]
    assert [result.mean_average_precision for result in results] == [None, None]


def test_a_wrong_target_costs_its_share(build_spec: Specs) -> None:
    tones = TwoTones(build_spec())
    targets = tones.targets.copy()
    targets[0] = targets[0, ::-1]
    clips = Windows(tones.waveforms, Frontend(tones.spec.frontend))
    [result] = evaluate(BandClassifier(tones.spec), clips, targets, [PatchSize(16, 16)])
    assert result.metric == pytest.approx(5 / 6)


def test_several_labels_are_measured_by_mean_average_precision(build_spec: Specs) -> None:
    tones = TwoTones(build_spec(task="multi"))
    clips = Windows(tones.waveforms, Frontend(tones.spec.frontend))
    [result] = evaluate(BandClassifier(tones.spec), clips, tones.targets, [PatchSize(16, 16)])
    assert result.accuracy is None
    assert result.metric == result.mean_average_precision == 1.0


def test_a_result_comes_back_from_json_unchanged() -> None:
    result = PatchResult(patch_size=PatchSize(16, 32), tokens=33, gmac=0.5, accuracy=0.75)
    assert PatchResult.model_validate_json(result.model_dump_json(exclude_none=True)) == result


# ----- clips without a label


class Fixed:
    """Answers with given logits [clips, classes], a window a clip."""

    def __init__(self, spec: Spec, answers: Float) -> None:
        self.spec, self._answers = spec, list(answers)

    def logits(self, features: Float, patch: PatchSize) -> Float:
        return np.stack([self._answers.pop(0) for _ in features])


@pytest.mark.parametrize("nothing", [True, False])
def test_accuracy_is_of_clips_with_labels_and_nothing_is_a_miss(build_spec: Specs, nothing: bool) -> None:
    spec = build_spec(nothing_class=nothing)
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]], np.float32)
    answers = np.array([[3, 0, 1], [1, 0, 3], [0, 3, 1], [0, 0, 5], [0, 4, 0], [0, 0, 0]], np.float32)
    windows = Windows([np.zeros(15_920, np.float32)] * 6, Frontend(spec.frontend))
    found = Fixed(spec, answers if nothing else answers[:, :2])
    [result] = evaluate(found, windows, targets, [PatchSize(16, 16)])
    assert result.accuracy == pytest.approx(2 / 3 if nothing else 1)
    # softmax: a third of each, or a half of each of two, which is the default threshold
    assert result.specificity == pytest.approx(2 / 3 if nothing else 0)
    assert result.merit == pytest.approx((result.metric + result.specificity) / 2)


def test_specificity_of_several_labels_is_by_sigmoid(build_spec: Specs) -> None:
    spec = build_spec(task="multi")
    windows = Windows([np.zeros(15_920, np.float32)] * 3, Frontend(spec.frontend))
    answers = np.array([[3, 0], [-1, -2], [-1, 0.1]], np.float32)
    targets = np.array([[1, 0], [0, 0], [0, 0]], np.float32)
    [result] = evaluate(Fixed(spec, answers), windows, targets, [PatchSize(16, 16)])
    assert (result.mean_average_precision, result.specificity) == (1.0, 0.5)


def test_where_every_clip_has_a_label_there_is_no_specificity(build_spec: Specs) -> None:
    tones = TwoTones(build_spec())
    clips = Windows(tones.waveforms, Frontend(tones.spec.frontend))
    [result] = evaluate(BandClassifier(tones.spec), clips, tones.targets, [PatchSize(16, 16)])
    assert result.specificity is None
    assert "specificity" not in result.document()
    assert result.merit == result.metric


def test_background_alone_has_nothing_to_be_right_about(build_spec: Specs) -> None:
    tones = TwoTones(build_spec())
    clips = Windows(tones.waveforms, Frontend(tones.spec.frontend))
    with pytest.raises(DataError, match="no clip has a label"):
        evaluate(BandClassifier(tones.spec), clips, np.zeros_like(tones.targets), [PatchSize(16, 16)])
