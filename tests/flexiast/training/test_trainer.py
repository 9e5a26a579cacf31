"""Training: losses, what resumes, what teaches, what is learnt, on two tones and three thousand weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from torch import Tensor

from flexiast.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.data.targets import LabelTargets
from flexiast.errors import DataError, ModelError, UsageError
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.frontend import Frontend
from flexiast.model import FlexiAST
from flexiast.networks import Model, TorchClassifier, build_model, load_model, weights_of
from flexiast.spec import FrontendSpec, NetworkSpec, PatchSize, Spec
from flexiast.training.batches import Backgrounds, LogMels
from flexiast.training.distillation import Teacher, distillation_loss
from flexiast.training.embedding_targets import EmbeddingTargets
from flexiast.training.journal import Journal
from flexiast.training.optimizer import schedule
from flexiast.training.recipe import ALL_PATCHES, Augment, Distill, Recipe, Training
from flexiast.training.sampling import MEASURED_CLIPS, sample_evenly
from flexiast.training.trainer import LEAST_STEPS, Progress, Trainer, epochs_of, label_loss, make_spec

Float = NDArray[np.float32]
Double = NDArray[np.float64]

PATCHES = (PatchSize(8, 8), PatchSize(16, 16), PatchSize(16, 8), PatchSize(20, 30))
COARSE = (PatchSize(16, 16), PatchSize(16, 32), PatchSize(24, 16))
"""Sizes that a hundred steps teach; finer ones join a run late and would need a longer one."""
WINDOW_SAMPLES = 5_360
"""A third of a second: 32 frames, of 48 mel bins each."""
CONVNET = NetworkSpec(kind="convolutional", width=16, depth=1, heads=1)


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Training is compared bit by bit here; on a GPU gradients are added up in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@dataclass(frozen=True)
class Toy:
    """Two tones in noise, from files: the smallest data set that can be learnt."""

    waveforms: list[Float]
    labelled: Float
    validation: Windows
    targets: Float
    spec: Spec

    def trainer(
        self,
        run: Path,
        *,
        spec: Spec | None = None,
        start: Checkpoint | None = None,
        teachers: Sequence[Any] = (),
        probabilities: Double | None = None,
        bf16: bool = False,
        embeddings: EmbeddingTargets | None = None,
        measure_start: bool = False,
        **training: Any,
    ) -> Trainer:
        defaults = {"epochs": 2, "batch_size": 8, "evaluations": 2, "patches": PATCHES}
        spec, recipe = spec or self.spec, Recipe(training=Training(**defaults | training))
        log_mels = LogMels(self.waveforms, spec.frontend, recipe.training.augment)
        return Trainer(
            run,
            spec,
            recipe,
            log_mels,
            self.labelled,
            start=start,
            teachers=teachers,
            probabilities=probabilities,
            bf16=bf16,
            embeddings=embeddings,
            measure_start=measure_start,
        )

    def steps(self, trainer: Trainer, header: dict[str, Any] | None = None, **options: Any) -> Iterator[Progress]:
        recorded = (header or {}) | {"recipe": json.loads(trainer.recipe.model_dump_json())}
        journal = Journal(trainer.run, recorded, step=trainer.step if trainer.step or trainer.best >= 0 else None)
        return trainer.steps(self.validation, self.targets, journal, **options)

    def trained(self, run: Path, **fields: Any) -> Trainer:
        """A run to its end."""
        trainer = self.trainer(run, **fields)
        list(self.steps(trainer))
        return trainer


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
    frontend = FrontendSpec(window_samples=WINDOW_SAMPLES, mel_bins=48, mean=0.0, std=1.0)
    spec = make_spec(
        frontend,
        LogMels(waveforms, frontend, Augment()),
        trained_patches=PATCHES,
        network=NetworkSpec(width=16, depth=1, heads=2),
        task="single",
        labels=data_set.labels,
    )
    validation = Windows(held_out_waveforms, Frontend(spec.frontend))
    return Toy(list(waveforms), train.targets(spec.labels), validation, held_out.targets(spec.labels), spec)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


# ----- losses

LOGITS = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=4)
TEMPERATURES = st.floats(0.5, 8)


def doubles(values: list[list[float]]) -> tuple[Tensor, Double]:
    return torch.tensor(values, dtype=torch.float64), np.array(values)


@given(LOGITS, st.floats(0, 0.9), st.floats(0, 1))
def test_the_loss_of_one_label_is_cross_entropy_with_shares(
    values: list[list[float]], smoothing: float, share: float
) -> None:
    logits, array = doubles(values)
    target = np.tile([share, 1 - share, 0.0], (len(values), 1))
    smoothed = (1 - smoothing) * target + smoothing / 3
    expected = -(smoothed * log_softmax(array, axis=1)).sum(axis=1)
    found = label_loss(logits, torch.from_numpy(target), "single", smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # float64


@given(LOGITS, st.floats(0, 1))
def test_the_loss_of_several_labels_is_the_mean_of_binary_ones(values: list[list[float]], share: float) -> None:
    logits, array = doubles(values)
    target = np.tile([1.0, share, 0.0], (len(values), 1))
    expected = -(target * log_expit(array) + (1 - target) * log_expit(-array)).mean(axis=1)
    found = label_loss(logits, torch.from_numpy(target), "multi", 0.5)  # which is not smoothed
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # float64


@given(LOGITS, LOGITS, TEMPERATURES)
def test_the_divergence_of_one_label_is_kls(one: list[list[float]], other: list[list[float]], heat: float) -> None:
    rows = min(len(one), len(other))
    (logits, ours), (teacher, theirs) = doubles(one[:rows]), doubles(other[:rows])
    wanted = softmax(theirs / heat, axis=1)
    expected = heat**2 * (wanted * (np.log(wanted) - log_softmax(ours / heat, axis=1))).sum(axis=1)
    found = distillation_loss(logits, teacher, "single", heat)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)  # float64; a difference of numbers up to 500
    assert (found >= -1e-9).all()


@given(LOGITS, LOGITS, TEMPERATURES)
def test_the_divergence_of_several_labels_is_the_mean_of_binary_kls(
    one: list[list[float]], other: list[list[float]], heat: float
) -> None:
    rows = min(len(one), len(other))
    (logits, ours), (teacher, theirs) = doubles(one[:rows]), doubles(other[:rows])
    p, yes, no = expit(theirs / heat), log_expit(ours / heat), log_expit(-ours / heat)
    divergence = p * (log_expit(theirs / heat) - yes) + (1 - p) * (log_expit(-theirs / heat) - no)
    found = distillation_loss(logits, teacher, "multi", heat)
    np.testing.assert_allclose(found, heat**2 * divergence.mean(axis=1), rtol=1e-9, atol=1e-9)  # as above
    assert (found >= -1e-9).all()


@given(LOGITS, st.sampled_from(["single", "multi"]), TEMPERATURES)
def test_equal_answers_do_not_diverge_and_pull_nowhere(values: list[list[float]], task: str, heat: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(logits, logits.detach(), task, heat)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_temperature_keeps_the_size_of_gradients(task: str) -> None:
    """For hot answers the gradient tends to (ours − theirs) / classes, whatever the temperature (Hinton et al.)."""
    logits = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    sizes = []
    for heat in (50.0, 500.0):
        (gradient,) = torch.autograd.grad(distillation_loss(logits, teacher, task, heat).sum(), logits)
        sizes.append(float(gradient.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)  # the next term of the series is a fiftieth
    assert sizes[0] > 0.1


# ----- the schedule


@given(st.floats(0, 0.9), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(warmup: float, places: list[float]) -> None:
    assert schedule(warmup, warmup) == pytest.approx(1.0)
    assert schedule(1.0, warmup) == pytest.approx(0.0, abs=1e-12)
    assert schedule(0.0, warmup) > 0  # the first step learns something
    for before, after in pairwise(sorted(places)):
        assert 0 <= schedule(before, warmup) <= 1
        if after < warmup:
            assert schedule(before, warmup) <= schedule(after, warmup)
        if before >= warmup:
            assert schedule(before, warmup) >= schedule(after, warmup)


def test_the_learning_rate_is_linear_then_half_a_cosine() -> None:
    rising = [schedule(share, 0.2) for share in np.linspace(0, 0.2, 11)]
    np.testing.assert_allclose(np.diff(rising), np.diff(rising)[0], rtol=1e-6)
    assert schedule(0.6, 0.2) == pytest.approx(0.5)  # halfway down
    assert schedule(0.4, 0.2) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_each_step_is_taken_at_its_own_rate(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, learning_rate=2e-3, warmup_share=0.5)
    rates = [trainer._optimizer.param_groups[0]["lr"] for _ in toy.steps(trainer)]
    assert rates == [2e-3 * schedule(step.progress, 0.5) for step in trainer.plan]
    assert trainer._optimizer.param_groups[1]["lr"] == rates[-1]


@given(st.integers(1, 10**6), st.integers(1, 256))
def test_a_run_has_a_hundred_epochs_and_three_thousand_steps_at_least(clips: int, batch_size: int) -> None:
    epochs = epochs_of(Training(batch_size=batch_size), clips)
    assert epochs >= 100
    assert epochs * clips >= LEAST_STEPS * batch_size
    assert epochs == 100 or (epochs - 1) * clips < LEAST_STEPS * batch_size
    assert epochs_of(Training(batch_size=batch_size, epochs=3), clips) == 3


# ----- normalisation


@pytest.mark.parametrize("speed", [0.0, 0.12])
def test_training_audio_has_mean_zero_and_standard_deviation_half(toy: Toy, speed: float) -> None:
    log_mels = LogMels(toy.waveforms, toy.spec.frontend, Augment(speed=speed))
    spec = make_spec(toy.spec.frontend, log_mels, **toy.spec.model_dump(exclude={"frontend"}))
    features = np.concatenate([Frontend(spec.frontend)(waveform) for waveform in toy.waveforms])
    # log-mels were rounded to float16: 0.004 nat at most, a thousandth on average, of a deviation above 2
    assert features.mean(dtype=np.float64) == pytest.approx(0.0, abs=1e-3)
    assert features.std(dtype=np.float64) == pytest.approx(0.5, abs=1e-3)  # as in AST: divided by twice the deviation


def test_digital_silence_can_be_normalised(toy: Toy) -> None:
    silence = LogMels([np.zeros(WINDOW_SAMPLES, np.float32)], toy.spec.frontend, Augment())
    spec = make_spec(toy.spec.frontend, silence, **toy.spec.model_dump(exclude={"frontend"}))
    assert np.isfinite(Frontend(spec.frontend)(toy.waveforms[0])).all()


def test_a_base_patch_larger_than_the_window_is_refused(toy: Toy) -> None:
    log_mels = LogMels(toy.waveforms[:1], toy.spec.frontend, Augment())
    fields = toy.spec.model_dump(exclude={"frontend", "base_patch"})
    with pytest.raises(UsageError, match="48x48 is larger than one window"):
        make_spec(toy.spec.frontend, log_mels, base_patch=PatchSize(48, 48), **fields)


@given(st.integers(1, 10**7))
def test_a_large_data_set_is_measured_by_clips_from_end_to_end(clips: int) -> None:
    measured = sample_evenly(clips)
    assert len(measured) == min(clips, MEASURED_CLIPS)
    assert (measured[0], measured[-1]) == (0, clips - 1)
    assert np.ptp(np.diff(measured, prepend=-1)) <= 1 or clips > MEASURED_CLIPS
    assert max(np.diff(measured), default=1) <= 1 + clips // MEASURED_CLIPS + 1


# ----- a run


@pytest.fixture(scope="module")
def straight(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run of eight steps without a break, measured after the fourth and the eighth."""
    return toy.trained(tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def learnt(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = toy.trainer(tmp_path_factory.mktemp("learnt"), epochs=40, learning_rate=5e-3, patches=COARSE)
    list(toy.steps(trainer, {"data": "two tones"}))
    return trainer


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
    measured = [[(line["step"], line["metric"]) for line in lines(run)] for run in (tmp_path, straight.run)]
    assert measured[0] == measured[1]


RICH = {
    "batch_growth": 1.0,
    "max_tokens": 6,
    "distill": Distill(in_place_weight=0.5),
    "patch_weights": (1.0, 2.0, 1.0, 3.0),
    "augment": Augment(mix_from=0.0, mix_share=1.0),
}


def test_a_run_that_was_stopped_resumes_to_the_same_weights(toy: Toy, tmp_path: Path) -> None:
    teacher = load_model(random_checkpoint(toy.spec))
    undisturbed = toy.trained(tmp_path / "undisturbed", teachers=[teacher], **RICH)
    stopped = toy.trainer(tmp_path / "stopped", teachers=[teacher], **RICH)
    taken = []
    for step in toy.steps(stopped):
        taken.append(step.number)
        if step.number == 2:
            stopped.stop()
    assert taken == [1, 2]
    resumed = toy.trainer(tmp_path / "stopped", teachers=[teacher], **RICH)
    resumed.resume()
    assert resumed.step == 2
    list(toy.steps(resumed))
    assert resumed.total == undisturbed.total > 2
    assert same_weights(resumed.model, undisturbed.model)
    assert same_weights(resumed.ema, undisturbed.ema)


def test_batches_made_by_a_worker_process_train_to_the_same_weights(
    toy: Toy, straight: Trainer, tmp_path: Path
) -> None:
    trainer = toy.trainer(tmp_path)
    list(toy.steps(trainer, workers=1))
    assert same_weights(trainer.model, straight.model)


def test_a_run_with_another_seed_ends_elsewhere(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    assert not same_weights(toy.trained(tmp_path, seed=1).model, straight.model)


def test_a_measurement_that_was_stopped_is_made_when_the_run_is_resumed(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the first, between its sizes: the run ends as one that was never stopped."""
    undisturbed = toy.trained(tmp_path / "undisturbed")
    stopped = toy.trainer(tmp_path / "stopped")
    answer, asked = FlexiAST.forward, []

    def forward(model: FlexiAST, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        if model is stopped.ema:
            asked.append(patch)
            stopped.stop()
        return answer(model, features, patch, keep)

    monkeypatch.setattr(FlexiAST, "forward", forward)
    steps = list(toy.steps(stopped))
    assert len(set(asked)) == 1  # of several sizes
    assert [step.results for step in steps] == [None] * len(steps)
    assert 0 < stopped.step < stopped.total
    unmeasured = load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors")
    assert (unmeasured.info["step"], unmeasured.info["validation"]) == (stopped.step, [])
    assert all(np.array_equal(value, weights_of(stopped.ema)[name]) for name, value in unmeasured.weights.items())

    monkeypatch.undo()
    resumed = toy.trainer(tmp_path / "stopped")
    resumed.resume()
    measured, *_ = toy.steps(resumed)
    assert (measured.number, math.isnan(measured.loss)) == (stopped.step, True)
    assert same_weights(resumed.model, undisturbed.model)
    figures = [
        [
            {name: line.get(name) for name in ("step", "metric")}
            for line in map(json.loads, (trainer.run / "metrics.jsonl").read_text().splitlines())
        ]
        for trainer in (resumed, undisturbed)
    ]
    assert figures[0] == figures[1]
    one, other = (load_checkpoint(trainer.run / "checkpoint.safetensors") for trainer in (resumed, undisturbed))
    assert weights_sha256(one) == weights_sha256(other)


def test_a_run_whose_last_measurement_was_stopped_is_not_complete(
    toy: Toy, straight: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = toy.trainer(tmp_path)
    answer = FlexiAST.forward

    def forward(model: FlexiAST, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        if model is stopped.ema and stopped.step == stopped.total:
            stopped.stop()
        return answer(model, features, patch, keep)

    monkeypatch.setattr(FlexiAST, "forward", forward)
    *_, last = toy.steps(stopped)
    assert (last.number, last.results, stopped.is_complete) == (stopped.total, None, False)
    monkeypatch.undo()
    resumed = toy.trainer(tmp_path)
    resumed.resume()
    (measured,) = toy.steps(resumed)
    assert measured.results is not None
    assert resumed.is_complete
    assert resumed.best == straight.best


def test_a_stop_ends_the_computing_of_log_mels_for_workers(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path)
    trainer.stop()
    next(trainer._batches(1))
    assert not trainer._log_mels._stored


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_any_more_is_named(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    class Vanishing(list[Float]):
        gone = False

        def __getitem__(self, index: Any) -> Any:
            if self.gone and index == 20:
                raise DataError("rex.flac cannot be read")
            return super().__getitem__(index)

    waveforms = Vanishing(toy.waveforms)
    monkeypatch.setattr("flexiast.training.batches.memory_budget", lambda: 0)  # so that clips are read at each access
    trainer = replace(toy, waveforms=waveforms).trainer(tmp_path)
    waveforms.gone = True
    with pytest.raises(DataError) as refused:
        list(toy.steps(trainer, workers=workers))
    assert str(refused.value) == "rex.flac cannot be read"


def test_a_finished_run_resumes_to_its_end(toy: Toy, straight: Trainer) -> None:
    before = (straight.run / "run.json").read_bytes(), (straight.run / "metrics.jsonl").read_bytes()
    again = toy.trainer(straight.run)
    again.resume()
    assert list(toy.steps(again)) == []
    assert same_weights(again.model, straight.model)
    assert ((straight.run / "run.json").read_bytes(), (straight.run / "metrics.jsonl").read_bytes()) == before


def test_steps_tell_their_number_patch_loss_and_results(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path)
    steps = list(toy.steps(trainer))
    assert [(step.number, step.total) for step in steps] == [(number, 8) for number in range(1, 9)]
    assert [step.patch for step in steps] == [step.patch for step in trainer.plan]
    assert [step.number for step in steps if step.results] == [4, 8]
    assert all(math.isfinite(step.loss) for step in steps)
    # a head of zeros answers log 2 to either label, smoothed or not
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"seed": 1},
        {"patches": PATCHES[:2]},
        {"patch_weights": (1.0, 1.0, 1.0, 2.0)},
        {"epochs": 5},
        {"augment": Augment(masks=2)},
        {"distill": Distill(temperature=2.0)},
    ],
    ids=str,
)
def test_a_run_with_other_settings_is_not_resumed(toy: Toy, straight: Trainer, change: dict[str, Any]) -> None:
    other = toy.trainer(straight.run, **change)
    with pytest.raises(ModelError, match="of a run with other data or settings") as refused:
        other.resume()
    (name,) = change
    assert f"recipe.training.{name}" in str(refused.value)


def test_settings_that_are_newer_than_a_saved_run_are_named(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    """As a version without them saved it: they have their defaults, in the run too."""
    with safetensors.safe_open(straight.run / "last.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    identity = json.loads(metadata["run"])
    del identity["recipe"]["training"]["augment"]["masks"], identity["recipe"]["training"]["balanced"]
    safetensors.torch.save_file(tensors, tmp_path / "last.safetensors", metadata | {"run": json.dumps(identity)})
    new_settings = toy.trainer(tmp_path).resume()
    assert set(new_settings) == {"recipe.training.augment.masks", "recipe.training.balanced"}
    assert toy.trainer(straight.run).resume() == ()


def test_a_run_of_another_model_is_not_resumed(toy: Toy, straight: Trainer) -> None:
    spec = toy.spec.model_copy(update={"network": NetworkSpec(width=16, depth=2, heads=2)})
    with pytest.raises(ModelError, match="of a run with other data or settings"):
        toy.trainer(straight.run, spec=spec).resume()


def test_a_run_from_a_start_is_not_resumed_without_it(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    start = Checkpoint(toy.spec, weights_of(straight.model))
    toy.trained(tmp_path, start=start)
    toy.trainer(tmp_path, start=start).resume()
    with pytest.raises(ModelError, match="which --init changes"):
        toy.trainer(tmp_path).resume()


def test_a_run_on_other_labels_is_not_resumed(toy: Toy, straight: Trainer) -> None:
    swapped = replace(toy, labelled=toy.labelled[:, ::-1].copy())
    with pytest.raises(ModelError, match="the labels of the clips"):
        swapped.trainer(straight.run).resume()


def test_a_run_on_fewer_clips_is_not_resumed_and_only_they_are_named(toy: Toy, straight: Trainer) -> None:
    mean = toy.spec.frontend.model_copy(update={"mean": toy.spec.frontend.mean + 0.1})
    fewer = replace(
        toy,
        waveforms=toy.waveforms[8:],
        labelled=toy.labelled[8:],
        spec=toy.spec.model_copy(update={"frontend": mean}),  # measured on the clips, so it changes with them
    )
    with pytest.raises(ModelError, match=r"\(differing: the labels of the clips\)"):
        fewer.trainer(straight.run).resume()


def test_a_run_measured_on_other_clips_is_not_resumed(toy: Toy, tmp_path: Path) -> None:
    stopped = toy.trainer(tmp_path)
    for _ in toy.steps(stopped):
        stopped.stop()
    resumed = toy.trainer(tmp_path)
    resumed.resume()
    swapped = replace(toy, targets=toy.targets[:, ::-1].copy())
    others = Windows([0.5 * waveform for waveform in toy.waveforms[-len(toy.targets) :]], Frontend(toy.spec.frontend))
    for different in (swapped, replace(toy, validation=others)):
        with pytest.raises(ModelError, match="was measured on other clips or labels"):
            list(different.steps(resumed))
    assert len(list(toy.steps(resumed))) == resumed.total - stopped.step


@pytest.mark.parametrize("left_out", ["adam.0.exp_avg", "adam.0.", "adam.", "ema.head.bias", "model."])
def test_a_state_that_lacks_parts_is_refused(toy: Toy, straight: Trainer, tmp_path: Path, left_out: str) -> None:
    with safetensors.safe_open(straight.run / "last.safetensors", "np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(left_out)}  # noqa: SIM118
    safetensors.numpy.save_file(tensors, tmp_path / "last.safetensors", metadata)
    with pytest.raises(ModelError, match="lacks parts of this run's state"):
        toy.trainer(tmp_path).resume()


def test_a_run_with_another_teacher_is_not_resumed(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    teachers = [load_model(random_checkpoint(toy.spec, seed)) for seed in (1, 2)]
    toy.trained(tmp_path, teachers=teachers[:1], epochs=1)
    for others in ([], teachers[1:], teachers):
        with pytest.raises(ModelError, match="of a run with other data or settings"):
            toy.trainer(tmp_path, teachers=others, epochs=1).resume()
    toy.trainer(tmp_path, teachers=[load_model(random_checkpoint(toy.spec, 1))], epochs=1).resume()


def test_the_order_of_teachers_is_of_no_matter_but_each_is_given_once(toy: Toy, tmp_path: Path) -> None:
    teachers = [load_model(random_checkpoint(toy.spec, seed)) for seed in (1, 2)]
    one, other = (
        toy.trained(tmp_path / name, teachers=chosen, epochs=1)
        for name, chosen in (("a", teachers), ("b", teachers[::-1]))
    )
    assert same_weights(one.model, other.model)
    with pytest.raises(UsageError, match="two teachers are the same"):
        toy.trainer(tmp_path / "c", teachers=[*teachers, load_model(random_checkpoint(toy.spec, 2))])


def test_bf16_learns_as_float32_does_within_its_rounding(toy: Toy, tmp_path: Path) -> None:
    exact, rounded = (toy.trainer(tmp_path / str(bf16), bf16=bf16) for bf16 in (False, True))
    assert (exact.precision, rounded.precision) == (torch.float32, torch.bfloat16)
    losses = [[step.loss for step in toy.steps(trainer)] for trainer in (exact, rounded)]
    # Eight bits of mantissa: 0.4 % of an activation, averaged over many; the losses are near 0.7.
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=0.02)
    assert losses[0] != losses[1]
    assert not same_weights(exact.model, rounded.model)


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


# ----- what a step does


class Recording(FlexiAST):
    """Remembers what it was asked."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.asked: list[tuple[PatchSize, int | None, bool]] = []

    def forward(self, features: Tensor, patch: PatchSize, keep: int | None = None) -> Tensor:
        self.asked.append((patch, keep, self.training))
        return super().forward(features, patch, keep)


def test_only_so_many_tokens_are_heard_in_training_and_all_in_evaluation(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, max_tokens=5)
    trainer = Trainer(
        tmp_path,
        toy.spec,
        trainer.recipe,
        LogMels(toy.waveforms, toy.spec.frontend, Augment()),
        toy.labelled,
        build=Recording,
    )
    list(toy.steps(trainer))
    assert isinstance(trainer.model, Recording)
    assert isinstance(trainer.ema, Recording)
    assert {(keep, training) for _, keep, training in trainer.model.asked} == {(5, True)}
    assert {(keep, training) for _, keep, training in trainer.ema.asked} == {(None, False)}


def test_tokens_that_are_dropped_change_what_is_learnt(toy: Toy, straight: Trainer, tmp_path: Path) -> None:
    assert not same_weights(toy.trained(tmp_path / "few", max_tokens=1).model, straight.model)
    most = max(map(toy.spec.tokens, PATCHES))
    assert same_weights(toy.trained(tmp_path / "all", max_tokens=most).model, straight.model)


def random_checkpoint(spec: Spec, seed: int = 0) -> Checkpoint:
    """Weights whose answers differ from sound to sound."""
    torch.manual_seed(seed)
    model = build_model(spec)
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias.normal_()
    return Checkpoint(spec, weights_of(model))


def features_of(spec: Spec, clips: int = 6) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(clips, spec.frontend.window_frames, spec.frontend.mel_bins) / 2


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_in_place_distillation_teaches_the_coarsest_size(toy: Toy, tmp_path: Path, weight: float) -> None:
    trainer = toy.trainer(
        tmp_path,
        start=random_checkpoint(toy.spec),
        distill=Distill(in_place_weight=weight, temperature=2.0),
        label_smoothing=0.0,
    )
    features, target = features_of(toy.spec), torch.from_numpy(np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]])
    model, fine, coarsest = trainer.model.train(), PatchSize(8, 8), PatchSize(16, 16)
    found = trainer._loss(features, target, fine)
    logits = model(features, fine)
    with torch.no_grad():
        fixed = logits.clone()  # what teaches is not taught
    divergence = distillation_loss(model(features, coarsest), fixed, "single", 2.0)
    expected = label_loss(logits, target, "single", 0.0) + weight * divergence
    torch.testing.assert_close(found, expected)
    ours, theirs = (
        torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True) for loss in (found, expected)
    )
    torch.testing.assert_close(ours, theirs)
    alone = torch.autograd.grad(label_loss(logits, target, "single", 0.0).sum(), list(model.parameters()))
    assert torch.equal(alone[0], ours[0]) == (weight == 0)
    # the coarsest size itself has nobody to learn from
    coarse = trainer._loss(features, target, coarsest)
    torch.testing.assert_close(coarse, label_loss(model(features, coarsest), target, "single", 0.0))


def test_a_step_descends_the_mean_loss_of_its_clips(toy: Toy, tmp_path: Path) -> None:
    """One step by hand: torch's own AdamW on the clipped gradient of the batch's mean loss."""
    trainer = toy.trainer(tmp_path, start=random_checkpoint(toy.spec), weight_decay=0.5)
    twin = load_model(Checkpoint(toy.spec, weights_of(trainer.model))).train()
    step = trainer.plan[0]
    (features, target), *_ = trainer._batches(0)
    loss = label_loss(twin(features, step.patch), target, "single", 0.1).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    decayed = {name for name, _ in twin.named_parameters() if name.endswith("weight") and "norm" not in name}
    groups = [
        {"params": [value for name, value in twin.named_parameters() if (name in decayed) == decays], "weight_decay": w}
        for decays, w in ((True, 0.5), (False, 0.0))
    ]
    rate = 1e-3 * schedule(0.0, 0.04)
    torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)).step()
    first = next(toy.steps(trainer))
    assert first.loss == pytest.approx(loss.item(), rel=1e-6)  # float32
    for (name, ours), theirs in zip(trainer.model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8, msg=name)


