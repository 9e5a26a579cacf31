"""Training: what is drawn, what resumes, what is learnt, on two tones and a network of three thousand weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexiast.checkpoint import load_checkpoint, weights_sha256
from flexiast.data import Dataset, load_waveforms, read_dataset
from flexiast.errors import ModelError, UsageError
from flexiast.evaluate import Windows, evaluate
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec
from flexiast.train import (
    ALL_PATCHES,
    Batches,
    Settings,
    Step,
    TorchClassifier,
    Trainer,
    active_patches,
    draw,
    draw_patch,
    load_model,
    make_spec,
    weights_of,
)

Float = NDArray[np.float32]

PATCHES = (PatchSize(8, 8), PatchSize(16, 16), PatchSize(16, 8), PatchSize(20, 30))
COARSE = (PatchSize(16, 16), PatchSize(16, 32), PatchSize(24, 16))
"""Sizes that a hundred steps teach; finer ones join a run late and would need a longer one."""
WINDOW_SAMPLES = 5_360
"""A third of a second: 32 frames, of 48 mel bins each."""


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Training is compared bit by bit here; on a GPU gradients are added up in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@dataclass(frozen=True)
class Toy:
    """Two tones in noise, from files: the smallest data set that can be learnt."""

    train: Dataset
    waveforms: list[Float]
    validation: Windows
    targets: Float
    spec: Spec

    def trainer(self, run: Path, **settings: Any) -> Trainer:
        defaults = {"epochs": 2, "batch_size": 8, "evaluations": 2, "patches": PATCHES}
        return Trainer(run, self.spec, Settings(**defaults | settings), self.train, self.waveforms)

    def steps(self, trainer: Trainer, **info: Any) -> Iterator[Step]:
        return trainer.steps(self.validation, self.targets, info)


@pytest.fixture(scope="module")
def toy(
    tmp_path_factory: pytest.TempPathFactory, make_tone: Callable[..., Float], write_audio: Callable[..., Path]
) -> Toy:
    folder, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for label, hz in (("high", 3_000), ("low", 500)):
        for index in range(20):
            tone = make_tone(hz, seconds=0.335, phase=rng.uniform(0, 6), amplitude=rng.uniform(0.1, 0.5))
            noise = rng.normal(scale=0.02, size=len(tone))
            write_audio(folder / label / f"{index}.wav", tone + noise)
    data_set = read_dataset(folder)
    train, waveforms, _ = load_waveforms(data_set.split("train"), 16_000)
    held_out, held_out_waveforms, _ = load_waveforms(data_set.split("val"), 16_000)
    spec = make_spec(
        FrontendSpec(window_samples=WINDOW_SAMPLES, mel_bins=48, mean=0.0, std=1.0),
        waveforms,
        trained_patches=PATCHES,
        network=NetworkSpec(width=16, depth=1, heads=2),
        task="single",
        labels=data_set.labels,
    )
    validation = Windows(held_out_waveforms, Frontend(spec.frontend))
    return Toy(train, waveforms, validation, held_out.targets(spec.labels), spec)


# ----- what is drawn


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_draw_depends_on_its_arguments_alone(seed: int, step: int) -> None:
    first = draw(seed, "patch", step).integers(2**62)
    np.random.default_rng(0).random()
    assert draw(seed, "patch", step).integers(2**62) == first
    others = [
        draw(seed, "batch", step),
        draw(seed, "augment", step),
        draw(seed + 1, "patch", step),
        draw(seed, "patch", step + 1),
    ]
    assert first not in [other.integers(2**62) for other in others]


def test_the_patch_size_of_a_step_is_the_same_whatever_was_drawn_before(build_spec: Callable[..., Spec]) -> None:
    spec, settings = build_spec(), Settings(seed=7)
    forwards = [draw_patch(spec, settings, step, 300) for step in range(300)]
    assert [draw_patch(spec, settings, step, 300) for step in reversed(range(300))] == forwards[::-1]
    assert [draw_patch(spec, Settings(seed=8), step, 300) for step in range(300)] != forwards


def test_every_patch_size_is_trained_and_the_finest_last(build_spec: Callable[..., Spec]) -> None:
    spec, settings = build_spec(498), Settings()
    drawn = [draw_patch(spec, settings, step, 1_000) for step in range(1_000)]
    assert set(drawn) == set(ALL_PATCHES)
    first = {patch: drawn.index(patch) for patch in ALL_PATCHES}
    assert {patch.mels for patch, step in first.items() if step < 300} == {30, 32, 40, 48}  # at most 0.4 of 256 tokens
    assert {patch.mels for patch, step in first.items() if 300 <= step < 600} == {16, 20, 24}
    assert {patch.mels for patch, step in first.items() if step >= 600} == {8, 10, 12}


PATCH_SETS = st.lists(
    st.builds(PatchSize, st.integers(4, 128), st.integers(4, 98)), min_size=1, max_size=8, unique=True
)


@given(PATCH_SETS, st.floats(0, 1), st.floats(0, 1))
def test_sizes_only_join_while_a_run_goes_on(
    build_spec: Callable[..., Spec], patches: list[PatchSize], one: float, other: float
) -> None:
    spec = build_spec()
    early, late = (active_patches(spec, patches, progress) for progress in sorted((one, other)))
    assert early
    assert set(early) <= set(late)
    assert active_patches(spec, patches, 0.6) == patches
    dearest = max(map(spec.tokens, active_patches(spec, patches, 0.0)))
    assert dearest <= max(0.4 * spec.tokens(spec.base_patch), min(map(spec.tokens, patches)))


# ----- normalisation


def test_training_audio_has_mean_zero_and_standard_deviation_half(toy: Toy) -> None:
    features = np.concatenate([Frontend(toy.spec.frontend)(waveform) for waveform in toy.waveforms])
    assert features.mean(dtype=np.float64) == pytest.approx(0.0, abs=1e-5)  # features are float32
    assert features.std(dtype=np.float64) == pytest.approx(0.5, abs=1e-5)  # as in AST: divided by twice the deviation


def test_clips_shorter_than_a_frame_cannot_be_normalised(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec()
    with pytest.raises(UsageError, match="long enough for one frame"):
        make_spec(spec.frontend, [np.zeros(399, np.float32)], **spec.model_dump(exclude={"frontend"}))


# ----- batches


def batches_of(toy: Toy, targets: Float | None = None, **settings: Any) -> Batches:
    given_targets = toy.train.targets(toy.spec.labels) if targets is None else targets
    return Batches(toy.waveforms, given_targets, toy.spec, Settings(**{"batch_size": 8} | settings))


def test_a_batch_is_a_pure_function_of_its_step(toy: Toy) -> None:
    batches = batches_of(toy)
    forwards = [batches(step, mix=True) for step in range(6)]
    torch.manual_seed(1234)  # torchaudio masks from this generator, which others use too
    again = batches_of(toy)
    for step in reversed(range(6)):
        features, targets = again(step, mix=True)
        assert torch.equal(features, forwards[step][0])
        assert torch.equal(targets, forwards[step][1])
    assert not torch.equal(forwards[0][0], forwards[1][0])
    assert not torch.equal(forwards[0][0], batches_of(toy, seed=1)(0, mix=True)[0])


def test_an_epoch_sees_each_clip_once_and_the_next_in_another_order(toy: Toy) -> None:
    names = np.eye(len(toy.waveforms), dtype=np.float32)  # a target of its own tells which clip it is
    batches = batches_of(toy, names)
    per_epoch = batches.steps_per_epoch
    seen = [batches(step, mix=False)[1].argmax(dim=1).tolist() for step in range(2 * per_epoch)]
    first, second = (list(chain(*seen[start : start + per_epoch])) for start in (0, per_epoch))
    assert len(first) == len(set(first)) == len(set(second)) == per_epoch * 8
    assert first != second


def test_clips_mix_only_when_told(toy: Toy) -> None:
    batches = batches_of(toy, mixup_share=1.0)
    _, alone = batches(0, mix=False)
    _, mixed = batches(0, mix=True)
    assert set(alone.unique().tolist()) == {0.0, 1.0}
    assert ((mixed > 0) & (mixed < 1)).any()
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(8))  # shares of one clip


def test_a_data_set_smaller_than_a_batch_is_one_batch(toy: Toy) -> None:
    features, targets = batches_of(toy, batch_size=1_000)(0, mix=False)
    assert len(features) == len(targets) == len(toy.waveforms)


# ----- a run


@pytest.fixture(scope="module")
def straight(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run of eight steps without a break, measured after the fourth and the eighth."""
    trainer = toy.trainer(tmp_path_factory.mktemp("straight"))
    list(toy.steps(trainer))
    return trainer


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@pytest.mark.parametrize("steps_before", [4, 6])
def test_a_resumed_run_ends_with_the_same_weights(
    toy: Toy, straight: Trainer, tmp_path: Path, steps_before: int
) -> None:
    broken = toy.steps(toy.trainer(tmp_path))
    before = [next(broken) for _ in range(steps_before)]
    broken.close()

    resumed = toy.trainer(tmp_path)
    resumed.resume()
    assert resumed.step == 4  # where the state was saved; later steps are done again
    after = list(toy.steps(resumed))
    assert [step.number for step in after] == [5, 6, 7, 8]
    assert same_weights(resumed.model, straight.model)
    assert same_weights(resumed.ema, straight.ema)
    assert before[4:] == after[: steps_before - 4]  # the same patch sizes and losses
    assert resumed.best == straight.best
    # the optimiser's moments too: Adam's state is all that a further step would need
    names = ("last.safetensors", "checkpoint.safetensors")
    saved = [[safetensors.torch.load_file(run / name) for name in names] for run in (tmp_path, straight.run)]
    for ours, theirs in zip(*saved, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_with_another_seed_ends_elsewhere(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    other = toy.trainer(tmp_path, seed=1)
    list(toy.steps(other))
    assert not same_weights(other.model, straight.model)


def test_a_finished_run_resumes_to_its_end(toy: Toy, straight: Trainer) -> None:
    again = toy.trainer(straight.run)
    again.resume()
    assert list(toy.steps(again)) == []
    assert same_weights(again.model, straight.model)


def test_steps_tell_their_number_patch_loss_and_results(toy: Toy, tmp_path: Path) -> None:
    steps = list(toy.steps(toy.trainer(tmp_path)))
    assert [(step.number, step.total) for step in steps] == [(number, 8) for number in range(1, 9)]
    assert [step.number for step in steps if step.results] == [4, 8]
    assert all(step.patch in PATCHES and math.isfinite(step.loss) for step in steps)
    # a head of zeros answers log 2 to either label, smoothed or not
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-3}, {"seed": 1}, {"patches": PATCHES[:2]}, {"epochs": 5}], ids=str
)
def test_a_run_with_other_settings_is_not_resumed(toy: Toy, straight: Trainer, change: dict[str, Any]) -> None:
    other = toy.trainer(straight.run, **change)
    with pytest.raises(ModelError, match="of a run with other data or settings"):
        other.resume()


