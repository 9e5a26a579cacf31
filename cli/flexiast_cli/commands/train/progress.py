"""The progress of a run, on a terminal and in a log, and whether it learnt anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
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


def follow(trainer: Trainer, steps: Iterable[Progress], clips: int, console: Console) -> list[PatchResult]:
    """Train to the end, and show how it goes; returns what the last step measured, nothing where it did not measure.

    A terminal shows the loss of each patch size and the time left. Each measurement on the clips is a line of its own.
    """
    losses: dict[str, float] = {}
    results: list[PatchResult] = []
    columns = (
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
    )
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=trainer.total, completed=trainer.step)
        for step in steps:
            size = str(step.patch)
            if step.number == 0:  # the start, measured before it learns
                _print_measurement(step, step.results or [], "", trainer.spec, clips, console)
                continue
            losses[size] = LOSS_DECAY * losses.get(size, step.loss) + (1 - LOSS_DECAY) * step.loss
            listed = "  ".join(
                f"{patch} {losses[patch]:.2f}" for patch in sorted(losses, key=lambda p: int(p.split("x")[0]))
            )
            bar.update(task, completed=step.number, description=f"[dim]loss[/] {listed}")
            results = step.results or []
            if results:
                _print_measurement(step, results, listed, trainer.spec, clips, console)
    return results


def _print_measurement(
    step: Progress, results: list[PatchResult], losses: str, spec: Spec, clips: int, console: Console
) -> None:
    by_size = "  ".join(f"{result.patch_size} {result.metric:.3f}" for result in results)
    mean = sum(result.metric for result in results) / len(results)
    specificities = [result.specificity for result in results if result.specificity is not None]
    background = f"  background right {sum(specificities) / len(specificities):.4f}" if specificities else ""
    title = f"step {step.number}/{step.total}" if step.number else "linear head on the frozen start"
    console.print(f"{title}  mean {format_mean(mean, spec, clips)}{background}  {by_size}")
    if losses:
        console.print(f"  [dim]loss {losses}[/]")
    always = {result.repeated_answer for result in results}
    if len(always) == 1 and (label := always.pop()) is not None and step.number == step.total:
        console.print(
            f"Every size answers {label!r} to nearly every validation clip: nothing else was learnt. Record more of "
            "the others, train longer, start from a model (--init), or set balanced = true in a recipe",
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