def test_the_average_follows_the_weights(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, learning_rate=1e-2, ema_decay=0.3)
    expected = {name: value.double() for name, value in trainer.model.state_dict().items()}
    for step in toy.steps(trainer):
        decay = min(0.3, step.number / (9 + step.number))  # a young average forgets faster
        for name, value in trainer.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in trainer.ema.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)  # float32, 8 times
    assert not same_weights(trainer.ema, trainer.model)


# ----- a teacher


@pytest.mark.parametrize("remove_bin_means", [False, True])
@pytest.mark.parametrize("patch", [None, PatchSize(8, 8)])
def test_a_teacher_with_another_normalisation_answers_as_on_its_own_features(
    toy: Toy, remove_bin_means: bool, patch: PatchSize | None
) -> None:
    ours = toy.spec.frontend.model_copy(update={"remove_bin_means": remove_bin_means})
    theirs = ours.model_copy(update={"mean": ours.mean - 2.0, "std": 1.7 * ours.std})
    student = toy.spec.model_copy(update={"frontend": ours})
    model = load_model(random_checkpoint(toy.spec.model_copy(update={"frontend": theirs})))
    clips = [toy.waveforms[0], toy.waveforms[-1][:3_000], np.zeros(0, np.float32)]  # whole, padded, silent
    mine, its = (np.stack([Frontend(spec).window(clip) for clip in clips]) for spec in (ours, theirs))
    teacher = Teacher(model, student, patch)
    expected = TorchClassifier(model).logits(its, patch or student.base_patch)
    assert np.ptp(expected, axis=0).min() > 0.1
    # features are rounded to float32 twice, under values of 4
    np.testing.assert_allclose(teacher(torch.from_numpy(mine)), expected, rtol=0, atol=1e-4)
    unscaled = TorchClassifier(model).logits(mine, patch or student.base_patch)
    assert np.abs(unscaled - expected).max() > 1e-2  # without renormalising it would hear something else


