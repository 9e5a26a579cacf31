"""Every experiment by name: a task, a recipe that differs in one thing, and what that thing is."""

from __future__ import annotations

from dataclasses import dataclass

from flexiast.spec import ALL_PATCHES, PatchSize, parse_patches
from flexiast.training.recipe import Augment, Distill, ModelConfig, Recipe
from flexiast.training.sampling import BASE_FIRST

UNSEEN = parse_patches("4,6,14,18,22,28,36,44,56,64")
"""Sizes that no run trains."""


@dataclass(frozen=True)
class Task:
    """A data set as the experiments use it; figures are comparable within a task only."""

    csv: str
    classes: int
    epochs: int
    window_s: float
    max_tokens: int | None = None
    remove_bin_means: bool = False
    speed: float = 0.12
    """Of the augmentation; none where pitch is what is asked for."""


TASKS = {
    "commands": Task("commands/metadata.csv", classes=40, epochs=30, window_s=1.0),
    "speakers": Task("speakers/metadata.csv", classes=300, epochs=40, window_s=1.0, remove_bin_means=True, speed=0.0),
    "esc50": Task("esc50/metadata.csv", classes=50, epochs=50, window_s=5.0, max_tokens=128),
}


TEACHER_WEIGHT = 0.9
IN_PLACE = Distill(teacher_weight=TEACHER_WEIGHT, in_place_weight=1.0)

FIXED = (8, 16, 32)
"""Sizes that a fixed model is trained at; in frames, where patches vary in time alone."""


@dataclass(frozen=True)
class Experiment:
    """One run, apart from its fold and its seed."""

    task: str
    name: str
    recipe: Recipe
    variant: str | None = None
    """Of the patch embedding: one of ``variants.VARIANTS``."""
    taught: bool = True
    """By the convolutional teacher that the command line names."""
    masked_start: bool = False
    """Whether the network is first trained, on the same clips and for as long, to say what a mask hides."""
    also: tuple[PatchSize, ...] = ()
    """Sizes to measure besides."""

    @property
    def key(self) -> str:
        return f"{self.task}/{self.name}"

    @property
    def measured(self) -> tuple[PatchSize, ...]:
        """Sizes to evaluate: the ten of the paper, those of the run and its rivals, and those that no run trains."""
        return tuple(dict.fromkeys((*ALL_PATCHES, *self.recipe.training.patches, *self.also, *UNSEEN)))


def _recipe(task: Task, **training: object) -> Recipe:
    shape = ModelConfig(size="pico", window_s=task.window_s, remove_bin_means=task.remove_bin_means)
    alike = {
        "epochs": task.epochs,
        "evaluations": 1,
        "max_tokens": task.max_tokens,
        "augment": Augment(speed=task.speed, mix_share=0.5, mix_from=0.1),
        "distill": Distill(teacher_weight=TEACHER_WEIGHT),
    }
    return Recipe(model=shape).replace_fields(model={}, training=alike | training)


def _experiments() -> dict[str, Experiment]:
    found = []
    for name, task in TASKS.items():
        flexible = _recipe(task)
        in_place = _recipe(task, distill=IN_PLACE)
        finer = tuple(3.0 if patch.mels <= 16 else 1.0 for patch in ALL_PATCHES)
        coarser = tuple(3.0 if patch.mels >= 40 else 2.0 if patch.mels >= 30 else 1.0 for patch in ALL_PATCHES)
        found += [
            Experiment(name, "flexible", flexible),
            *(Experiment(name, f"fixed-{size}", _recipe(task, patches=parse_patches(str(size)))) for size in FIXED),
            *(Experiment(name, variant, flexible, variant) for variant in ("bilinear", "stretched", "cropped")),
            Experiment(name, "base-32", flexible.replace_fields(model={"base_patch": PatchSize(32, 32)}, training={})),
            Experiment(name, "all-at-once", _recipe(task, base_first=0.0)),
            Experiment(name, "constant-tokens", _recipe(task, batch_growth=1.0)),
            Experiment(name, "finer-often", _recipe(task, patch_weights=finer)),
            Experiment(name, "coarser-often", _recipe(task, patch_weights=coarser)),
            Experiment(name, "few-sizes", _recipe(task, patches=parse_patches("8,16,32,48"))),
            Experiment(name, "in-place", in_place),
            Experiment(name, "untaught", flexible, taught=False),
            Experiment(name, "masked-start", _recipe(task, base_first=BASE_FIRST), masked_start=True),
            Experiment(
                name,
                "masked-in-place",
                in_place.replace_fields(model={}, training={"base_first": BASE_FIRST}),
                masked_start=True,
            ),
            Experiment(name, "twice-as-long", _recipe(task, epochs=2 * task.epochs)),
            Experiment(name, "twice-in-place", in_place.replace_fields(model={}, training={"epochs": 2 * task.epochs})),
        ]
    found += _rectangular(TASKS["speakers"])
    return {experiment.key: experiment for experiment in found}


def _rectangular(task: Task) -> list[Experiment]:
    """Speakers at sizes that vary along one axis: pitch is told apart by mel bins that stand close."""
    along_time = tuple(PatchSize(16, patch.frames) for patch in ALL_PATCHES)
    along_mel = tuple(PatchSize(patch.mels, 16) for patch in ALL_PATCHES)
    fixed = [PatchSize(16, 8), PatchSize(16, 32)]
    return [
        Experiment("speakers", "time-only", _recipe(task, patches=along_time)),
        Experiment("speakers", "time-only-in-place", _recipe(task, patches=along_time, distill=IN_PLACE)),
        Experiment(
            "speakers",
            "time-only-twice-in-place",
            _recipe(task, patches=along_time, distill=IN_PLACE, epochs=2 * task.epochs),
        ),
        *(
            Experiment("speakers", f"fixed-{patch}", _recipe(task, patches=(patch,)), also=along_time)
            for patch in fixed
        ),
        Experiment("speakers", "mel-only", _recipe(task, patches=along_mel)),
    ]


EXPERIMENTS = _experiments()
