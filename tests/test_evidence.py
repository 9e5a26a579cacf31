"""The experiments' rivals differ in what they say and nothing else; the report is that of the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, UNSEEN
from benchmarks.evidence.report import ABOUT, DOCS, RESULTS, report
from benchmarks.evidence.variants import VARIANTS
from flexiast.model import FlexiAST
from flexiast.recipe import Recipe
from flexiast.spec import ALL_PATCHES, PatchSize, Spec
from flexiast.train import build_model

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
    kernel, _ = embedding.resized(PatchSize(size, size))
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


def test_results_name_their_command_machine_and_split() -> None:
    paths = sorted(RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        run = json.loads(path.read_text())
        assert run["experiment"] in EXPERIMENTS
        assert run["command"][:3] == ["-m", "benchmarks.evidence", "run"]
        assert {"seed", "split", "recipe", "versions", "machine", "git_revision", "wall_s"} <= run.keys()
        measured = {PatchSize.parse(result["patch_size"]) for result in run["results"]}
        assert set(ALL_PATCHES) <= measured