def test_a_teacher_is_frozen_and_evaluates(toy: Toy) -> None:
    network = CONVNET.model_copy(update={"width": 32})
    model = build_model(toy.spec.model_copy(update={"network": network})).train()
    teacher, features = Teacher(model, toy.spec, None), features_of(toy.spec).requires_grad_()
    answers = teacher(features)
    assert torch.equal(answers, teacher(features))  # no dropout, no statistics of the batch
    assert not answers.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_teacher_takes_its_share_of_the_loss(toy: Toy, tmp_path: Path, weight: float) -> None:
    model = load_model(random_checkpoint(toy.spec, 1))
    trainer = toy.trainer(
        tmp_path,
        start=random_checkpoint(toy.spec, 2),
        teachers=[model],
        distill=Distill(teacher_weight=weight, temperature=3.0, teacher_patch=PatchSize(16, 8)),
    )
    features, target = features_of(toy.spec), torch.from_numpy(np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]])
    patch = PatchSize(20, 30)
    logits, answers = trainer.model.train()(features, patch), model(features, PatchSize(16, 8))
    expected = (1 - weight) * label_loss(logits, target, "single", 0.1)
    expected = expected + weight * distillation_loss(logits, answers, "single", 3.0)
    torch.testing.assert_close(trainer._loss(features, target, patch), expected)


