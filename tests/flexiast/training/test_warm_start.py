"""Linear heads on frozen embeddings: what is fitted, what is compared, and where a run begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from flexiast.checkpoint import Checkpoint
from flexiast.data.targets import LabelTargets
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.networks import TorchClassifier, load_model, weights_of
from flexiast.spec import NetworkSpec, PatchSize, Spec
from flexiast.training.batches import LogMels
from flexiast.training.linear_head import compute_statistics, cross_validate, fit_head
from flexiast.training.recipe import START_EPOCHS, TIMBRE_EPOCHS, Augment, Distill, Training
from flexiast.training.warm_start import compare_starts, compare_statistics, cut_loudest, fit_start

Float = NDArray[np.float32]
PATCHES = (PatchSize(16, 16), PatchSize(32, 32))


def make_tones(clips: int, seconds: float = 1.0, seed: int = 0) -> tuple[list[Float], Float]:
    """Two labels, low and high, in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    hz = np.where(np.arange(clips) % 2, 3_000, 300) * rng.uniform(0.9, 1.1, clips)
    waves = [
        (0.2 * np.sin(2 * np.pi * each * time) + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
        for each in hz
    ]
    return waves, np.eye(2, dtype=np.float32)[np.arange(clips) % 2]


def make_start(spec: Spec, seed: int = 0, **changes: object) -> Checkpoint:
    torch.manual_seed(seed)
    spec = spec.model_copy(update={"labels": ("x", "y", "z"), **changes})
    return Checkpoint(spec, weights_of(FlexiAST(spec)))


@pytest.fixture
def spec(build_spec: Callable[..., Spec]) -> Spec:
    return build_spec(98, trained_patches=PATCHES, labels=("low", "high"), task="single")


def test_a_head_is_penalised_logistic_regression_whatever_the_scale_of_its_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4), np.float32)
    targets = np.eye(3, dtype=np.float32)[(features @ rng.standard_normal((4, 3))).argmax(axis=1)]
    standard = (features - features.mean(axis=0)) / features.std(axis=0)

    def loss(flat: NDArray[np.float64]) -> float:
        weight, bias = flat[:12].reshape(3, 4), flat[12:]
        logits = standard @ weight.T + bias
        return float(-(targets * log_softmax(logits, axis=1)).sum(axis=1).mean() + (weight**2).sum() / (2 * 60))

    best = minimize(loss, np.zeros(15)).x
    head = fit_head(features * np.float32([1, 100, 0.01, 1]) + 5, targets, "single", clips=60)
    found = head(features * np.float32([1, 100, 0.01, 1]) + 5)
    wanted = standard @ best[:12].reshape(3, 4).T + best[12:]
    np.testing.assert_allclose(log_softmax(found, axis=1), log_softmax(wanted, axis=1), atol=5e-3)  # float32, L-BFGS
    twice = fit_head(np.repeat(features, 2, axis=0), np.repeat(targets, 2, axis=0), "single", clips=60)
    once = fit_head(features, targets, "single", clips=60)
    np.testing.assert_allclose(twice.weight, once.weight, atol=5e-3)  # views of a clip weigh as one


def test_fitting_a_head_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        fit_head(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), "single", clips=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_baseline_reads_a_clip_of_one_window_whole_and_of_a_longer_one_the_windows_that_sound(spec: Spec) -> None:
    """The second implementation cuts the waveform: windows side by side, as the network is measured on."""
    frames, hop = spec.frontend.window_frames, spec.frontend.hop_samples
    rng = np.random.default_rng(0)
    room = (1e-4 * rng.standard_normal(30 * 16_000)).astype(np.float32)
    tone = make_tones(1, seconds=0.5)[0][0]
    places = [round((number + 0.3) * frames * hop) for number in (4, 17)]  # well inside two of the windows
    for place in places:
        room[place : place + len(tone)] = tone
    short = room[places[0] : places[0] + len(tone)]
    frontend = Frontend(spec.frontend)
    whole = frontend.log_mel(room)
    expected = [frontend.log_mel(short), np.concatenate([whole[n * frames : (n + 1) * frames] for n in (4, 17)])]
    found = compute_statistics(LogMels([short, room], spec.frontend, Augment()), [0, 1], frames)
    wanted = [np.concatenate((one.mean(axis=0), one.std(axis=0))) for one in expected]
    np.testing.assert_allclose(found, wanted, atol=0.01)  # float16


def test_cross_validation_is_right_about_what_can_be_told_apart_and_what_cannot() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(2, dtype=np.float32)[np.arange(90) % 2]
    noise = rng.standard_normal((90, 3), np.float32)
    assert cross_validate(noise, targets, "single") < 0.7
    assert cross_validate(np.concatenate((noise, targets), axis=1), targets, "single") > 0.95
    assert cross_validate(np.concatenate((noise, targets), axis=1), targets, "multi") > 0.95


