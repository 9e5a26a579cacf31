"""Which shipped model a run starts from."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import pytest
from rich.console import Console

from flexiast.checkpoint import Checkpoint
from flexiast.data.targets import LabelTargets
from flexiast.data.waveforms import Waveforms
from flexiast.errors import UsageError
from flexiast.spec import PRESETS, FrontendSpec, Spec
from flexiast.training.batches import LogMels
from flexiast.training.recipe import Augment, ModelConfig, Recipe, Training
from flexiast_cli.commands.train import start as module
from flexiast_cli.commands.train.prepare import _settle
from flexiast_cli.commands.train.start import Start, choose_start, is_timbre_task, list_candidates, spec_from
from flexiast_runtime.catalog import list_shipped


@pytest.mark.parametrize(
    ("figures", "clips", "chosen"),
    [
        ({"commands": 0.80, "sounds": 0.82}, 1000, "commands"),  # `sounds` is not for commercial use
        ({"commands": 0.80, "sounds": 0.90}, 1000, "sounds"),
        ({"commands": 20 / 22, "sounds": 22 / 22}, 22, "commands"),
        ({"commands": 19 / 22, "sounds": 22 / 22}, 22, "sounds"),
        ({"commands": 0.80, "commands-ar": 0.82}, 22, "commands-ar"),
        ({}, 22, None),
    ],
)
def test_the_best_start_is_taken_unless_its_licence_costs_more_than_it_brings(
    figures: dict[str, float],
    clips: int,
    chosen: str | None,
    build_spec: Callable[..., Spec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "compare_starts", lambda *_: figures)
    spec, output = build_spec(), io.StringIO()
    candidates = {name: Checkpoint(spec, {}) for name in ("commands", "commands-ar", "sounds")}
    waveforms = Waveforms((), 16_000, ())
    targets = LabelTargets.from_lists([[0]] * clips, 2)
    found = choose_start(candidates, Recipe(), spec, waveforms, targets, Console(file=output))
    assert (found and found.name) == chosen
    if chosen == "sounds":
        assert "not for commercial use" in output.getvalue()


@pytest.mark.parametrize(("candidates", "name"), [(("convnet",), "convnet"), ((), None)])
def test_one_candidate_is_taken_and_none_is_none_without_a_comparison(
    candidates: tuple[str, ...], name: str | None, build_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compare_starts", lambda *_: pytest.fail("there is nothing to compare"))
    spec = build_spec(network=PRESETS["convnet"])
    starts = {each: Checkpoint(spec, {}) for each in candidates}
    waveforms, targets = Waveforms((), 16_000, ()), LabelTargets.from_lists([[0]] * 9, 2)
    found = choose_start(starts, Recipe(), spec, waveforms, targets, Console(quiet=True))
    assert (found and found.name) == name


def ask_timbre(
    average: float,
    start: Start,
    clips: int,
    spec: Spec,
    monkeypatch: pytest.MonkeyPatch,
    compared: dict[str, float] | None = None,
) -> tuple[bool, str]:
    """What is found, and what is said."""
    monkeypatch.setattr(module, "compare_statistics", lambda *_: average)
    monkeypatch.setattr(module, "compare_starts", lambda *_: compared or {})
    waveforms, output = Waveforms((), 16_000, ()), io.StringIO()
    log_mels, targets = LogMels(waveforms, spec.frontend, Augment()), LabelTargets.from_lists([[0]] * clips, 2)
    found = is_timbre_task(start, spec, waveforms, log_mels, targets, Console(file=output, width=800))
    return found, output.getvalue()


@pytest.mark.parametrize(
    ("average", "start", "clips", "expected"),
    [
        (0.91, 0.29, 100, True),
        (0.80, 0.70, 100, False),  # better, but with more than half of the errors
        (0.98, 0.95, 100, False),  # half of the errors, but not better by 5 points
        (18 / 20, 16 / 20, 20, False),  # two clips of twenty
        (19 / 20, 16 / 20, 20, True),
        (31 / 35, 27 / 35, 35, True),  # half of the errors exactly
        (1.00, 1.00, 100, False),
    ],
)
def test_timbre_separates_labels_where_the_average_spectrum_makes_half_of_the_errors(
    average: float,
    start: float,
    clips: int,
    expected: bool,
    build_spec: Callable[..., Spec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = build_spec()
    found, said = ask_timbre(average, Start("own", Checkpoint(spec, {}), start), clips, spec, monkeypatch)
    assert found is expected
    assert bool(said) is expected
    named = Start("own", Checkpoint(spec, {}))  # by --init, which was compared with no other
    assert ask_timbre(average, named, clips, spec, monkeypatch, {"own": start})[0] is expected
    assert not ask_timbre(average, named, clips, spec, monkeypatch)[0]  # it does not fit the run


def test_both_accuracies_and_both_causes_are_told_and_a_start_passes_timbre_on(
    build_spec: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = build_spec()
    _, said = ask_timbre(0.91, Start("own", Checkpoint(spec, {}), 0.29), 100, spec, monkeypatch)
    assert "accuracy 0.91 against 0.29" in said
    assert "record them all alike" in said
    voices = Start("voices", Checkpoint(spec, {}, {"by_timbre": True}), 1.0)
    found, said = ask_timbre(0.9, voices, 100, spec, monkeypatch)
    assert found
    assert "stay off" in said
    several = build_spec(task="multi")  # of which accuracy says nothing
    assert not ask_timbre(0.91, Start("own", Checkpoint(several, {}), 0.29), 100, several, monkeypatch)[0]


def test_a_run_inherits_the_licence_of_its_start(build_spec: Callable[..., Spec]) -> None:
    spec = build_spec()
    assert Start("sounds", Checkpoint(spec, {})).licence == "CC BY-NC 3.0, not for commercial use"
    inherited = Checkpoint(spec, {}, {"licence": "CC BY 4.0"})
    assert Start("sounds", inherited).licence == "CC BY 4.0"


def test_uneven_labels_are_drawn_equally_often_unless_told(build_spec: Callable[..., Spec]) -> None:
    output, spec = io.StringIO(), build_spec()
    uneven, even = (LabelTargets.from_lists([[0]] * high + [[1]] * 2, 2) for high in (16, 2))
    settle = partial(
        _settle, spec=spec, console=Console(file=output, width=200), fill=False, by_timbre=False, configured=False
    )
    assert settle(Recipe(), targets=uneven).training.balanced
    assert "high has 16 training clips, low 2: all labels are drawn equally often" in output.getvalue()
    assert not settle(Recipe(training=Training(balanced=False)), targets=uneven).training.balanced
    assert not settle(Recipe(), targets=even).training.balanced


@pytest.mark.parametrize("configured", [True, False])
def test_a_convnet_without_a_recipe_mixes_from_the_first_step(
    build_spec: Callable[..., Spec], configured: bool
) -> None:
    spec, targets = build_spec(network=PRESETS["convnet"]), LabelTargets.from_lists([[0], [1]] * 4, 2)
    recipe = _settle(Recipe(), spec, targets, Console(quiet=True), fill=False, by_timbre=False, configured=configured)
    assert (recipe.training.augment.mix_from == 0) is not configured


def test_every_shipped_model_of_the_runs_network_is_a_candidate() -> None:
    assert set(list_candidates(None, Recipe(), by_default=True)) == set(list_shipped())
    assert list_candidates(None, Recipe(), by_default=False) == {}
    assert list_candidates("none", Recipe(), by_default=True) == {}
    assert list(list_candidates("commands", Recipe(), by_default=True)) == ["commands"]
    assert list_candidates(None, Recipe(model=ModelConfig(size="tiny")), by_default=True) == {}
    assert PRESETS["tiny"] != PRESETS["nano"]


def test_a_start_with_pcen_lends_it_unless_the_recipe_says_otherwise_or_its_front_end_takes_levels_away(
    build_spec: Callable[..., Spec], build_frontend_spec: Callable[..., FrontendSpec]
) -> None:
    start = Checkpoint(build_spec(pcen=True), {})
    assert spec_from(Recipe(), build_spec(), start).pcen
    assert not spec_from(Recipe(model=ModelConfig(pcen=False)), build_spec(), start).pcen
    with pytest.raises(UsageError, match="choose one of them"):
        spec_from(Recipe(), build_spec(frontend=build_frontend_spec(remove_bin_means=True)), start)
