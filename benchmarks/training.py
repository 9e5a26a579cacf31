"""Tokens trained per second of CPU: all ten sizes mixed against 16 × 16 alone, batches of constant tokens or clips.

python -m benchmarks.training tiny
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.measure import heading
from flexiast.spec import ALL_PATCHES, PRESETS, FrontendSpec, PatchSize
from flexiast.training.batches import LogMels
from flexiast.training.recipe import Augment, Recipe
from flexiast.training.trainer import Trainer, make_spec

CLIPS, STEPS, SECONDS, CLASSES = 512, 40, 5, 50


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("size", nargs="?", choices=("pico", "nano", "tiny", "small"), default="nano")
    size = parser.parse_args().size
    torch.set_num_threads(1)
    heading(f"Training {size} on {SECONDS} s windows, {STEPS} steps each, batches prepared in the same process")
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(scale=0.1, size=16_000 * SECONDS).astype(np.float32) for _ in range(CLIPS)]
    frontend = FrontendSpec(window_samples=16_000 * SECONDS, mean=0.0, std=1.0)
    log_mels = LogMels(waveforms, frontend, Augment(speed=0.0))
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(CLASSES, size=CLIPS)]
    rates = {}
    for name, patches, growth in (
        ("16 x 16 alone", (PatchSize(16, 16),), 0.0),
        ("mixed, constant tokens", ALL_PATCHES, 1.0),
        ("mixed, constant clips", ALL_PATCHES, 0.0),
    ):
        training = {"patches": patches, "batch_growth": growth, "batch_size": 16, "base_first": 0.0, "epochs": 99}
        recipe = Recipe().replace_fields(model={}, training=training)
        spec = make_spec(
            frontend,
            log_mels,
            trained_patches=patches,
            network=PRESETS[size],
            task="single",
            labels=tuple(map(str, range(CLASSES))),
        )
        with tempfile.TemporaryDirectory() as run:
            rates[name] = _rate(Trainer(Path(run), spec, recipe, log_mels, targets))
    for name, (rate, share) in rates.items():
        ratio = rate / rates["16 x 16 alone"][0]
        print(f"{name:24} {rate:8,.0f} tokens/s  {ratio:.2f}  ({100 * share:.0f} % of the time prepares batches)")


def _rate(trainer: Trainer) -> tuple[float, float]:
    """Tokens per CPU second, and the share of the time that preparing took; every size is trained equally often."""
    tokens, preparing = 0, 0.0
    sizes = trainer.recipe.training.patches
    alike = [[step for step in trainer.plan if step.patch == patch] for patch in sizes]
    first = [steps[0] for steps in alike]  # its matrices and its memory are made once a run, so it is not measured
    measured = [step for steps in alike for step in steps[1 : 1 + STEPS // len(sizes)]]
    cast(Any, trainer).plan = (*first, *measured)
    batches = iter(trainer._batches(0))
    for _ in first:
        trainer._train_step(*next(batches))
        trainer.step += 1
    begun = time.process_time()
    for step in measured:
        before = time.process_time()
        features, target = next(batches)
        preparing += time.process_time() - before
        trainer._train_step(features, target)
        tokens += len(features) * trainer.spec.tokens(step.patch)
        trainer.step += 1
    spent = time.process_time() - begun
    return tokens / spent, preparing / spent


if __name__ == "__main__":
    main()