def test_embeddings_are_learnt_next_to_labels_by_their_weight(toy: Toy, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    embeddings = EmbeddingTargets([rng.standard_normal((len(toy.waveforms), 5), np.float32)])
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        distill = Distill(embedding_weight=weight)
        trainer = toy.trainer(tmp_path / f"{weight}", embeddings=embeddings, epochs=1, distill=distill)
        losses[weight] = next(toy.steps(trainer)).loss
    plain = next(toy.steps(toy.trainer(tmp_path / "plain", epochs=1))).loss
    assert losses[0.0] == pytest.approx(plain, rel=1e-5)
    assert losses[2.0] - losses[1.0] == pytest.approx(losses[1.0] - losses[0.0], rel=1e-4)
    assert losses[1.0] - losses[0.0] > 0.1  # 1 where nothing is known, a little off for the projection's first answer


def test_lower_blocks_learn_at_a_share_of_the_rate(toy: Toy, tmp_path: Path) -> None:
    start = random_checkpoint(toy.spec)  # whose head is not zero, so that gradients reach every block
    trainer = toy.trainer(tmp_path / "run", start=start, layer_decay=0.5, learning_rate=1e-3, epochs=1)
    before = {name: value.copy() for name, value in weights_of(trainer.model).items()}
    next(toy.steps(trainer))
    moved = {name: np.abs(value - before[name]).max() for name, value in weights_of(trainer.model).items()}
    depth = toy.spec.network.depth
    # AdamW's first step moves every weight that has a gradient by the rate.
    for block in range(depth):
        ratio = moved[f"blocks.{block}.expand.weight"] / moved["head.bias"]
        assert ratio == pytest.approx(0.5 ** (depth - block), rel=0.1)
    assert moved["embedding.kernel"] / moved["head.bias"] == pytest.approx(0.5 ** (depth + 1), rel=0.1)


def test_a_start_that_nothing_beats_is_kept_and_the_run_ends_early(toy: Toy, tmp_path: Path) -> None:
    best = random_checkpoint(toy.spec.model_copy(update={"trained_patches": COARSE}), 1)
    options: dict[str, Any] = {"epochs": 6, "evaluations": 6, "patience": 2, "learning_rate": 1e-12}  # learns nothing
    trainer = toy.trainer(tmp_path / "run", spec=best.spec, start=best, measure_start=True, patches=COARSE, **options)
    steps = list(toy.steps(trainer))
    assert (steps[0].number, math.isnan(steps[0].loss)) == (0, True)
    assert trainer.ended_early
    assert len([step for step in steps if step.results]) == 3
    assert steps[-1].number < trainer.total
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert kept.info["step"] == 0
    assert weights_sha256(kept) == weights_sha256(best)
    again = toy.trainer(tmp_path / "run", spec=best.spec, start=best, measure_start=True, patches=COARSE, **options)
    again.resume()
    assert list(toy.steps(again)) == []


def test_a_start_whose_measurement_was_stopped_can_be_exported_and_is_measured_later(toy: Toy, tmp_path: Path) -> None:
    start = random_checkpoint(toy.spec.model_copy(update={"trained_patches": COARSE}), 1)
    options: dict[str, Any] = {"spec": start.spec, "start": start, "measure_start": True, "patches": COARSE}
    stopped = toy.trainer(tmp_path, **options)
    stopped.stop()
    assert list(toy.steps(stopped)) == []
    assert weights_sha256(load_checkpoint(tmp_path / "checkpoint.safetensors")) == weights_sha256(start)
    resumed = toy.trainer(tmp_path, **options)
    resumed.resume()
    first, *_ = toy.steps(resumed)
    assert (first.number, len(first.results or [])) == (0, len(COARSE))


def test_a_perfect_start_ends_the_run_before_its_first_step(toy: Toy, learnt: Trainer, tmp_path: Path) -> None:
    best = load_checkpoint(learnt.run / "checkpoint.safetensors")
    options: dict[str, Any] = {"spec": best.spec, "start": best, "measure_start": True, "patches": COARSE}
    trainer = toy.trainer(tmp_path / "run", patience=2, **options)
    (measured,) = toy.steps(trainer)
    assert [result.merit for result in measured.results or []] == [1.0] * len(COARSE)
    assert trainer.ended_early
    assert weights_sha256(load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")) == weights_sha256(best)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    again = toy.trainer(tmp_path / "run", patience=2, **options)
    again.resume()
    assert list(toy.steps(again)) == []
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    names = ("checkpoint.safetensors", "metrics.jsonl", "run.json")
    assert [after[name] for name in names] == [before[name] for name in names]
    assert len(list(toy.steps(toy.trainer(tmp_path / "told", **options)))) > 1  # without patience it goes to its end


def test_several_teachers_answer_with_the_mean_of_their_logits(toy: Toy, tmp_path: Path) -> None:
    models = [load_model(random_checkpoint(toy.spec, seed)) for seed in (1, 3)]
    start = random_checkpoint(toy.spec, 2)
    trainer = toy.trainer(tmp_path, start=start, teachers=models, distill=Distill(teacher_weight=1.0))
    features, target = features_of(toy.spec), torch.from_numpy(np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]])
    patch, base = PatchSize(20, 30), toy.spec.base_patch
    answers = (models[0](features, base) + models[1](features, base)) / 2
    expected = distillation_loss(trainer.model.train()(features, patch), answers, "single", 1.0)
    torch.testing.assert_close(trainer._loss(features, target, patch), expected)
    assert (answers - models[0](features, base)).abs().max() > 0.1  # the second has its say


