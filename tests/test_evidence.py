"""The experiments' rivals differ in what they say and nothing else; the report is that of the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from benchmarks.evidence.bars import bars
from benchmarks.evidence.curves import read_curves
from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, UNSEEN
from benchmarks.evidence.masked import Masked, masked_start
from benchmarks.evidence.report import ABOUT, DOCS, RESULTS, report
from benchmarks.evidence.sounds import measure
from benchmarks.evidence.variants import VARIANTS
from flexiast.model import FlexiAST
from flexiast.networks import build_model
from flexiast.spec import ALL_PATCHES, PatchSize, Spec
from flexiast.training.batches import LogMels
from flexiast.training.recipe import Augment, Recipe, Training
from flexiast.training.transfer import transfer_weights
from flexiast_cli.app import app

BASE = PatchSize(16, 16)


def models(spec: Spec, variant: str) -> tuple[FlexiAST, FlexiAST]:
    """The model and its rival, from one seed."""
    found = []
    for build in (build_model, VARIANTS[variant]):
        torch.manual_seed(0)
        found.append(build(spec).eval())
        torch.nn.init.normal_(found[-1].head.weight)  # a head of zeros hides every difference
    return found[0], found[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rivals_agree_at_the_base_size_and_differ_elsewhere(build_spec: Callable[..., Spec], variant: str) -> None:
    spec = build_spec(128)  # divided by 16, so nothing is cropped, padded or stretched
    ours, rival = models(spec, variant)
    features = torch.randn(2, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(rival(features, BASE), ours(features, BASE))
        other = PatchSize(20, 20)
        assert not torch.allclose(rival(features, other), ours(features, other), atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rivals_leave_the_generator_where_the_model_does(build_spec: Callable[..., Spec], variant: str) -> None:
    after = []
    for build in (build_model, VARIANTS[variant]):
        torch.manual_seed(0)
        build(build_spec(128))
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize("size", [8, 24, 48])
def test_the_bilinear_kernel_is_an_image_resized(build_spec: Callable[..., Spec], size: int) -> None:
    embedding = VARIANTS["bilinear"](build_spec(128)).embedding
    kernel, _ = embedding.resize(PatchSize(size, size))
    expected = F.interpolate(embedding.kernel[None], size=(size, size), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(kernel, expected, atol=1e-5, rtol=0)  # float32 against float64 weights


def test_cropping_does_not_hear_what_a_patch_does_not_divide(build_spec: Callable[..., Spec]) -> None:
    _, rival = models(build_spec(98), "cropped")
    features = torch.randn(1, 98, 128)
    changed = features.clone()
    changed[:, 96:], changed[:, :, 96:] = 5.0, 5.0
    patch = PatchSize(48, 48)
    with torch.no_grad():
        assert torch.equal(rival(features, patch), rival(changed, patch))


def test_every_experiment_says_what_it_is() -> None:
    for key, experiment in EXPERIMENTS.items():
        assert key == f"{experiment.task}/{experiment.name}"
        assert experiment.task in TASKS
        assert experiment.name in ABOUT
        assert experiment.variant is None or experiment.variant in VARIANTS
        assert not set(UNSEEN) & set(experiment.recipe.training.patches)
        assert Recipe.model_validate_json(experiment.recipe.model_dump_json()) == experiment.recipe


def test_the_results_page_is_what_the_results_say(tmp_path: Path) -> None:
    report(tmp_path, RESULTS)
    assert (tmp_path / "results.md").read_text() == (DOCS / "results.md").read_text()
    for plot in tmp_path.glob("*.png"):
        assert (DOCS / plot.name).is_file()


def run_of(name: str, seed: int, accuracy: float) -> dict[str, object]:
    """A run that is equally right at all sizes."""
    results = [{"patch_size": str(patch), "accuracy": accuracy, "gmac": 1.0} for patch in (*ALL_PATCHES, *UNSEEN)]
    return {"experiment": name, "split": "split column", "seed": seed, "results": results}


def test_models_are_held_against_those_of_their_own_fold_and_seed() -> None:
    runs = [
        ("flexible", 0, 0.7),
        ("flexible", 1, 0.9),
        ("fixed-16", 0, 0.6),
        ("fixed-8", 0, 0.71),
        ("fixed-8", 1, 0.95),
    ]
    curves = read_curves([run_of(*run) for run in runs])
    assert curves["flexible"].over(curves["fixed-16"], BASE) == [pytest.approx(10)]  # 0.9 has no rival
    assert curves["flexible"].mean[BASE] == pytest.approx(0.8)
    row = bars(curves, dict.fromkeys(curves, 10.0)).splitlines()[-1]
    assert row == "| flexible | -3.0 ± 2.8 | **+10.0** |  | **1.000** | **+0.0** at 14 | 10 | 20 |"


def test_results_name_their_command_machine_and_split() -> None:
    documents = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for document in documents.values():
        assert document["command"][:2] == ["-m", "benchmarks.evidence"]
        assert {"versions", "machine", "git_revision", "written"} <= document.keys()
    latency = documents.pop("latency")
    assert latency["cpu_ms"].keys() == TASKS.keys()
    runs = [document for name, document in documents.items() if not name.startswith("ensemble-")]
    assert runs
    for run in runs:
        assert run["experiment"] in EXPERIMENTS
        assert run["command"][2:4] == ["run", run["experiment"]]
        assert {"seed", "split", "recipe", "wall_s", "cpu_s"} <= run.keys()
        measured = {PatchSize.parse(result["patch_size"]) for result in run["results"]}
        assert set(ALL_PATCHES) <= measured


# ----- a start without labels


def masked(spec: Spec) -> Masked:
    torch.manual_seed(0)
    return Masked(FlexiAST(spec))


def test_what_is_asked_for_at_the_base_size_is_the_hidden_patch_normalised(build_spec: Callable[..., Spec]) -> None:
    patches = torch.randn(5, 256) * 3 + 1
    expected = F.layer_norm(patches, (256,))
    # layer_norm divides by the biased deviation, 0.2 % smaller, and adds 1e-5 where ours adds 1e-3 to 3
    torch.testing.assert_close(masked(build_spec(98))._at_base(patches, BASE), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [8, 24, 48])
def test_what_is_asked_for_at_another_size_is_an_image_resized(build_spec: Callable[..., Spec], size: int) -> None:
    patches = torch.randn(5, size * size)
    image = patches.unflatten(1, (1, size, size))
    resized = F.interpolate(image, size=tuple(BASE), mode="bilinear", antialias=True).flatten(1)
    expected = F.layer_norm(resized, (256,))
    found = masked(build_spec(98))._at_base(patches, PatchSize(size, size))
    torch.testing.assert_close(
        found, expected, atol=0.03, rtol=0
    )  # as above; a patch of 48 averages to a deviation of 0.3


def test_the_network_does_not_hear_what_is_hidden(
    build_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = masked(build_spec(96))
    monkeypatch.setattr(torch, "rand", torch.zeros)  # all are hidden
    heard = []
    model.model.blocks[0].register_forward_pre_hook(lambda _, tokens: heard.append(tokens[0]))
    for features in (torch.randn(2, 96, 128), torch.randn(2, 96, 128)):
        model(features, PatchSize(32, 32))
    assert torch.equal(*heard)


def test_a_masked_start_repeats_itself_and_is_a_start(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec(98)
    rng = np.random.default_rng(0)
    rows = np.sin(np.arange(16_000) * rng.uniform(0.05, 1.5, (12, 1))).astype(np.float32)
    augment = Augment(speed=0.0, shift=0.0)
    log_mels = LogMels(list(rows), spec.frontend, augment)
    training = Training(epochs=20, batch_size=12, patches=(BASE, PatchSize(32, 32)), augment=augment, base_first=0.0)
    start, again = (masked_start(spec, training, log_mels) for _ in range(2))
    assert start.spec.labels == ()
    weights = transfer_weights(start, spec)
    assert "head.weight" not in weights
    assert all(np.array_equal(again.weights[name], value) for name, value in start.weights.items())
    before, after = masked(spec), masked(spec)
    after.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    assert not torch.equal(before.model.embedding.kernel, after.model.embedding.kernel)


def test_a_run_of_flexiast_train_becomes_a_result(tmp_path: Path) -> None:
    folder = tmp_path / "esc50"
    folder.mkdir()
    rows = ["path,label,fold"]
    for number in range(12):
        name, label, fold = f"{number}.wav", ("low", "high")[number % 2], 1 + number // 6
        tone = np.sin(np.arange(10_000) * (0.2, 1.0)[number % 2])
        soundfile.write(folder / name, 0.1 * tone.astype(np.float32), 16_000)
        rows.append(f"{name},{label},{fold}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    command = ["train", folder / "metadata.csv", "-o", tmp_path / "run", "--model", "pico", "--epochs", "30"]
    options = ["--val-fold", "1", "--patch-sizes", "16,32", "--seed", "3"]
    assert CliRunner().invoke(app, [*map(str, command), *options]).exit_code == 0
    measure(tmp_path / "run", "nano", tmp_path, "1", tmp_path)
    document = json.loads((tmp_path / "sounds" / "nano-fold1-seed3.json").read_text())
    curve = read_curves([document])["sounds/nano"]
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["validation"]
    for result in kept:
        patch = PatchSize.parse(result["patch_size"])
        assert curve.mean[patch] == result["accuracy"]
    assert set(map(str, curve.mean)) == {f"{size}x{size}" for size in (8, 12, 16, 20, 24, 30, 32, 40, 48, 56)}
    assert document["steps"] == 30 * 1  # six clips make one step an epoch