def test_a_run_of_another_model_is_not_resumed(toy: Toy, straight: Trainer) -> None:
    spec = toy.spec.model_copy(update={"network": NetworkSpec(width=16, depth=2, heads=2)})
    other = Trainer(straight.run, spec, straight.settings, toy.train, toy.waveforms)
    with pytest.raises(ModelError, match="of a run with other data or settings"):
        other.resume()


def test_there_is_nothing_to_resume_in_an_empty_folder(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"last\.safetensors does not exist"):
        toy.trainer(tmp_path).resume()


def test_a_damaged_state_is_refused(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    content = (straight.run / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError):
        toy.trainer(tmp_path).resume()


def test_a_patch_larger_than_the_window_is_refused_before_training(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="48x48 is larger than one window"):
        toy.trainer(tmp_path, patches=(PatchSize(8, 8), PatchSize(48, 48)))


def test_a_run_that_diverges_says_where(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, learning_rate=1e30)
    with pytest.raises(ModelError, match=r"the loss is (nan|inf) at step \d+ \(patch \d+x\d+\)"):
        list(toy.steps(trainer))


# ----- what comes out


@pytest.fixture(scope="module")
def learnt(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = toy.trainer(tmp_path_factory.mktemp("learnt"), epochs=40, learning_rate=5e-3, patches=COARSE)
    list(toy.steps(trainer, data="two tones"))
    return trainer


def test_two_tones_are_learnt_at_every_patch_size(toy: Toy, learnt: Trainer) -> None:
    model = load_model(load_checkpoint(learnt.run / "checkpoint.safetensors"))
    results = evaluate(TorchClassifier(model), toy.validation, toy.targets, COARSE)
    assert {str(result.patch_size): result.metric for result in results if result.metric <= 0.9} == {}


def test_the_training_clips_are_learnt_too(toy: Toy, learnt: Trainer) -> None:
    clips = Windows(toy.waveforms, Frontend(toy.spec.frontend))
    targets = toy.train.targets(toy.spec.labels)
    results = evaluate(TorchClassifier(learnt.ema), clips, targets, COARSE)
    assert min(result.metric for result in results) > 0.9


def test_the_best_checkpoint_carries_what_is_known_of_its_making(toy: Toy, learnt: Trainer) -> None:
    checkpoint = load_checkpoint(learnt.run / "checkpoint.safetensors")
    assert checkpoint.spec == toy.spec
    info = checkpoint.info
    assert (info["data"], info["steps"]) == ("two tones", learnt.total)
    assert Settings.model_validate_json(json.dumps(info["settings"])) == learnt.settings
    assert info["versions"].keys() == {"flexiast", "torch", "numpy"}
    # the figures in it are those of its own weights, measured anew
    results = evaluate(TorchClassifier(load_model(checkpoint)), toy.validation, toy.targets, COARSE)
    assert info["validation"] == [json.loads(result.model_dump_json(exclude_none=True)) for result in results]
    assert np.mean([result.metric for result in results]) == pytest.approx(learnt.best)


def test_the_averaged_weights_are_the_ones_that_are_kept(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, evaluations=1)
    list(toy.steps(trainer))
    kept = load_model(load_checkpoint(tmp_path / "checkpoint.safetensors"))
    assert same_weights(kept, trainer.ema)
    assert not same_weights(kept, trainer.model)


def test_a_loaded_model_has_the_weights_of_its_checkpoint(learnt: Trainer) -> None:
    checkpoint = load_checkpoint(learnt.run / "checkpoint.safetensors")
    weights = weights_of(load_model(checkpoint))
    assert weights_sha256(type(checkpoint)(checkpoint.spec, weights)) == weights_sha256(checkpoint)


def test_a_worse_measurement_does_not_replace_the_best(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path)
    trainer.best = 2.0  # better than anything that can be measured
    list(toy.steps(trainer))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_several_labels_are_learnt_with_a_sigmoid_each(toy: Toy, tmp_path: Path) -> None:
    spec = toy.spec.model_copy(update={"task": "multi"})
    tones = {"high": toy.waveforms[0], "low": toy.waveforms[-1]}
    lines = [f"{index}.wav,{label},train" for index, label in enumerate(("high", "low", "high;low") * 8)]
    (tmp_path / "clips.csv").write_text("\n".join(("path,label,split", *lines)))
    data_set = read_dataset(tmp_path / "clips.csv")
    assert data_set.task == "multi"
    waveforms = [np.sum([tones[label] for label in clip.labels], axis=0).astype(np.float32) for clip in data_set.clips]
    settings = Settings(epochs=80, batch_size=8, learning_rate=5e-3, evaluations=1, patches=COARSE)
    trainer = Trainer(tmp_path / "run", spec, settings, data_set, waveforms)
    targets = data_set.targets(spec.labels)
    first, *_, last = trainer.steps(Windows(waveforms, Frontend(spec.frontend)), targets, {})
    # a head of zeros is log 2 from any answer; a softmax would be twice as far from a clip of both
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert min(result.mean_average_precision for result in last.results) > 0.9