def test_a_teacher_of_other_labels_is_refused(toy: Toy, tmp_path: Path) -> None:
    for change in ({"labels": ("low", "high")}, {"labels": ("a", "b")}, {"task": "multi"}):
        teacher = build_model(toy.spec.model_copy(update=change))
        with pytest.raises(ModelError, match="other labels"):
            toy.trainer(tmp_path, teachers=[teacher])


@pytest.mark.parametrize("change", [{"window_samples": 5_520}, {"preemphasis": 0.9}, {"remove_bin_means": True}])
def test_a_teacher_with_another_front_end_is_refused(toy: Toy, tmp_path: Path, change: dict[str, Any]) -> None:
    frontend = toy.spec.frontend.model_copy(update=change)
    teacher = build_model(toy.spec.model_copy(update={"frontend": frontend}))
    with pytest.raises(ModelError, match="another front end or window"):
        toy.trainer(tmp_path, teachers=[teacher])


def test_a_teacher_is_not_asked_for_a_patch_it_cannot_hear(toy: Toy, tmp_path: Path) -> None:
    distill = Distill(teacher_patch=PatchSize(48, 48))
    with pytest.raises(UsageError, match="48x48 is larger than one window"):
        toy.trainer(tmp_path, teachers=[build_model(toy.spec)], distill=distill)


