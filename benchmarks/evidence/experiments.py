"""Every experiment by name: a task, a recipe that differs in one thing, and what that thing is."""

from __future__ import annotations

from dataclasses import dataclass

from flexiast.recipe import Distill, Recipe, Shape
from flexiast.spec import ALL_PATCHES, PatchSize, parse_patches

UNSEEN = parse_patches("4,6,14,18,22,28,36,44,56,64")
"""Sizes that no run trains."""


@dataclass(frozen=True)
class Task:
    """A data set as the experiments use it; figures are comparable within a task only."""

    csv: str
    epochs: int
    window_s: float
    remove_bin_means: bool = False


TASKS = {
    "commands": Task("commands/metadata.csv", epochs=16, window_s=1.0),
    "speakers": Task("speakers/metadata.csv", epochs=60, window_s=1.0, remove_bin_means=True),
    "esc50": Task("esc50/metadata.csv", epochs=100, window_s=5.0),
}


@dataclass(frozen=True)
class Experiment:
    """One run, apart from its fold and its seed."""

    task: str
    name: str
    recipe: Recipe
    variant: str | None = None
    """Of the patch embedding: one of ``variants.VARIANTS``."""

    @property
    def key(self) -> str:
        return f"{self.task}/{self.name}"

    @property
    def measured(self) -> tuple[PatchSize, ...]:
        """Sizes to evaluate: the ten of the paper, those of the run, and those that no run trains."""
        return tuple(dict.fromkeys((*ALL_PATCHES, *self.recipe.training.patches, *UNSEEN)))


def _recipe(task: Task, **training: object) -> Recipe:
    shape = Shape(window_s=task.window_s, remove_bin_means=task.remove_bin_means)
    return Recipe(model=shape).changed(model={}, training={"epochs": task.epochs, "evaluations": 1} | training)


def _experiments() -> dict[str, Experiment]:
    found = []
    for name, task in TASKS.items():
        flexible = _recipe(task)
        found += [
            Experiment(name, "flexible", flexible),
            *(
                Experiment(name, f"fixed-{size}", _recipe(task, patches=parse_patches(str(size))))
                for size in (8, 16, 32)
            ),
            *(Experiment(name, variant, flexible, variant) for variant in ("bilinear", "stretched", "cropped")),
            Experiment(name, "base-32", flexible.changed(model={"base_patch": PatchSize(32, 32)}, training={})),
            Experiment(name, "all-at-once", _recipe(task, coarse_first=False)),
            Experiment(name, "constant-tokens", _recipe(task, batch_growth=1.0)),
            Experiment(name, "in-place", _recipe(task, distill=Distill(in_place_weight=1.0))),
            Experiment(name, "few-sizes", _recipe(task, patches=parse_patches("8,16,32,48"))),
        ]
    task = TASKS["speakers"]
    sizes = [patch.mels for patch in ALL_PATCHES]
    found += [
        Experiment("speakers", "time-only", _recipe(task, patches=tuple(PatchSize(16, size) for size in sizes))),
        Experiment("speakers", "mel-only", _recipe(task, patches=tuple(PatchSize(size, 16) for size in sizes))),
    ]
    return {experiment.key: experiment for experiment in found}


EXPERIMENTS = _experiments()
