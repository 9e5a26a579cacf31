"""Recipes: what is read is what was written, and what cannot be is refused with its file and field."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexiast.errors import UsageError
from flexiast.spec import ALL_PATCHES, MAX_TOKENS, PRESETS, NetworkSpec, PatchSize, ResizeSpec, Spec
from flexiast.training.recipe import Augment, Distill, ModelConfig, Recipe, Training, parse_weighted_patches
from tests.conftest import REPOSITORY

WHOLE = """
[model]
size = "tiny"
base_patch = "16x8"
window_s = 2          # an integer will do for a number
remove_bin_means = true
resize = { kernel = "cubic", antialias = false }

[training]
epochs = 7
patches = [8, "16x32"]
patch_weights = [1.5, 3]
max_tokens = 100

[training.augment]
masks = 2

[training.distill]
teacher_patch = 12
temperature = 2.0
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# ----- reading


def test_what_a_recipe_says_is_read_and_all_else_is_the_default(write: Callable[[str], Path]) -> None:
    recipe = Recipe.read(write(WHOLE))
    assert recipe.model == ModelConfig(
        size="tiny",
        base_patch=PatchSize(16, 8),
        window_s=2.0,
        remove_bin_means=True,
        resize=ResizeSpec(kernel="cubic", antialias=False),
    )
    assert recipe.training == Training(
        epochs=7,
        patches=(PatchSize(8, 8), PatchSize(16, 32)),
        patch_weights=(1.5, 3.0),
        max_tokens=100,
        augment=Augment(masks=2),
        distill=Distill(teacher_patch=PatchSize(12, 12), temperature=2.0),
    )


def test_an_empty_recipe_is_the_default_one(write: Callable[[str], Path]) -> None:
    assert Recipe.read(write("")) == Recipe()
    assert Recipe().training.patches == ALL_PATCHES