def test_the_start_that_tells_the_clips_apart_is_found_and_misfits_are_left_out(spec: Spec) -> None:
    waves, targets = make_tones(24)
    deaf = make_start(spec)
    deaf.weights["embedding.kernel"][:] = 0
    other = NetworkSpec(width=32, depth=2, heads=2)
    candidates = {
        "hearing": (make_start(spec), spec),
        "deaf": (deaf, spec),
        "larger": (make_start(spec, network=other), spec),
        "longer": (
            make_start(
                spec.model_copy(update={"frontend": spec.frontend.model_copy(update={"window_samples": 32_000})})
            ),
            spec,
        ),
    }
    found = compare_starts(candidates, waves, LabelTargets.from_lists([[label] for label in targets.argmax(axis=1)], 2))
    assert set(found) == {"hearing", "deaf", "longer"}
    assert found["hearing"] > 0.8  # of 24 clips, by weights that torch draws, each version others
    assert found["deaf"] < 0.7


def test_statistics_tell_tones_apart_but_not_what_does_not_sound(spec: Spec) -> None:
    waves, targets = make_tones(24)
    log_mels = LogMels(waves, spec.frontend, Augment(speed=0.0))
    by_tone, by_chance = (
        LabelTargets.from_lists([[label] for label in labels], 2)
        for labels in (targets.argmax(axis=1), np.random.default_rng(0).permutation(24) % 2)
    )
    assert compare_statistics(spec, log_mels, by_tone) > 0.9
    assert compare_statistics(spec, log_mels, by_chance) < 0.8  # 19 of 24 by chance: p < 0.01


def test_statistics_do_not_tell_levels_apart(spec: Spec) -> None:
    wave = np.random.default_rng(0).standard_normal((24, 16_000)).astype(np.float32)
    levels = np.where(np.arange(24) % 2, 0.3, 0.01)[:, None].astype(np.float32)
    log_mels = LogMels(list(wave * levels), spec.frontend, Augment(speed=0.0))
    by_level = LabelTargets.from_lists([[number % 2] for number in range(24)], 2)
    assert compare_statistics(spec, log_mels, by_level) < 0.8


def test_a_fitted_start_is_right_at_every_size_before_it_learns(spec: Spec) -> None:
    waves, targets = make_tones(24)
    training = Training(patches=PATCHES, batch_size=8)
    log_mels = LogMels(waves, spec.frontend, training.augment)
    start = make_start(spec)
    fitted = fit_start(start, spec, training, log_mels, targets)
    assert fitted.spec == spec
    changed = {name for name, value in fitted.weights.items() if not np.array_equal(value, start.weights.get(name))}
    assert changed == {"head.weight", "head.bias"}
    waves, targets = make_tones(20, seed=1)
    results = evaluate(TorchClassifier(load_model(fitted)), Windows(waves, Frontend(spec.frontend)), targets, PATCHES)
    assert min(result.metric for result in results) > 0.7  # chance is 0.5; the network is random


@pytest.mark.parametrize("place", [0, 30, 500, 999])
def test_a_long_clip_is_compared_around_its_loudest_sample(place: int) -> None:
    waveform = np.full(1_000, 0.2, np.float32)
    waveform[place] = -0.5
    cut = cut_loudest(waveform, 100)
    assert (len(cut), cut.min()) == (100, -0.5)
    assert np.array_equal(cut_loudest(waveform[:90], 100), waveform[:90])


def test_a_started_run_is_shorter_the_more_it_costs_and_keeps_what_was_told(spec: Spec) -> None:
    few, many = (Training(patches=PATCHES).fill_for_start(spec, clips) for clips in (10, 10_000_000))
    assert (few.epochs, many.epochs) == (START_EPOCHS[1], START_EPOCHS[0])
    assert few.layer_decay < 1
    told = Training(patches=PATCHES, epochs=3, learning_rate=0.1, augment=Augment()).fill_for_start(spec, 10)
    assert (told.epochs, told.learning_rate) == (3, 0.1)
    assert few.distill.in_place_weight > 0
    alone = Training(patches=PATCHES, distill=Distill(in_place_weight=0.0)).fill_for_start(spec, 10)
    assert alone.distill.in_place_weight == 0


def test_a_started_run_whose_labels_differ_in_timbre_varies_none(spec: Spec) -> None:
    by_ear, by_timbre = (Training(patches=PATCHES).fill_for_start(spec, 10, by_timbre=each) for each in (False, True))
    assert min(by_ear.augment.speed, by_ear.augment.filter_db) > 0
    assert (by_timbre.augment.speed, by_timbre.augment.filter_db, by_timbre.layer_decay) == (0, 0, 1)
    assert by_timbre.augment.gain_db == by_ear.augment.gain_db
    assert by_timbre.epochs == TIMBRE_EPOCHS[1]


def test_a_step_costs_what_it_keeps_of_a_clip_and_what_it_teaches(spec: Spec) -> None:
    gmac = {patch: spec.gmac(patch) for patch in PATCHES}
    assert Training(patches=PATCHES).clip_gmac(spec) == gmac
    half = Training(patches=PATCHES, max_tokens=spec.tokens(PATCHES[0]) // 2).clip_gmac(spec)
    assert half[PATCHES[0]] == pytest.approx(
        gmac[PATCHES[0]] * (spec.tokens(PATCHES[0]) // 2) / spec.tokens(PATCHES[0])
    )
    taught = Training(patches=PATCHES, distill=Distill(in_place_weight=1.0)).clip_gmac(spec)
    assert taught == pytest.approx({PATCHES[0]: gmac[PATCHES[0]] + gmac[PATCHES[1]], PATCHES[1]: gmac[PATCHES[1]]})
