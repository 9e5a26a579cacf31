"""The lines that a run writes into a log."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from flexiast.evaluation.evaluate import PatchResult
from flexiast.spec import PatchSize, Spec
from flexiast.training.trainer import Progress
from flexiast_cli.commands.train.progress import follow


def test_a_measurement_and_its_losses_are_a_line_each_however_narrow(build_spec: Callable[..., Spec]) -> None:
    patches = [PatchSize(size, size) for size in range(8, 80, 4)]
    results = [PatchResult(patch_size=patch, tokens=1, gmac=1.0, accuracy=0.5) for patch in patches]

    def steps() -> Iterator[Progress]:
        for number, patch in enumerate(patches, 1):
            yield Progress(number, len(patches), patch, 0.5, results if number == len(patches) else None)

    spec = build_spec(task="single", labels=("bark", "clap"))
    trainer: Any = SimpleNamespace(step=0, total=len(patches), spec=spec)
    log = io.StringIO()
    assert follow(trainer, steps(), 40, Console(file=cast(Any, log), width=80), started=False) == results
    measured, losses = log.getvalue().splitlines()
    assert measured.startswith(f"step {len(patches)}/{len(patches)}  mean 0.50")
    assert losses.startswith("  loss ")
    assert all(str(patch) in measured and str(patch) in losses for patch in patches)


@pytest.mark.parametrize(("started", "advice"), [(False, "start from a model"), (True, "start from another model")])
def test_a_run_that_answers_one_label_is_told_what_it_has_not_tried(
    build_spec: Callable[..., Spec], started: bool, advice: str
) -> None:
    patch, spec, log = PatchSize(16, 16), build_spec(task="single", labels=("bark", "clap")), io.StringIO()
    result = PatchResult(patch_size=patch, tokens=1, gmac=1.0, accuracy=0.5, repeated_answer="bark")
    trainer: Any = SimpleNamespace(step=0, total=2, spec=spec)
    steps = [Progress(number, 2, patch, 0.5, [result]) for number in (1, 2)]
    follow(trainer, steps, 40, Console(file=cast(Any, log)), started=started)
    assert log.getvalue().count("Every size answers 'bark'") == 1
    assert advice in log.getvalue()