def test_a_student_of_a_teacher_alone_answers_as_it_does(toy: Toy, learnt: Trainer, tmp_path: Path) -> None:
    """Labels say nothing here: only the teacher knows that the tones are called the other way round."""
    swapped = weights_of(learnt.ema)
    swapped |= {name: swapped[name][::-1].copy() for name in ("head.weight", "head.bias")}
    teacher = load_model(Checkpoint(toy.spec, swapped))
    student = toy.trained(
        tmp_path,
        teachers=[teacher],
        epochs=25,
        learning_rate=5e-3,
        patches=COARSE,
        base_first=0.0,
        distill=Distill(teacher_weight=1.0),
    )
    results = evaluate(TorchClassifier(student.ema), toy.validation, 1 - toy.targets, COARSE)
    assert min(result.metric for result in results) > 0.9


# ----- a start


def test_a_new_network_begins_at_one_size_and_a_start_at_all(toy: Toy, tmp_path: Path) -> None:
    start, epochs = random_checkpoint(toy.spec), {"epochs": 20}
    for fields, expected in (
        ({}, {"16x16"}),
        ({"start": start}, set(map(str, PATCHES))),
        ({"start": start, "base_first": 0.5}, {"16x16"}),
        ({"base_first": 0.0}, set(map(str, PATCHES))),
    ):
        steps = toy.trainer(tmp_path, **epochs, **fields).plan
        assert {str(step.patch) for step in steps if step.progress < 0.4} == expected
        assert {step.patch for step in steps} == set(PATCHES)


def test_a_run_begins_with_the_weights_of_its_start(toy: Toy, tmp_path: Path) -> None:
    start = random_checkpoint(toy.spec)
    trainer = toy.trainer(tmp_path, start=start)
    for name, value in weights_of(trainer.model).items():
        np.testing.assert_allclose(value, start.weights[name], rtol=0, atol=1e-6)  # as in test_transfer
    assert same_weights(trainer.ema, trainer.model)


def test_a_start_of_other_labels_lends_all_but_the_head(toy: Toy, tmp_path: Path) -> None:
    for labels in ((), ("a", "b", "c")):
        spec = toy.spec.model_copy(update={"labels": labels})
        weights = random_checkpoint(toy.spec).weights
        body = {name: value for name, value in weights.items() if not name.startswith("head.")}
        head = {"head.weight": np.ones((3, 16), np.float32), "head.bias": np.ones(3, np.float32)} if labels else {}
        found = weights_of(toy.trainer(tmp_path, start=Checkpoint(spec, body | head)).model)
        assert (found["head.weight"] == 0).all()
        assert all(np.allclose(found[name], body[name], rtol=0, atol=1e-6) for name in body)


# ----- a convolutional teacher