SHIPPED = sorted(path.name for path in (REPOSITORY / "recipes").glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_can_be_read(name: str) -> None:
    recipe = Recipe.read(REPOSITORY / "recipes" / name)
    assert recipe != Recipe()  # one that says nothing has lost its tables


PATCHES = st.builds(PatchSize, st.integers(1, 9999), st.integers(1, 9999))
AUGMENTS = st.builds(Augment, speed=st.floats(0, 0.49), gain_db=st.floats(0, 40), masks=st.integers(0, 8))
DISTILLS = st.builds(Distill, teacher_patch=st.none() | PATCHES, temperature=st.floats(0.01, 20))
TRAININGS = st.builds(
    Training,
    epochs=st.none() | st.integers(1, 10**6),
    learning_rate=st.floats(1e-9, 1e9),
    seed=st.integers(0, 2**32 - 1),
    patches=st.lists(PATCHES, min_size=1, max_size=6, unique=True).map(tuple),
    augment=AUGMENTS,
    distill=DISTILLS,
)
SHAPES = st.builds(ModelConfig, size=st.none() | st.sampled_from(sorted(PRESETS)), base_patch=st.none() | PATCHES)


@given(st.builds(Recipe, model=SHAPES, training=TRAININGS))
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nepoch = 3", ("training.epoch", "Extra inputs", "3")),
        ("[model]\nwidth = 128", ("model.width", "Extra inputs")),
        ("[train]\nepochs = 3", ("train:", "Extra inputs")),
        ("[training.augment]\nnoise = 1", ("training.augment.noise", "Extra inputs")),
        ("[training]\nepochs = 2.5", ("training.epochs", "2.5")),
        ('[training]\nbatch_size = "64"', ("training.batch_size", "'64'")),
        ("[training]\nbalanced = 1", ("training.balanced", "boolean")),
        ("[training]\nepochs = 0", ("training.epochs", "greater than or equal to 1")),
        ("[training]\nlearning_rate = inf", ("training.learning_rate", "finite")),
        ("[training]\nlearning_rate = nan", ("training.learning_rate",)),
        ("[training]\nseed = 4294967296", ("training.seed", "4294967296")),
        ("[training]\nseed = 2026-01-01", ("training.seed", "2026-01-01")),
        ("[training]\npatches = []", ("training.patches",)),
        ('[training]\npatches = ["16", "big"]', ("training.patches.1", "big", "16x32")),
        ("[training]\npatches = [8, 16]\npatch_weights = [1.0]", ("training", "2 numbers above 0")),
        ("[training]\npatches = [8, 16]\npatch_weights = [1.0, 0.0]", ("training", "2 numbers above 0")),
        ("[training.augment]\nspeed = 0.5", ("training.augment.speed", "0.5")),
        ("[training.distill]\ntemperature = 0", ("training.distill.temperature",)),
        ('[model]\nsize = "huge"', ("model", "'huge' is unknown", "nano, tiny")),
        ("[model]\nwindow_s = -1", ("model.window_s", "-1")),
        ("training = 3", ("training", "given 3")),
        ("[training\nepochs = 3", ("TOML", "line 1")),
        ("[training]\nepochs = 3\nepochs = 4", ("TOML", "overwrite a value")),
    ],
)
def test_what_cannot_be_is_refused_with_its_file_and_field(
    write: Callable[[str], Path], text: str, words: tuple[str, ...]
) -> None:
    path = write(text)
    with pytest.raises(UsageError) as refused:
        Recipe.read(path)
    assert str(path) in str(refused.value)
    assert [word for word in words if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"[training]\nepochs = \xff"], ids=["no file", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.toml cannot be read as a recipe"):
        Recipe.read(path)


def test_a_recipe_is_read_without_torch(write: Callable[[str], Path]) -> None:
    code = "import sys; sys.modules['torch'] = None; from pathlib import Path; "
    code += "from flexiast.training.recipe import Recipe"
    code += f"; print(Recipe.read(Path({str(write(WHOLE))!r})).training.epochs)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "7\n"


# ----- changing


def test_only_what_is_given_changes() -> None:
    recipe = Recipe(training=Training(epochs=3, seed=5), model=ModelConfig(size="tiny"))
    same: dict[str, Any] = {"epochs": None, "seed": None}
    assert recipe.replace_fields(model={"size": None}, training=same) == recipe
    changed = recipe.replace_fields(model={"size": "small"}, training=same | {"epochs": 9})
    assert changed == Recipe(training=Training(epochs=9, seed=5), model=ModelConfig(size="small"))
    assert recipe.training.epochs == 3


@pytest.mark.parametrize(
    ("model", "training", "word"),
    [
        ({"size": "huge"}, {}, "huge"),
        ({"window_s": float("nan")}, {}, "window_s"),
        ({}, {"epochs": 0}, "epochs"),
        ({}, {"learning_rate": 0.0}, "learning_rate"),
        ({}, {"patch_weights": (1.0,)}, "10 numbers"),
    ],
)
def test_a_change_to_what_cannot_be_is_refused(model: dict[str, Any], training: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Recipe().replace_fields(model=model, training=training)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().training.epochs = 3  # type: ignore[misc]


# ----- patch sizes that fit


@given(st.integers(1, 6_000))
def test_default_sizes_are_those_that_fit_the_window(build_spec: Callable[..., Spec], frames: int) -> None:
    spec = build_spec(frames)
    fitted = Recipe().replace_fields(model={"size": "pico"}, training={"epochs": 3}).training.fit_to_window(spec)
    fitting = tuple(patch for patch in ALL_PATCHES if patch.frames <= frames and spec.tokens(patch) <= MAX_TOKENS)
    assert fitted.patches == (fitting or ALL_PATCHES)  # where none fits, all are refused
    assert fitted.model_copy(update={"patches": ALL_PATCHES}) == Training(epochs=3)


def test_sizes_that_were_told_stay_though_they_do_not_fit(build_spec: Callable[..., Spec]) -> None:
    for told in ({"patches": ALL_PATCHES}, {"patch_weights": tuple(range(1, 11))}):
        training = Recipe().replace_fields(model={}, training=told | {"epochs": 3}).training
        assert training.fit_to_window(build_spec(30)).patches == ALL_PATCHES


# ----- the model's shape


def test_a_shape_that_says_nothing_is_that_of_the_start(build_spec: Callable[..., Spec]) -> None:
    start = build_spec(base_patch=PatchSize(16, 8), resize=ResizeSpec(kernel="cubic"))
    fields = ModelConfig().fields(start)
    assert fields == {
        "network": start.network,
        "base_patch": PatchSize(16, 8),
        "pcen": False,
        "resize": ResizeSpec(kernel="cubic"),
    }
    assert ModelConfig().fields(build_spec(pcen=True))["pcen"] is True
    assert ModelConfig().fields(None) == {
        "network": PRESETS["nano"],
        "base_patch": PatchSize(16, 16),
        "pcen": False,
        "resize": ResizeSpec(),
    }


def test_what_a_shape_says_goes_before_the_start(build_spec: Callable[..., Spec]) -> None:
    start = build_spec(network=NetworkSpec(width=32, depth=2, heads=2), resize=ResizeSpec(antialias=False))
    said = {"network": PRESETS["small"], "base_patch": PatchSize(8, 8), "pcen": False, "resize": ResizeSpec()}
    shape = ModelConfig(size="small", base_patch=PatchSize(8, 8), resize=ResizeSpec())
    assert shape.fields(start) == shape.fields(None) == said


@given(st.integers(400, 10**6))
def test_the_window_is_the_median_clip_unless_told_or_clips_are_recordings(samples: int) -> None:
    expected = samples if samples <= 160_000 else 80_000  # 10 s; 5 s
    assert ModelConfig().frontend(16_000, float(samples)).window_samples == expected
    told = ModelConfig(window_s=samples / 16_000, remove_bin_means=True).frontend(16_000, 1.0)
    assert (told.window_samples, told.remove_bin_means) == (samples, True)


def test_a_window_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.001 s \(16 samples\) is shorter than one frame of 400 samples"):
        ModelConfig(window_s=0.001).frontend(16_000, 16_000.0)
    with pytest.raises(UsageError, match="the median clip, 399 samples"):
        ModelConfig().frontend(16_000, 399.0)
    assert ModelConfig().frontend(16_000, 400.0).window_frames == 1


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        Recipe().replace_fields(model={"size": "foo"}, training={})
    assert str(refused.value).startswith("size 'foo' is unknown; choose one of pico, nano,")


# ----- what is filled in


@pytest.mark.parametrize("told", [{}, {"mix_share": 0.1}, {"mix_from": 0.9, "masks": 0}])
def test_a_convnet_mixes_from_the_first_step_unless_told(told: dict[str, float]) -> None:
    training = Training(augment=Augment.validate_fields(**told)).fill_for_convnet()
    expected = Augment().model_dump() | {"mix_share": 0.5, "mix_from": 0.0} | told
    assert training.augment.model_dump() == expected


def test_recipes_of_students_say_what_a_teacher_counts() -> None:
    """So that no default moves the recipes of shipped models."""
    taught = [path for path in (REPOSITORY / "recipes").glob("*.toml") if "--teacher runs" in path.read_text("utf-8")]
    assert len(taught) >= 8
    for path in taught:
        assert "teacher_weight" in Recipe.read(path).training.distill.model_fields_set, path.name


# ----- sizes with weights on the command line

WEIGHTS = st.floats(1e-3, 1e3)


@given(st.dictionaries(PATCHES, WEIGHTS, min_size=1, max_size=8))
def test_weighted_sizes_are_read_as_they_are_written(weighted: dict[PatchSize, float]) -> None:
    text = ",".join(f"{patch}:{weight!r}" for patch, weight in weighted.items())
    assert parse_weighted_patches(text) == (tuple(weighted), tuple(weighted.values()))
    without = ",".join(map(str, weighted))
    assert parse_weighted_patches(without) == (tuple(weighted), None)


def test_a_size_without_a_weight_beside_one_with_it_weighs_one() -> None:
    patches = (PatchSize(8, 8), PatchSize(16, 32), PatchSize(12, 12))
    assert parse_weighted_patches("8,16x32:2.5,12") == (patches, (1.0, 2.5, 1.0))


def test_a_size_that_is_named_twice_counts_once() -> None:
    assert parse_weighted_patches("8:2,16,8x8:2") == ((PatchSize(8, 8), PatchSize(16, 16)), (2.0, 1.0))
    with pytest.raises(UsageError, match="8 has two weights, 2 and 5"):
        parse_weighted_patches("8:2,16,8x8:5")


@pytest.mark.parametrize("text", ["", "16:", "16:0", "16:-1", "16:inf", "16:nan", "16:a", "16:1:2", ":2", "8,,16"])
def test_a_weight_that_is_no_number_above_0_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a patch size"):
        parse_weighted_patches(text)
