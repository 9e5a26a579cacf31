"""The progress of a run, on a terminal and in a log, and whether it learnt anything."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from rich import progress as rich

from flexiast.evaluation.evaluate import PatchResult
from flexiast.evaluation.per_label import wilson_interval
from flexiast.spec import Spec
from flexiast.training.trainer import Progress, Trainer
from flexiast_cli.terminal.console import count_noun

if TYPE_CHECKING:
    from rich.console import Console

LOSS_DECAY = 0.95
"""Weight of the past in the running mean of a size's losses, which is shown."""


TRAINED_GMAC_A_SECOND = {torch.float32: 8.0, torch.bfloat16: 13.0}
"""Of forward passes with their backward ones, on one core; AMD EPYC, 2026."""


def describe_duration(trainer: Trainer) -> str | None:
    """How many minutes a run may take on the cores of this machine; None for less than one, or on other machines."""
    cores = torch.get_num_threads()
    minutes = trainer.learning_gmac / (TRAINED_GMAC_A_SECOND[trainer.precision] * cores) / 60
    if minutes < 1 or trainer.world.ranks > 1 or trainer.world.device.type != "cpu":
        return None
    return f"{trainer.total:,} steps: up to about {minutes:,.0f} min on {count_noun(cores, 'core')}"


def print_baseline(metric: float, spec: Spec, clips: int, console: Console) -> None:
    """The first figure of a run, in the words of the others."""
    mean = format_mean(metric, spec, clips)
    console.print(f"baseline, logistic regression on log-mel statistics  mean {mean}", soft_wrap=True)


def follow(
    trainer: Trainer, steps: Iterable[Progress], clips: int, console: Console, *, started: bool
) -> list[PatchResult]:
    """Train to the end, and show how it goes; returns what the last step measured, nothing where it did not measure.

    A terminal shows the loss of each patch size and the time left. Each measurement on the clips is a line of its own.
    ``started`` is whether the run began from a model.
    """
    losses: dict[str, float] = {}
    results: list[PatchResult] = []
    columns = (
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
    )
    first_step, began = trainer.step, time.monotonic()
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=trainer.total, completed=trainer.step)
        for step in steps:
            size = str(step.patch)
            if math.isnan(step.loss):  # the start, or where a run was stopped, measured before it learns
                results = step.results or []
                _print_measurement(step, results, "", trainer.spec, clips, console)
                began = time.monotonic()
                continue
            losses[size] = LOSS_DECAY * losses.get(size, step.loss) + (1 - LOSS_DECAY) * step.loss
            listed = "  ".join(
                f"{patch} {losses[patch]:.2f}" for patch in sorted(losses, key=lambda p: int(p.split("x")[0]))
            )
            bar.update(task, completed=step.number, description=f"[dim]loss[/] {listed}")
            results = step.results or []
            if results:
                left_s = (time.monotonic() - began) / (step.number - first_step) * (step.total - step.number)
                _print_measurement(step, results, listed, trainer.spec, clips, console, left_s=left_s)
                if step.number == step.total:
                    _warn_repeated_answer(results, console, started=started)
    return results


def _print_measurement(
    step: Progress,
    results: list[PatchResult],
    losses: str,
    spec: Spec,
    clips: int,
    console: Console,
    *,
    left_s: float = 0.0,
) -> None:
    by_size = "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in results)
    mean = sum(result.metric for result in results) / len(results)
    specificities = [result.specificity for result in results if result.specificity is not None]
    background = f"  background right {sum(specificities) / len(specificities):.4f}" if specificities else ""
    title = (
        f"step {step.number}/{step.total}" if step.number else "before training, with a linear head on the frozen start"
    )
    left = f"  about {math.ceil(left_s / 60)} min left" if left_s else ""
    # One line each, however wide: a log is searched by line.
    console.print(f"{title}{left}  mean {format_mean(mean, spec, clips)}{background}  {by_size}", soft_wrap=True)
    if losses:
        console.print(f"  [dim]loss {losses}[/]", soft_wrap=True)


def _warn_repeated_answer(results: Sequence[PatchResult], console: Console, *, started: bool) -> None:
    always = {result.repeated_answer for result in results}
    if len(always) == 1 and (label := always.pop()) is not None:
        console.print(
            f"Every size answers {label!r} to nearly every validation clip: nothing else was learnt. Record more of "
            f"the others, train longer, or start from {'another' if started else 'a'} model (--init)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def format_mean(value: float, spec: Spec, clips: int) -> str:
    """A mean over sizes, with the 95 % interval that so few clips leave open: ``0.93 (8 clips: 0.57 to 0.99)``."""
    of = count_noun(clips, "clip")
    if spec.task == "multi":
        return f"{value:.4f} ({of})"
    low, high = wilson_interval(value, clips)
    digits = 2 if clips < 200 else 4
    return f"{value:.{digits}f} ({of}: {low:.2f} to {high:.2f})"


def describe_chance(results: Sequence[PatchResult], spec: Spec, targets: NDArray[np.float32]) -> str | None:
    """How a run is at chance, if it is: no better, by one standard error, than always giving the commonest label.

    ``targets`` [clips, labels] are those of the validation clips. None for clips with several labels: mAP has no such
    baseline.
    """
    if spec.task == "multi" or not results:
        return None
    shares = targets.mean(axis=0)
    commonest, chance = int(shares.argmax()), float(shares.max())
    accuracy = sum(result.metric for result in results) / len(results)
    if accuracy > chance + math.sqrt(chance * (1 - chance) / len(targets)):
        return None
    return (
        f"The model is at chance: its mean accuracy is {accuracy:.2f}, and always answering "
        f"{spec.labels[commonest]!r} would be right for {chance:.2f} of the validation clips"
    )