def test_a_convnet_is_trained_resumed_and_kept_with_its_statistics(toy: Toy, tmp_path: Path) -> None:
    spec, base = toy.spec.model_copy(update={"network": CONVNET}), (PatchSize(16, 16),)
    straight = toy.trained(tmp_path / "straight", spec=spec, patches=base)
    broken = toy.steps(toy.trainer(tmp_path / "broken", spec=spec, patches=base))
    for _ in range(5):
        next(broken)
    broken.close()
    resumed = toy.trainer(tmp_path / "broken", spec=spec, patches=base)
    resumed.resume()
    list(toy.steps(resumed))
    assert same_weights(resumed.model, straight.model)
    assert same_weights(resumed.ema, straight.ema)
    kept = load_checkpoint(tmp_path / "straight/checkpoint.safetensors")
    results = evaluate(TorchClassifier(load_model(kept)), toy.validation, toy.targets, base)
    assert np.mean([result.metric for result in results]) == pytest.approx(straight.best)
    assert np.abs(kept.weights["input_norm.running_mean"]).max() > 1e-3


def test_a_convnet_has_no_patch_sizes(toy: Toy, tmp_path: Path) -> None:
    spec = toy.spec.model_copy(update={"network": CONVNET})
    with pytest.raises(UsageError, match="a convnet has no patch sizes; train it with --patch-sizes 16x16"):
        toy.trainer(tmp_path, spec=spec)


@pytest.mark.parametrize("depth", [1, 4])
def test_a_window_shorter_than_a_convnets_halvings_is_refused_with_the_least(toy: Toy, depth: int) -> None:
    network = NetworkSpec(kind="convolutional", width=16, depth=depth, heads=1)

    def net(window_samples: int) -> Model:
        frontend = toy.spec.frontend.model_copy(update={"window_samples": window_samples})
        return build_model(toy.spec.model_copy(update={"network": network, "frontend": frontend}))

    with pytest.raises(UsageError, match="is too short for the convnet; give --window") as refused:
        net(500)
    least = round(16_000 * float(str(refused.value).split()[-3]))
    heard = net(least)
    features = torch.zeros(1, heard.spec.frontend.window_frames, 48)
    assert heard.eval()(features, heard.spec.base_patch).shape == (1, 2)
    with pytest.raises(UsageError, match="too short"):
        net(least - 1)


# ----- what comes out


def test_two_tones_are_learnt_at_every_patch_size(toy: Toy, learnt: Trainer) -> None:
    model = load_model(load_checkpoint(learnt.run / "checkpoint.safetensors"))
    results = evaluate(TorchClassifier(model), toy.validation, toy.targets, COARSE)
    assert {str(result.patch_size): result.metric for result in results if result.metric <= 0.9} == {}


def test_the_training_clips_are_learnt_too(toy: Toy, learnt: Trainer) -> None:
    clips = Windows(toy.waveforms, Frontend(toy.spec.frontend))
    results = evaluate(TorchClassifier(learnt.ema), clips, toy.labelled, COARSE)
    assert min(result.metric for result in results) > 0.9


def test_metrics_tell_losses_every_fifty_steps_and_every_measurement(learnt: Trainer) -> None:
    found = lines(learnt.run)
    losses = [line for line in found if "loss" in line]
    assert [line["step"] for line in losses] == [50, 100, 150]
    assert {name for line in losses for name in line["loss"]} == {str(patch) for patch in COARSE}
    assert all(losses[-1]["loss"][size] < loss for size, loss in losses[0]["loss"].items())  # which had fewer sizes
    measured = [line for line in found if "metric" in line]
    assert [line["step"] for line in measured] == [80, 160]
    assert all(list(line["metric"]) == [str(patch) for patch in COARSE] for line in measured)
    assert max(np.mean(list(line["metric"].values())) for line in measured) == pytest.approx(learnt.best)
    times = [line["wall_s"] for line in found]
    assert times == sorted(times)


def test_losses_are_means_of_the_steps_since_the_last_line(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, epochs=25, patches=COARSE, evaluations=1)
    seen: dict[str, list[float]] = {}
    expected = []
    for step in toy.steps(trainer):
        seen.setdefault(str(step.patch), []).append(step.loss)
        if step.number % 50 == 0:
            expected.append({name: np.mean(losses) for name, losses in seen.items()})
            seen = {}
    found = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert len(found) == 2
    assert found == [pytest.approx(losses) for losses in expected]


def test_the_best_checkpoint_carries_what_is_known_of_its_making(toy: Toy, learnt: Trainer) -> None:
    checkpoint = load_checkpoint(learnt.run / "checkpoint.safetensors")
    assert checkpoint.spec == toy.spec
    info = checkpoint.info
    document = json.loads((learnt.run / "run.json").read_text("utf-8"))
    spent = {name: document.pop(name) for name in ("wall_s", "cpu_s")}  # the whole run's
    assert {name: value for name, value in info.items() if name not in spent} == document
    assert all(0 < info[name] <= value for name, value in spent.items())
    assert (info["data"], info["steps"]) == ("two tones", learnt.total)
    assert Recipe.model_validate_json(json.dumps(info["recipe"])) == learnt.recipe
    assert info["versions"].keys() == {"flexiast", "python", "torch", "numpy"}
    # the figures in it are those of its own weights, measured anew
    results = evaluate(TorchClassifier(load_model(checkpoint)), toy.validation, toy.targets, COARSE)
    assert info["validation"] == [json.loads(result.model_dump_json(exclude_none=True)) for result in results]
    assert np.mean([result.metric for result in results]) == pytest.approx(learnt.best)


