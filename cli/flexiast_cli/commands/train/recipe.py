"""The recipe of a run: a file or the defaults, overridden by options. Needs no torch, so mistakes are found at once."""

from __future__ import annotations

from pathlib import Path

from flexiast.spec import PRESETS, PatchSize
from flexiast.training.recipe import Recipe, parse_weighted_patches


def compose_recipe(
    config: Path | None,
    *,
    model: str | None,
    patch_sizes: str | None,
    base_patch: str | None,
    window_s: float | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
) -> Recipe:
    """Raises UsageError for a file or a value that cannot be used; options that are None change nothing."""
    recipe = Recipe.read(config) if config else Recipe()
    convolutional = model in PRESETS and PRESETS[model].kind == "convolutional"
    if config is None and patch_sizes is None and convolutional:  # a convnet has no sizes: any one will do
        patch_sizes = base_patch or "16"
    patches, weights = parse_weighted_patches(patch_sizes) if patch_sizes else (None, None)
    if patches is not None:  # the weights of a recipe belong to its own sizes
        recipe = Recipe(model=recipe.model, training=recipe.training.model_copy(update={"patch_weights": None}))
    return recipe.replace_fields(
        model={
            "size": model,
            "base_patch": None if base_patch is None else PatchSize.parse(base_patch),
            "window_s": window_s,
        },
        training={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "patches": patches,
            "patch_weights": weights,
        },
    )
