"""What the baseline of `flexiast train` is right about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flexiast.data.targets import LabelTargets
from flexiast.spec import Spec
from flexiast.training.batches import LogMels
from flexiast.training.recipe import Augment
from flexiast_cli.commands.train.start import measure_baseline
from tests.cli.conftest import RATE_HZ, tone


def test_long_recordings_are_measured_where_they_sound(build_spec: Callable[..., Spec]) -> None:
    """A beep of a tenth of a second in a minute of fainter ones of any pitch, which tell nothing."""
    spec, rng = build_spec(98), np.random.default_rng(0)
    half_second = np.arange(RATE_HZ // 2) / RATE_HZ

    def record(hz: float, seed: int) -> np.ndarray:
        faint = [0.006 * np.sin(2 * np.pi * rng.uniform(400, 800) * half_second) for _ in range(120)]
        room = np.concatenate(faint) + 1e-4 * rng.standard_normal(60 * RATE_HZ)
        place = int(rng.integers(0, len(room) - RATE_HZ))
        room[place : place + RATE_HZ // 10] += tone(hz, 0.1, seed)
        return room.astype(np.float32)

    labels = [number % 2 for number in range(40)]
    clips = [record((500.0, 700.0)[label], number) for number, label in enumerate(labels)]
    targets = LabelTargets.from_lists([[label] for label in labels], 2)
    train, val = slice(0, 20), slice(20, 40)
    log_mels = LogMels(clips[train], spec.frontend, Augment())
    found = measure_baseline(spec, log_mels, targets.take(np.arange(20)), clips[val], targets[:][val])
    assert found >= 0.9  # of the whole minutes 0.6, by chance 0.5