def test_the_averaged_weights_are_the_ones_that_are_kept(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trained(tmp_path, evaluations=1)
    kept = load_model(load_checkpoint(tmp_path / "checkpoint.safetensors"))
    assert same_weights(kept, trainer.ema)
    assert not same_weights(kept, trainer.model)


def test_a_loaded_model_has_the_weights_of_its_checkpoint(learnt: Trainer) -> None:
    checkpoint = load_checkpoint(learnt.run / "checkpoint.safetensors")
    weights = weights_of(load_model(checkpoint))
    assert weights_sha256(replace(checkpoint, weights=weights)) == weights_sha256(checkpoint)


def test_a_worse_measurement_does_not_replace_the_best(toy: Toy, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path)
    trainer.best = 2.0  # better than anything that can be measured
    list(toy.steps(trainer))
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert [line["step"] for line in lines(tmp_path)] == [4, 8]  # it is told all the same


def test_clips_are_drawn_by_their_probabilities(toy: Toy, tmp_path: Path) -> None:
    """Only high tones are drawn, so all that is learnt is to say so."""
    only_high = toy.labelled[:, 0].astype(np.float64)
    fields = {"epochs": 10, "learning_rate": 5e-3, "patches": COARSE, "augment": Augment(mix_share=0.0)}
    trainer = toy.trained(tmp_path, probabilities=only_high / only_high.sum(), **fields)
    results = evaluate(TorchClassifier(trainer.ema), toy.validation, toy.targets, COARSE)
    assert [result.metric for result in results] == [0.5, 0.5, 0.5]


def test_several_labels_are_learnt_with_a_sigmoid_each(toy: Toy, tmp_path: Path) -> None:
    spec = toy.spec.model_copy(update={"task": "multi"})
    tones = {"high": toy.waveforms[0], "low": toy.waveforms[-1]}
    names = ("high", "low", "high;low") * 8
    rows = [f"{index}.wav,{label},train" for index, label in enumerate(names)]
    (tmp_path / "clips.csv").write_text("\n".join(("path,label,split", *rows)))
    data_set = read_dataset(tmp_path / "clips.csv")
    assert data_set.task == "multi"
    waveforms = [np.sum([tones[label] for label in clip.labels], axis=0).astype(np.float32) for clip in data_set.clips]
    recipe = Recipe(
        training=Training(epochs=50, batch_size=8, learning_rate=1e-2, evaluations=1, patches=COARSE),
    )
    targets = data_set.targets(spec.labels)
    log_mels = LogMels(waveforms, spec.frontend, recipe.training.augment)
    trainer = Trainer(tmp_path / "run", spec, recipe, log_mels, targets)
    first, *_, last = trainer.steps(Windows(waveforms, Frontend(spec.frontend)), targets, None)
    # a head of zeros is log 2 from any answer; a softmax would be twice as far from a clip of both
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert last.results is not None
    assert min(result.metric for result in last.results) > 0.9
    assert not (tmp_path / "run").exists()  # without a journal, as on a rank that does not lead, nothing is written


def test_a_run_trains_the_papers_sizes_unless_told(toy: Toy, tmp_path: Path) -> None:
    assert Recipe().training.patches == ALL_PATCHES
    with pytest.raises(UsageError, match="40x40 is larger than one window"):
        toy.trainer(tmp_path, patches=ALL_PATCHES)


# ----- background


NOISE_S = 3.0


def backgrounds_of(spec: Spec) -> Backgrounds:
    """Three seconds of white noise."""
    noise = (0.1 * np.random.default_rng(5).standard_normal(round(NOISE_S * 16_000))).astype(np.float32)
    return Backgrounds([LogMels([noise], spec.frontend, Augment(speed=0.0))], [[NOISE_S]])


def with_background(toy: Toy, run: Path, spec: Spec, **fields: Any) -> Trainer:
    """As the command makes one: targets have a class for nothing where the spec has one."""
    targets = LabelTargets.from_lists([np.flatnonzero(clip).tolist() for clip in toy.labelled], len(spec.labels))
    targets = targets.with_nothing() if spec.nothing_class else targets
    training = Training(**{"epochs": 2, "batch_size": 8, "evaluations": 2, "patches": COARSE} | fields)
    log_mels = LogMels(toy.waveforms, spec.frontend, training.augment)
    return Trainer(run, spec, Recipe(training=training), log_mels, targets, backgrounds=backgrounds_of(spec))


def test_what_is_learnt_as_background_is_answered_by_nothing(toy: Toy, tmp_path: Path) -> None:
    """Backgrounds of other seconds than those that were heard; the tones are still known."""
    spec = toy.spec.model_copy(update={"nothing_class": True})
    augment = Augment(background_snr_db=(20.0, 30.0), level_dbfs=(-20.0, -10.0))
    settings = {"epochs": 80, "learning_rate": 5e-3, "base_first": 0.0, "label_smoothing": 0.0}
    trainer = with_background(toy, tmp_path, spec, augment=augment, **settings)
    list(toy.steps(trainer))
    rng = np.random.default_rng(6)
    noise = [(0.1 * rng.standard_normal(WINDOW_SAMPLES)).astype(np.float32) for _ in range(10)]
    frontend = Frontend(spec.frontend)
    classifier = TorchClassifier(trainer.ema)
    targets = np.zeros((11, 2), np.float32)
    targets[-1] = toy.labelled[0]  # one clip with a label, without which there is nothing to be right about
    [result] = evaluate(classifier, Windows(noise + toy.waveforms[:1], frontend), targets, COARSE[:1])
    assert result.specificity == 1.0
    results = evaluate(classifier, toy.validation, toy.targets, COARSE)
    assert min(result.metric for result in results) > 0.9


def test_a_run_over_backgrounds_resumes_to_the_same_weights_and_no_other_is_its_own(toy: Toy, tmp_path: Path) -> None:
    spec = toy.spec.model_copy(update={"nothing_class": True})
    straight = with_background(toy, tmp_path / "straight", spec)
    list(toy.steps(straight))
    broken = with_background(toy, tmp_path / "broken", spec)
    for progress in toy.steps(broken):
        if progress.number == 3:
            broken.stop()
    again = with_background(toy, tmp_path / "broken", spec)
    again.resume()
    list(toy.steps(again))
    assert same_weights(straight.model, again.model)
    without = toy.trainer(tmp_path / "broken", spec=spec, patches=COARSE)
    with pytest.raises(ModelError, match="the background"):
        without.resume()


@pytest.mark.parametrize("knows", [False, True])
def test_a_teacher_is_asked_of_labelled_clips_only(toy: Toy, tmp_path: Path, knows: bool) -> None:
    ours = toy.spec.model_copy(update={"nothing_class": True})
    model = load_model(random_checkpoint(ours if knows else toy.spec, 1))
    trainer = toy.trainer(
        tmp_path, spec=ours, start=random_checkpoint(ours, 2), teachers=[model], distill=Distill(teacher_weight=0.7)
    )
    features, target = features_of(ours), torch.from_numpy(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])
    patch = PatchSize(20, 30)
    logits, answers = trainer.model.train()(features, patch), model(features, ours.base_patch)
    if not knows:  # sure that one of its labels sounds
        answers = torch.cat((answers, torch.full((6, 1), -1e3)), dim=1)
    by_labels = label_loss(logits, target, "single", 0.1)
    taught = 0.3 * by_labels + 0.7 * distillation_loss(logits, answers, "single", 1.0)
    expected = torch.where(target[:, 2] > 0, by_labels, taught)
    torch.testing.assert_close(trainer._loss(features, target, patch), expected)


def test_a_teacher_that_knows_nothing_teaches_a_student_without_it(toy: Toy) -> None:
    theirs = toy.spec.model_copy(update={"nothing_class": True})
    model = load_model(random_checkpoint(theirs, 1))
    features = features_of(toy.spec)
    expected = model(features, toy.spec.base_patch)[:, :2]
    torch.testing.assert_close(Teacher(model, toy.spec, None)(features), expected)


@pytest.mark.parametrize("measured", [False, True])
def test_of_equal_measurements_a_fitted_start_stays_and_else_the_later_counts(
    toy: Toy, tmp_path: Path, measured: bool
) -> None:
    trainer = toy.trainer(tmp_path, start=random_checkpoint(toy.spec, 1), measure_start=measured)
    found = [trainer._update_best([SimpleNamespace(merit=merit)]) for merit in (0.5, 0.5, 0.25, 0.75)]  # type: ignore[list-item]
    assert found == [True, not measured, False, True]
